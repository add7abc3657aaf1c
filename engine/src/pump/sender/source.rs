#![forbid(unsafe_code)]
//! A local descriptor that is read and sent.

use std::io;
use std::os::fd::OwnedFd;

use crate::localfd::{Direction, LocalFd};

/// A descriptor that is read and sent.
#[derive(Debug)]
pub(in super::super) struct Source {
    fd: Option<LocalFd>,
    /// Poll said so, or nothing has said otherwise yet.
    ready: bool,
    /// There is input, but for whoever is in front of the terminal: it is looked at again after a while.
    for_others: bool,
    shut: bool,
}

impl Source {
    /// `None` is a source that has already ended.
    pub(in super::super) fn new(fd: Option<OwnedFd>, shut: bool) -> io::Result<Source> {
        let fd = fd.map(|fd| LocalFd::adopt(fd, Direction::In)).transpose()?;
        let ready = fd.as_ref().is_some_and(LocalFd::may_try_reading);
        Ok(Source { fd, ready, for_others: false, shut })
    }

    /// The descriptor, if a read is worth trying.
    pub(super) fn readable(&self) -> Option<&LocalFd> {
        self.fd.as_ref().filter(|_| self.ready)
    }

    pub(super) fn is_open(&self) -> bool {
        self.fd.is_some()
    }

    pub(super) fn set_ready(&mut self, ready: bool) {
        self.for_others = ready && self.fd.as_ref().is_some_and(LocalFd::is_in_background);
        self.ready = ready && !self.for_others;
    }

    /// Has the next turn read, if that never waits.
    pub(super) fn try_now(&mut self) {
        self.ready |= self.fd.as_ref().is_some_and(LocalFd::may_try_reading);
    }

    /// Whether its input is for others. No event tells when that changes, so it is worth a look after a while.
    pub(super) fn is_for_others(&self) -> bool {
        self.for_others
    }

    /// Has the next sleep wait for input again.
    pub(super) fn look_again(&mut self) {
        self.for_others = false;
    }

    /// After a successful read of fewer bytes than asked for (`short`), or of as many.
    pub(super) fn after_read(&mut self, short: bool) {
        self.ready =
            self.fd.as_ref().is_some_and(|fd| fd.is_always_ready() || (!short && fd.may_try_reading()));
    }

    /// Appends what can be read without waiting to `bytes`, up to about `limit`.
    pub(super) fn take_rest(&self, bytes: &mut Vec<u8>, limit: usize) {
        let mut buffer = [0u8; 4096];
        while bytes.len() < limit
            && let Some(Ok(n @ 1..)) =
                self.fd.as_ref().filter(|fd| fd.may_try_reading()).map(|fd| fd.read(&mut buffer))
        {
            bytes.extend_from_slice(buffer.get(..n).unwrap_or_default());
        }
    }

    /// The descriptor to sleep on.
    pub(super) fn pollable(&self) -> Option<&LocalFd> {
        self.fd.as_ref().filter(|fd| !fd.is_always_ready() && !self.for_others)
    }

    pub(super) fn close(&mut self) {
        if let Some(fd) = self.fd.take() {
            fd.finish(Direction::In, self.shut);
        }
    }
}
