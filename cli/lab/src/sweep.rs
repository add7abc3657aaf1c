//! Finds and ends the processes of a lab through `/proc`.
//!
//! Two nets: the marker in the environment, and descent from the calling process (which, as a subreaper, inherits every
//! orphan below it). A process would have to slip through both to survive a lab.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, getpid, pidfd_open, pidfd_send_signal, wait};

use super::plan::{MARKER, MARKER_VM, base_name};

/// How long a killed process may take to disappear before the sweep looks again.
const GONE_WITHIN: Duration = Duration::from_secs(1);

/// A process that belongs to a lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number, as the caller's `/proc` shows it.
    pub pid: i32,
    /// The last component of its argv\[0\].
    pub program: String,
    /// Its arguments, program first.
    pub args: Vec<OsString>,
    /// The machine that it belongs to.
    pub vm: String,
}

/// All processes of the lab with this token that still run.
pub fn processes(token: &str) -> Vec<Process> {
    numbers().into_iter().filter_map(|pid| marked(pid, token)).collect()
}

/// Ends every process of the lab with this token; returns when none is left.
pub fn kill_marked(token: &str) {
    loop {
        let killed: Vec<OwnedFd> =
            processes(token).iter().filter_map(|p| kill(p.pid, |pid| marked(pid, token).is_some())).collect();
        if killed.is_empty() {
            return;
        }
        await_gone(&killed);
    }
}

/// Ends every descendant of this process and reaps what became its child; returns when it has no child left.
///
/// Complete only in a subreaper or in process 1 of a namespace.
pub(super) fn kill_descendants() {
    loop {
        for (pid, start) in descendants() {
            kill(pid, |pid| stat(pid).is_some_and(|stat| stat.start == start));
        }
        match wait(WaitOptions::empty()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Kills `pid` through a descriptor, after `is_it` confirmed that the number still means the same process.
fn kill(pid: i32, is_it: impl Fn(i32) -> bool) -> Option<OwnedFd> {
    let handle = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    if !is_it(pid) {
        return None;
    }
    pidfd_send_signal(&handle, Signal::KILL).ok()?;
    Some(handle)
}

/// Waits until each of these processes has ended, a second at most for each.
fn await_gone(handles: &[OwnedFd]) {
    let timeout = Timespec { tv_sec: GONE_WITHIN.as_secs() as i64, tv_nsec: 0 };
    for handle in handles {
        let mut fds = [PollFd::new(handle, PollFlags::IN)];
        while poll(&mut fds, Some(&timeout)) == Err(rustix::io::Errno::INTR) {}
    }
}

fn numbers() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// The process if its environment carries the token. A zombie has no environment and is never marked.
fn marked(pid: i32, token: &str) -> Option<Process> {
    let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = |name: &str| {
        environ.split(|b| *b == 0).find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    };
    if value(MARKER)? != token.as_bytes() {
        return None;
    }
    let vm = String::from_utf8_lossy(value(MARKER_VM).unwrap_or_default()).into_owned();
    let args = arguments(pid)?;
    let program = args.first().map(|arg| base_name(arg).to_string_lossy().into_owned()).unwrap_or_default();
    Some(Process { pid, program, args, vm })
}

fn arguments(pid: i32) -> Option<Vec<OsString>> {
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut args: Vec<OsString> =
        cmdline.split(|b| *b == 0).map(|arg| OsString::from_vec(arg.to_vec())).collect();
    args.pop(); // what follows the last NUL
    Some(args)
}

/// Number and arguments of every process of this user.
pub(super) fn arguments_of_all(uid: u32) -> Vec<(i32, Vec<OsString>)> {
    let own = |pid: &i32| fs::metadata(format!("/proc/{pid}")).is_ok_and(|meta| meta.uid() == uid);
    numbers().into_iter().filter(own).filter_map(|pid| Some((pid, arguments(pid)?))).collect()
}

struct Stat {
    parent: i32,
    start: u64,
}

/// Parent and start time from `/proc/PID/stat`; the name in brackets may contain anything, so read after the last one.
fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    // proc(5): field 3 is the state, 4 the parent, 22 the start time; `fields` begins with field 3.
    Some(Stat { parent: fields.get(1)?.parse().ok()?, start: fields.get(19)?.parse().ok()? })
}

fn descendants() -> Vec<(i32, u64)> {
    let stats: HashMap<i32, Stat> = numbers().into_iter().filter_map(|pid| Some((pid, stat(pid)?))).collect();
    let mut family = HashSet::from([getpid().as_raw_nonzero().get()]);
    let mut found = Vec::new();
    loop {
        let before = found.len();
        for (pid, stat) in &stats {
            if family.contains(&stat.parent) && family.insert(*pid) {
                found.push((*pid, stat.start));
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn finds_and_kills_what_is_marked_even_in_a_session_of_its_own() {
        let token = format!("sweep-test-{}", std::process::id());
        let mut child = Command::new("setsid")
            .args(["--wait", "sh", "-c", "sleep 1000 & echo up; wait"])
            .env(MARKER, &token)
            .env(MARKER_VM, "work")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line)
            .unwrap();
        assert_eq!(line, "up\n");
        let found = processes(&token);
        assert!(found.len() >= 2, "{found:?}");
        assert!(found.iter().all(|p| p.vm == "work"), "{found:?}");
        kill_marked(&token);
        assert!(processes(&token).is_empty());
        child.wait().unwrap();
    }

    #[test]
    fn reads_its_own_stat() {
        let own = stat(std::process::id() as i32).unwrap();
        assert_eq!(own.parent, std::os::unix::process::parent_id() as i32);
        assert!(own.start > 0);
    }

    #[test]
    fn knows_its_children() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id() as i32;
        assert!(descendants().iter().any(|(found, _)| *found == pid));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
