#![forbid(unsafe_code)]
//! Whether a child still runs, after it has been handed to somebody else who waits for it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Child;

/// Sees the end of a child and changes nothing about it.
#[derive(Debug)]
pub struct Witness(OwnedFd);

impl Witness {
    /// A witness of this child.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn of(child: &Child) -> io::Result<Self> {
        child.as_fd().try_clone_to_owned().map(Self)
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&at_once)).is_ok_and(|ready| ready > 0)
    }

    /// Waits until it has ended, however long that takes.
    pub fn await_end(&self) {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        while let Err(rustix::io::Errno::INTR) = poll(&mut fds, None) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_end_is_seen_whether_or_not_it_was_waited_for() {
        let mut cat = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let stdin = cat.stdin.take();
        let mut child = Child::try_from(cat).unwrap();
        let witness = Witness::of(&child).unwrap();
        let seen = std::thread::spawn(move || {
            witness.await_end();
            witness
        });
        assert!(child.try_wait().unwrap().is_none() && !seen.is_finished());
        assert!(!Witness::of(&child).unwrap().has_ended());
        drop(stdin);
        let witness = seen.join().unwrap();
        assert_eq!(child.wait().unwrap(), 0);
        witness.await_end();
        assert!(witness.has_ended());
    }
}
