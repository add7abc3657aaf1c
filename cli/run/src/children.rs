//! The processes of calls: started, waited for all at once, told to end when we are.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use engine::process::{Child, Signals, begin_unblocked};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

/// What ends a program that people type.
const ENDINGS: [Signal; 3] = [Signal::HUP, Signal::INT, Signal::TERM];

/// Folders with the programs that make calls, besides those of the search path.
const FOLDERS: [&str; 3] = ["/usr/bin", "/usr/lib/qubes", "/usr/local/bin"];

/// The program of this name that a shell would find, or where Qubes has it.
pub fn find(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(FOLDERS.map(PathBuf::from));
    let executable =
        |path: &PathBuf| path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    folders
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(executable)
        .unwrap_or_else(|| Path::new("/usr/bin").join(name))
}

/// Several processes, and the signals that would end us.
#[derive(Debug)]
pub struct Children {
    signals: Signals,
    running: Vec<(usize, Child)>,
    ended: Vec<(usize, i32)>,
    /// The signal that told us to end.
    told: Option<i32>,
}

impl Children {
    /// None yet. From now on we are ended by ending them.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { signals: Signals::block(&ENDINGS)?, running: Vec::new(), ended: Vec::new(), told: None })
    }

    /// Starts one that counts for `whose`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&mut self, whose: usize, command: &mut Command) -> io::Result<()> {
        begin_unblocked(command);
        let child = command.spawn()?;
        self.running.push((whose, Child::try_from(child)?));
        Ok(())
    }

    /// Notes that something of `whose` ended so without having run.
    pub fn note(&mut self, whose: usize, status: i32) {
        self.ended.push((whose, status));
    }

    /// Waits until all have ended, at most so long. Those that are left then are told to end.
    ///
    /// # Errors
    /// The system failed.
    pub fn wait(&mut self, limit: Option<Duration>) -> io::Result<bool> {
        let began = Instant::now();
        let mut in_time = true;
        while !self.running.is_empty() {
            let left = limit.filter(|_| in_time).map(|limit| limit.saturating_sub(began.elapsed()));
            self.sleep(left)?;
            while let Some((number, by_kernel)) = self.signals.take_next_from()? {
                self.tell(number, by_kernel);
            }
            self.reap()?;
            if in_time && left.is_some() && limit.is_some_and(|limit| began.elapsed() >= limit) {
                in_time = self.running.is_empty();
                self.running.iter().for_each(|(_, child)| drop(child.signal(Signal::KILL)));
            }
        }
        Ok(in_time)
    }

    /// Waits until one of these can be read; `false` if we are told to end before that.
    ///
    /// # Errors
    /// The system failed.
    pub fn wait_for(&mut self, fds: &[BorrowedFd<'_>]) -> io::Result<bool> {
        loop {
            let fds = std::iter::once(self.signals.as_fd()).chain(fds.iter().copied());
            let mut polled: Vec<_> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
            match poll(&mut polled, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let ready = polled.iter().skip(1).any(|fd| !fd.revents().is_empty());
            while let Some((number, by_kernel)) = self.signals.take_next_from()? {
                self.tell(number, by_kernel);
            }
            if self.told.is_some() || ready {
                return Ok(self.told.is_none());
            }
        }
    }

    fn sleep(&self, left: Option<Duration>) -> io::Result<()> {
        let fds: Vec<BorrowedFd<'_>> = std::iter::once(self.signals.as_fd())
            .chain(self.running.iter().map(|(_, c)| c.as_fd()))
            .collect();
        let mut polled: Vec<_> = fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        let left = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        });
        match poll(&mut polled, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Passes a signal on. A key of the terminal has sent it to every process already.
    fn tell(&mut self, number: i32, by_kernel: bool) {
        self.told.get_or_insert(number);
        if by_kernel {
            return;
        }
        let signal = ENDINGS.iter().find(|signal| signal.as_raw() == number);
        for (_, child) in &self.running {
            signal.into_iter().for_each(|signal| drop(child.signal(*signal)));
        }
    }

    fn reap(&mut self) -> io::Result<()> {
        let mut left = Vec::new();
        for (whose, mut child) in std::mem::take(&mut self.running) {
            match child.try_wait()? {
                Some(status) => self.ended.push((whose, status)),
                None => left.push((whose, child)),
            }
        }
        self.running = left;
        Ok(())
    }

    /// The largest status of those that counted for `whose`.
    pub fn status(&self, whose: usize) -> Option<i32> {
        self.ended.iter().filter(|(other, _)| *other == whose).map(|(_, status)| *status).max()
    }

    /// 128 and the number of the signal that told us to end, if one did.
    pub fn told(&self) -> Option<i32> {
        self.told.map(|number| number.saturating_add(128))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(text: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", text]);
        command
    }

    #[test]
    fn a_status_is_the_largest_and_a_signal_never_zero() {
        let mut children = Children::new().unwrap();
        children.start(0, &mut shell("exit 3")).unwrap();
        children.start(0, &mut shell("exit 0")).unwrap();
        children.start(1, &mut shell("kill -9 $$")).unwrap();
        assert!(children.wait(None).unwrap());
        assert_eq!([0, 1, 2].map(|whose| children.status(whose)), [Some(3), Some(137), None]);
        assert_eq!(children.told(), None);
    }

    #[test]
    fn who_takes_too_long_is_ended() {
        let mut children = Children::new().unwrap();
        children.start(0, &mut shell("exec sleep 1000")).unwrap();
        assert!(!children.wait(Some(Duration::from_millis(10))).unwrap());
        assert_eq!(children.status(0), Some(137));
    }

    #[test]
    fn programs_are_found_in_the_search_path() {
        assert!(find("sh").is_absolute() && find("sh").exists());
        assert_eq!(find("no-such-program-of-ours"), Path::new("/usr/bin/no-such-program-of-ours"));
    }
}
