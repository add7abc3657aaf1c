#![forbid(unsafe_code)]
//! Waiting for a descriptor, no longer than until a point in time.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::error::Error;

/// When waiting ends.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    start: Instant,
    limit: Duration,
}

impl Deadline {
    pub(super) fn after(limit: Duration) -> Deadline {
        Deadline { start: Instant::now(), limit }
    }

    /// What remains, an hour at most (so that any limit, "for ever" too, fits a system call).
    pub(super) fn left(self) -> Result<Duration, Error> {
        match self.limit.checked_sub(self.start.elapsed()) {
            Some(left) if !left.is_zero() => Ok(left.min(Duration::from_secs(3600))),
            _ => Err(Error::Timeout(self.limit)),
        }
    }
}

/// Sleeps until `fd` is readable, `retry` has passed, or fails once `deadline` has.
pub(super) fn sleep_on(fd: BorrowedFd<'_>, deadline: Deadline, retry: Option<Duration>) -> Result<(), Error> {
    let left = deadline.left()?;
    let wait = retry.map_or(left, |r| r.min(left));
    let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
    match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(Error::io("waiting for the vchan peer")(error.into())),
    }
}
