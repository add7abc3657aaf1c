#![forbid(unsafe_code)]
//! Moving next to the process at the other end of a local pipe or socket.
//!
//! A pipe between two cores moves a third of what it moves on one: each of its pages is allocated on one core and
//! freed on the other, and each wake-up may have to wake an idle core. A ring between two cores has neither cost. So
//! of the three hops of a call, source → pump → pump → sink, the middle one should go from core to core and the outer
//! ones should not. But a scheduler that sees an idle core sends each woken process there, and processes that start on
//! different cores stay there.
//!
//! So a pump that moves much looks from time to time where its neighbour ran last, and moves there. This is only a
//! hint: the allowed processors are the same before and after, and the scheduler may move it away again. The neighbour
//! itself is not touched.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

/// Most processes and descriptors that are looked at: a parent usually has few.
const KIN: usize = 16;
const FDS: usize = 24;

/// Longest line of `/proc/PID/stat`: fifty numbers and a name.
const LINE: usize = 1024;

/// A process at the other end of a descriptor of this process. It may have ended, and its number may be another
/// process's by now: then the hint is of no use, and nothing worse happens.
#[derive(Debug)]
pub struct Neighbour {
    /// Opened in advance, since a confined process can open nothing.
    stat: File,
    /// How long it had run at the last look.
    ran: u64,
}

/// The values of `/proc/PID/stat` that matter here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stat {
    /// For how many clock ticks it has run.
    ran: u64,
    /// The processor on which it ran last.
    cpu: usize,
}

impl Neighbour {
    /// The process with this number.
    #[must_use]
    pub fn process(pid: u32) -> Option<Neighbour> {
        Some(Neighbour { stat: File::open(format!("/proc/{pid}/stat")).ok()?, ran: 0 })
    }

    /// The busiest of the processes that hold the same pipe as `pipe`: the parent of this process, or another child of
    /// it, in a pipeline for example. `None` if it is not a pipe, or `/proc` does not tell.
    #[must_use]
    pub fn at_pipe(pipe: impl AsFd) -> Option<Neighbour> {
        let own = fs::read_link(format!("/proc/self/fd/{}", pipe.as_fd().as_raw_fd())).ok()?;
        if !own.to_str()?.starts_with("pipe:[") {
            return None;
        }
        let is_it = |path: String| fs::read_link(path).is_ok_and(|link| link == own);
        let parent = rustix::process::getppid()?.as_raw_nonzero().get().unsigned_abs();
        let children =
            fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        let others = children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
        let kin = others.filter(|pid| *pid != std::process::id()).take(KIN);
        let in_pipeline = kin.filter(|pid| (0..=1).any(|fd| is_it(format!("/proc/{pid}/fd/{fd}"))));
        let fds = fs::read_dir(format!("/proc/{parent}/fd")).into_iter().flatten().take(FDS);
        let of_parent = fds.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|link| link == own));
        busiest(of_parent.then_some(parent).into_iter().chain(in_pipeline))
    }

    /// Moves this thread to the processor where the neighbour ran last, if the neighbour has run since the last look.
    /// `Ok(true)`: the thread was on another one before.
    ///
    /// # Errors
    /// What reading `/proc` or the scheduler said: the neighbour has ended, or may not be looked at.
    pub fn join(&mut self) -> io::Result<bool> {
        let Stat { ran, cpu: there } = self.look()?;
        let has_run = std::mem::replace(&mut self.ran, ran) != ran;
        if !has_run || sched_getcpu() == there {
            return Ok(false);
        }
        let allowed = sched_getaffinity(None)?;
        if there >= CpuSet::MAX_CPU || !allowed.is_set(there) {
            return Ok(false);
        }
        let mut one = CpuSet::new();
        one.set(there);
        sched_setaffinity(None, &one)?;
        sched_setaffinity(None, &allowed)?;
        Ok(true)
    }

    fn look(&self) -> io::Result<Stat> {
        let mut line = [0; LINE];
        let length = self.stat.read_at(&mut line, 0)?;
        parse_stat(line.get(..length).unwrap_or_default()).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

fn busiest(pids: impl Iterator<Item = u32>) -> Option<Neighbour> {
    let neighbours = pids.filter_map(|pid| {
        let neighbour = Neighbour::process(pid)?;
        Some((neighbour.look().ok()?.ran, neighbour))
    });
    neighbours.max_by_key(|(ran, _)| *ran).map(|(_, neighbour)| neighbour)
}

/// Fields 14, 15 and 39 of proc_pid_stat(5). The second, the name, may hold blanks and brackets of its own.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    let name_ends = text.iter().rposition(|byte| *byte == b')')?;
    let mut fields = std::str::from_utf8(text.get(name_ends + 1..)?).ok()?.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Stat { ran: user.saturating_add(system), cpu: fields.nth(23)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    #[test]
    fn a_name_may_look_like_fields() {
        let text = b"7 (a) R 9 (b) S 1 2 3 4 5 6 7 8 9 10 150 25 0 0 20 0 1 0 99 1 2 18 0 0 0 0 0 0 0 0 0 0 0 0 17 3 0 0\n";
        assert_eq!(parse_stat(text), Some(Stat { ran: 175, cpu: 3 }));
        assert_eq!(parse_stat(b"7 (a) S 1 2"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn the_holder_of_a_pipe_is_found_and_joined() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut neighbour = Neighbour::process(child.id()).expect("cat runs");
        let before = sched_getaffinity(None).unwrap();
        neighbour.join().unwrap();
        assert!(sched_getaffinity(None).unwrap() == before, "the allowed processors are the same");
        assert!(!neighbour.join().unwrap(), "it has not run meanwhile");

        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(neighbour.join().is_err(), "it is gone");
    }

    /// The shell is a child of this process, so that this test is its neighbour's searcher and finds the shell's other
    /// child.
    #[test]
    fn whoever_is_in_the_same_pipeline_is_found() {
        if std::env::var_os("QREXEC_TEST_PIPELINE").is_some() {
            let neighbour = Neighbour::at_pipe(std::io::stdin());
            return assert!(neighbour.is_some_and(|found| found.look().is_ok()));
        }
        let program = std::env::current_exe().unwrap();
        let test = "process::placement::tests::whoever_is_in_the_same_pipeline_is_found";
        let line = format!("cat | {{ '{}' --exact {test}; echo \"ended $?\"; }}", program.display());
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &line])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .env("QREXEC_TEST_PIPELINE", "1");
        let mut child = shell.spawn().unwrap();
        // `cat` runs as long as this end of its pipe is open.
        let held = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ended = lines.map_while(Result::ok).find(|line| line.starts_with("ended "));
        assert_eq!(ended.as_deref(), Some("ended 0"));
        drop(held);
        child.wait().unwrap();
    }

    #[test]
    fn what_is_no_pipe_has_no_neighbour() {
        let file = tempfile::tempfile().unwrap();
        assert!(Neighbour::at_pipe(&file).is_none());
    }
}
