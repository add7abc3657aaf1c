#![forbid(unsafe_code)]
//! A service may ask for one socket, its stdin, to carry both directions: it then hands that socket to
//! somebody who knows nothing of streams, such as the kernel's USB over IP.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::process::Signals;

/// Most that is taken over from the old stdout: more than its socket can hold.
pub(super) const REST: usize = 4 << 20;

/// What is needed to do as asked, until it was.
#[derive(Debug)]
pub(in super::super) struct OneSocket {
    signals: Signals,
    /// The service's stdin, even if nothing is written to it any more. Taken when it was asked for.
    socket: Option<OwnedFd>,
}

impl OneSocket {
    /// `None` if nobody can ask.
    pub(in super::super) fn new(
        signals: Option<Signals>,
        stdin: Option<&OwnedFd>,
    ) -> io::Result<Option<OneSocket>> {
        let (Some(signals), Some(stdin)) = (signals, stdin) else { return Ok(None) };
        Ok(Some(OneSocket { signals, socket: Some(stdin.try_clone()?) }))
    }

    /// The descriptor to sleep on. It is asked for once; what comes later is ignored.
    pub(super) fn pollable(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(|_| self.signals.as_fd())
    }

    /// The socket, if it has been asked for now.
    pub(super) fn take(&mut self) -> io::Result<Option<OwnedFd>> {
        if self.socket.is_none() || self.signals.take_next()?.is_none() {
            return Ok(None);
        }
        Ok(self.socket.take())
    }
}
