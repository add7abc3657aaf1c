#![forbid(unsafe_code)]
//! A service may ask for one socket, its stdin, to carry both directions. It then hands that socket to a recipient
//! that cannot use two streams, such as the kernel's USB over IP.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::super::ending::{Ending, Failure};
use super::{Sender, Source};
use crate::process::Signals;

/// Most bytes that are taken from the old stdout: more than its socket can hold.
const REST: usize = 4 << 20;

/// What is needed to fulfil the request, until it came.
#[derive(Debug)]
pub(in super::super) struct OneSocket {
    signals: Signals,
    /// The service's stdin, even if nothing is written to it any more. Taken out when the request came.
    socket: Option<OwnedFd>,
}

impl OneSocket {
    /// `None` if there is nobody to ask.
    pub(in super::super) fn new(
        signals: Option<Signals>,
        stdin: Option<&OwnedFd>,
    ) -> io::Result<Option<OneSocket>> {
        let (Some(signals), Some(stdin)) = (signals, stdin) else { return Ok(None) };
        Ok(Some(OneSocket { signals, socket: Some(stdin.try_clone()?) }))
    }

    /// The descriptor to sleep on, until the request came; later requests are ignored.
    pub(super) fn pollable(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(|_| self.signals.as_fd())
    }

    /// Whether the request came.
    const fn was_taken(&self) -> bool {
        self.socket.is_none()
    }

    /// The socket, if the request has come now.
    pub(super) fn take(&mut self) -> io::Result<Option<OwnedFd>> {
        if self.socket.is_none() || self.signals.take_next()?.is_none() {
            return Ok(None);
        }
        Ok(self.socket.take())
    }
}

impl Sender {
    /// Whether the service may have handed both directions to something that no process stands for, such as the
    /// kernel.
    pub(in super::super) fn has_gone_over(&self) -> bool {
        self.one_socket.as_ref().is_some_and(OneSocket::was_taken)
    }

    /// Changes to one socket if the service has asked for it. Returns whether it has.
    pub(super) fn look_for_request(&mut self) -> Result<bool, Ending> {
        let Some(one_socket) = &mut self.one_socket else { return Ok(false) };
        let taken = one_socket.take().map_err(Failure::during("looking for signals"))?;
        let Some(socket) = taken.filter(|_| !self.is_cut && self.outgoing.is_open(self.role.sends())) else {
            return Ok(false);
        };
        let rest = self.go_on_with(socket).map_err(Failure::during("taking the service's one socket"))?;
        self.admit(rest);
        Ok(true)
    }

    /// The service's one socket becomes the source. Returns what the service wrote before its request, which is sent
    /// first.
    fn go_on_with(&mut self, socket: OwnedFd) -> io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.source.take_rest(&mut rest, REST.saturating_sub(self.prefix.len()));
        self.source.close();
        self.source = Source::new(Some(socket), true)?;
        Ok(rest)
    }
}
