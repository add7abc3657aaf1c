#![forbid(unsafe_code)]
//! A local descriptor from which the bytes to be sent are read.

use std::io;
use std::os::fd::OwnedFd;

use crate::localfd::{Direction, LocalFd, held};

/// A descriptor that is read.
#[derive(Debug)]
pub(in super::super) struct Source {
    fd: Option<LocalFd>,
    /// Poll said so, or no read has failed yet.
    ready: bool,
    /// There is input, but for the program in the foreground of the terminal: look again after a while.
    for_others: bool,
    /// Bytes that could be read when the local process had ended, and were not read yet.
    last_words: usize,
    shut: bool,
}

impl Source {
    /// `None` is a source that has already ended.
    pub(in super::super) fn new(fd: Option<OwnedFd>, shut: bool) -> io::Result<Source> {
        let fd = fd.map(|fd| LocalFd::adopt(fd, Direction::In)).transpose()?;
        let ready = fd.as_ref().is_some_and(LocalFd::may_try_reading);
        Ok(Source { fd, ready, for_others: false, last_words: 0, shut })
    }

    /// The descriptor, if a read should be tried.
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

    /// The local process has ended: the bytes that are there are its last ones, and the next turn reads, if a read
    /// never waits.
    pub(super) fn has_ended_behind(&mut self) {
        self.ready |= self.fd.as_ref().is_some_and(LocalFd::may_try_reading);
        self.last_words = self.fd.as_ref().map_or(0, held);
    }

    /// Whether its last bytes can be read now.
    pub(super) fn has_last_words(&self) -> bool {
        self.last_words > 0 && self.readable().is_some()
    }

    /// Whether its input is for other programs. No event tells when that changes, so it is to be looked at after a
    /// while.
    pub(super) fn is_for_others(&self) -> bool {
        self.for_others
    }

    /// Has the next sleep wait for input again.
    pub(super) fn look_again(&mut self) {
        self.for_others = false;
    }

    /// Notes a successful read of `n` bytes: fewer than were asked for (`short`), or as many.
    pub(super) fn after_read(&mut self, n: usize, short: bool) {
        self.last_words = self.last_words.saturating_sub(n);
        self.ready =
            self.fd.as_ref().is_some_and(|fd| fd.is_always_ready() || (!short && fd.may_try_reading()));
    }

    /// Appends to `bytes` what can be read without waiting, up to about `limit`.
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
