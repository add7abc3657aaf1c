#![forbid(unsafe_code)]
//! Moving next to the process at the other end of a local pipe or socket.
//!
//! A pipe between two cores moves a third of what it moves on one: each of its pages is allocated on one core
//! and freed on the other, and each wake-up may be that of an idle core. A ring between two cores has neither
//! cost. So of the three hops of a call, source → pump → pump → sink, the middle one should cross cores and the
//! outer ones should not; but a scheduler that sees an idle core sends each woken process there, and where
//! processes start apart they stay apart.
//!
//! A pump that moves much therefore looks from time to time where its neighbour ran last, and goes there.
//! It is a hint and not a bond: the allowed processors are the same before and after, and a scheduler that
//! knows better moves it away again. Nothing is ever done to the neighbour, nor is anything told to anybody.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

/// Processes of a service that are looked at, at most: a service with more is not one program's pipe.
const TREE: usize = 64;

/// A process that works at the other end of a descriptor of ours. It may have ended, or its number may mean
/// another one by now: the worst that comes of it is a hint that does not help.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbour {
    pid: u32,
}

/// What `/proc/PID/stat` says that matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stat {
    /// Clock ticks it has run.
    ran: u64,
    /// Where it ran last.
    cpu: usize,
}

impl Neighbour {
    /// The busiest process of `root` and its descendants: a service that is a script does its work in a child.
    #[must_use]
    pub fn in_tree(root: u32) -> Option<Neighbour> {
        let mut pids = vec![root];
        let mut next = 0;
        while let Some(pid) = pids.get(next).filter(|_| pids.len() < TREE) {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            pids.extend(children.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            next += 1;
        }
        busiest(pids.into_iter())
    }

    /// The busiest of this user's processes that hold the same pipe as `pipe`, not counting this one.
    ///
    /// Costs a look at every descriptor of every process that may be looked at, a millisecond or two: for
    /// calls that move much, once. `None` for what is not a pipe, and where `/proc` does not tell.
    #[must_use]
    pub fn at_pipe(pipe: impl AsFd) -> Option<Neighbour> {
        let own = fs::read_link(format!("/proc/self/fd/{}", pipe.as_fd().as_raw_fd())).ok()?;
        if !own.to_str()?.starts_with("pipe:[") {
            return None;
        }
        let pids =
            fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let holds_it = |pid: &u32| {
            let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
            fds.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok()).any(|link| link == own)
        };
        busiest(pids.filter(|pid| *pid != std::process::id()).filter(holds_it))
    }

    /// Moves this thread to where the neighbour ran last. `Ok(true)`: it was elsewhere before.
    ///
    /// # Errors
    /// What reading `/proc` or the scheduler said: the neighbour is gone, or may not be looked at.
    pub fn join(self) -> io::Result<bool> {
        let there = stat(self.pid)?.cpu;
        if sched_getcpu() == there {
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
}

fn busiest(pids: impl Iterator<Item = u32>) -> Option<Neighbour> {
    let ran = pids.filter_map(|pid| Some((stat(pid).ok()?.ran, pid)));
    ran.max().map(|(_, pid)| Neighbour { pid })
}

fn stat(pid: u32) -> io::Result<Stat> {
    let text = fs::read(format!("/proc/{pid}/stat"))?;
    parse_stat(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
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
        let mut cat = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let pipe = cat.stdin.take().unwrap();
        let neighbour = Neighbour::at_pipe(&pipe).expect("cat holds it");
        assert_eq!(neighbour, Neighbour { pid: cat.id() });
        assert_eq!(Neighbour::in_tree(cat.id()), Some(neighbour));
        assert!(Neighbour::in_tree(std::process::id()).is_some());

        let before = sched_getaffinity(None).unwrap();
        neighbour.join().unwrap();
        assert!(sched_getaffinity(None).unwrap() == before, "the allowed processors are the same");

        drop(pipe);
        cat.wait().unwrap();
        assert!(neighbour.join().is_err() || Neighbour::in_tree(cat.id()).is_some());
    }

    #[test]
    fn what_is_no_pipe_has_no_neighbour() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(Neighbour::at_pipe(&file), None);
    }
}
