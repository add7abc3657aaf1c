#![forbid(unsafe_code)]
//! The VM's memory balancing begins with its first call: `meminfo-writer` waits for a signal of the agent.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use engine::Installation;
use rustix::process::{Pid, Signal, kill_process};

/// The file with the process id of `meminfo-writer`.
const PID_FILE: &str = "/var/run/meminfo-writer.pid";

/// No process id is longer.
const MOST: u64 = 16;

/// Signals `meminfo-writer`, once.
#[derive(Debug)]
pub(crate) struct MeminfoWriter {
    file: PathBuf,
    woken: bool,
}

impl MeminfoWriter {
    /// The file that `QREXEC_MEMINFO_PID` names, or else that of this VM; a lab has none.
    pub(crate) fn from_env(installation: Installation) -> Option<Self> {
        let named = std::env::var_os("QREXEC_MEMINFO_PID").map(PathBuf::from);
        let file = named.or_else(|| (!installation.is_lab()).then(|| PID_FILE.into()))?;
        Some(Self { file, woken: false })
    }

    /// A call begins. If that program does not run yet, the next call tries again.
    pub(crate) fn call_begins(&mut self) {
        if !self.woken {
            self.woken = pid(&self.file).is_ok_and(|pid| kill_process(pid, Signal::USR1).is_ok());
        }
    }
}

/// The process that the file names. Only root writes the file, but it may be old: it never means this process, or
/// init.
fn pid(file: &Path) -> io::Result<Pid> {
    let mut text = String::new();
    File::open(file)?.take(MOST).read_to_string(&mut text)?;
    let number = text.trim().parse::<i32>().ok().filter(|number| *number > 1);
    let pid = number.and_then(Pid::from_raw).filter(|pid| *pid != rustix::process::getpid());
    pid.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_of_others_are_signalled() {
        let folder = tempfile::tempdir().expect("tempdir");
        let file = folder.path().join("pid");
        let read = |text: &str| {
            std::fs::write(&file, text).expect("write");
            pid(&file).ok().map(|pid| pid.as_raw_nonzero().get())
        };
        assert_eq!(read("4711\n"), Some(4711));
        for wrong in ["", "1\n", "0", "-4711", "x", "99999999999999999999", &std::process::id().to_string()] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert!(pid(&folder.path().join("none")).is_err());
    }
}
