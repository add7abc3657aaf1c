//! The screen, which shows one question at a time, so that none hides behind another.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use crate::policy_tools::reply::wait_readable;

/// The screen. A descriptor and not a lock, so that whoever waits for it sees as well that their caller goes.
#[derive(Debug)]
pub(super) struct Screen(File);

impl Screen {
    pub(super) fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK | EventfdFlags::SEMAPHORE;
        Ok(Self(File::from(eventfd(1, flags)?)))
    }

    /// The screen for one question, until what this gives is dropped.
    ///
    /// # Errors
    /// The other end of `caller` was closed.
    pub(super) fn wait_for(&self, caller: BorrowedFd<'_>) -> io::Result<Shown<'_>> {
        loop {
            wait_readable(&self.0, Some(caller), None)?;
            match rustix::io::read(&self.0, &mut [0_u8; 8]) {
                Ok(_) => return Ok(Shown(self)),
                // Somebody else was faster.
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The screen is somebody's.
#[derive(Debug)]
pub(super) struct Shown<'a>(&'a Screen);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        // It holds one at most, so there is always room for it.
        let _ = rustix::io::write(&self.0.0, &1_u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn one_at_a_time_and_nobody_whose_caller_is_gone() {
        let screen = Screen::new().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let shown = screen.wait_for(ours.as_fd()).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| screen.wait_for(ours.as_fd()).map(drop));
            drop(theirs);
            assert!(second.join().unwrap().is_err());
        });
        let (next, _caller) = UnixStream::pair().unwrap();
        std::thread::scope(|scope| {
            let third = scope.spawn(|| screen.wait_for(next.as_fd()).map(drop));
            drop(shown);
            third.join().unwrap().unwrap();
        });
    }
}
