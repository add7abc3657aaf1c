#![forbid(unsafe_code)]
//! A local descriptor to which arriving bytes are written.

use std::io;
use std::os::fd::OwnedFd;

use crate::localfd::{Direction, Left, LocalFd, held, is_gone};

/// How much stderr is kept for a reader that does not read, while stdout continues.
const SPILL: usize = 256 << 10;

#[derive(Debug)]
enum State {
    Open {
        fd: LocalFd,
        /// The last write took less than was offered: wait for poll.
        blocked: bool,
        /// The stream has ended; the descriptor is closed once the spill is written.
        ends: bool,
    },
    Closed {
        /// The descriptor was closed because its reader had gone.
        lost: bool,
        /// A pipe to which pages were lent: those that its reader has not taken are still lent.
        left: Option<Left>,
    },
}

/// A descriptor to which arriving bytes are written.
#[derive(Debug)]
pub(in super::super) struct Sink {
    state: State,
    shut: bool,
    /// Replace bytes that could control a terminal.
    pub(super) filter: bool,
    /// A pipe that gets ring pages instead of copies.
    lends: bool,
    /// Bytes that were taken out of the ring and are not written yet.
    spill: Vec<u8>,
    /// How much of `spill` is already written.
    spilt: usize,
}

impl Sink {
    /// `None` is a sink without a reader: bytes for it are discarded.
    pub(in super::super) fn new(fd: Option<OwnedFd>, shut: bool, filter: bool) -> io::Result<Sink> {
        let state = match fd.map(|fd| LocalFd::adopt(fd, Direction::Out)).transpose() {
            Err(error) if is_gone(&error) => State::Closed { lost: true, left: None },
            fd => match fd? {
                Some(fd) => State::Open { blocked: !fd.may_try(), fd, ends: false },
                None => State::Closed { lost: false, left: None },
            },
        };
        Ok(Sink { state, shut, filter, lends: false, spill: Vec::new(), spilt: 0 })
    }

    fn fd(&self) -> Option<&LocalFd> {
        match &self.state {
            State::Open { fd, .. } => Some(fd),
            State::Closed { .. } => None,
        }
    }

    /// The descriptor, if a write from the ring should be tried: the spill has nothing older.
    pub(super) fn writable(&self) -> Option<&LocalFd> {
        self.fd().filter(|_| !self.is_stuck())
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    pub(super) fn is_blocked(&self) -> bool {
        matches!(self.state, State::Open { blocked: true, .. })
    }

    /// Whether arriving bytes have to wait for the local side.
    pub(super) fn is_stuck(&self) -> bool {
        self.is_blocked() || (self.is_open() && !self.spill.is_empty())
    }

    pub(super) fn set_blocked(&mut self, now: bool) {
        if let State::Open { blocked, .. } = &mut self.state {
            *blocked = now;
        }
    }

    /// After a write of fewer bytes than offered (`short`), or of all.
    pub(super) fn after_write(&mut self, short: bool) {
        if let State::Open { fd, blocked, .. } = &mut self.state {
            *blocked = !fd.is_always_ready() && (short || !fd.may_try());
        }
    }

    /// Lends ring pages from now on, if this is a pipe that can be given room for `bytes`.
    pub(super) fn lend(&mut self, bytes: usize) {
        self.lends = !self.filter && self.fd().is_some_and(|fd| fd.set_pipe_size(bytes));
    }

    pub(super) fn lends(&self) -> bool {
        self.lends
    }

    /// Bytes that its reader has not taken yet, also after the sink was closed.
    pub(super) fn held(&self) -> usize {
        match &self.state {
            State::Open { fd, .. } => held(fd),
            State::Closed { left: Some(left), .. } => left.held(),
            State::Closed { left: None, .. } => 0,
        }
    }

    /// The descriptor to sleep on.
    pub(super) fn pollable(&self) -> Option<&LocalFd> {
        self.fd().filter(|fd| !fd.is_always_ready())
    }

    /// Room in the spill, in bytes.
    pub(super) fn spill_room(&self) -> usize {
        SPILL - self.spill.len().min(SPILL)
    }

    /// Keeps bytes in the spill; they are written before anything newer.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        self.spill.extend_from_slice(bytes);
    }

    /// Writes what is in the spill. `true` if something was written or the sink has changed.
    pub(super) fn drain_spill(&mut self) -> io::Result<bool> {
        let State::Open { fd, blocked: false, ends } = &self.state else { return Ok(false) };
        if self.spill.is_empty() {
            return Ok(false);
        }
        let rest = &self.spill[self.spilt..];
        match fd.write(rest) {
            Ok(n) => {
                let (short, ends) = (n < rest.len(), *ends);
                self.spilt += n;
                if self.spilt == self.spill.len() {
                    self.forget_spill();
                }
                self.after_write(short);
                if ends && self.spill.is_empty() {
                    self.close();
                }
                Ok(true)
            }
            Err(e) => self.on_error(e).map(|()| true),
        }
    }

    /// Sorts a write error: no room now, reader gone, or a failure.
    pub(super) fn on_error(&mut self, error: io::Error) -> io::Result<()> {
        match error.kind() {
            io::ErrorKind::WouldBlock => self.set_blocked(true),
            io::ErrorKind::Interrupted => {}
            _ if is_gone(&error) => self.lose_reader(),
            _ => {
                self.close();
                return Err(error);
            }
        }
        Ok(())
    }

    /// The reader is gone: closes the descriptor, and notes why.
    pub(super) fn lose_reader(&mut self) {
        self.close();
        if let State::Closed { lost, .. } = &mut self.state {
            *lost = true;
        }
    }

    /// Whether its reader closed it before the stream had ended.
    pub(super) fn has_lost_reader(&self) -> bool {
        matches!(self.state, State::Closed { lost: true, .. })
    }

    /// The stream has ended: closes now, or when the spill is written.
    pub(super) fn end(&mut self) {
        if self.spill.is_empty() {
            self.close();
        } else if let State::Open { ends, .. } = &mut self.state {
            *ends = true;
        }
    }

    pub(super) fn close(&mut self) {
        self.forget_spill();
        if !self.is_open() {
            return;
        }
        let closed = State::Closed { lost: false, left: None };
        if let State::Open { fd, .. } = std::mem::replace(&mut self.state, closed) {
            let left = if self.lends { fd.left() } else { None };
            self.state = State::Closed { lost: false, left };
            fd.finish(Direction::Out, self.shut);
        }
    }

    fn forget_spill(&mut self) {
        self.spill = Vec::new();
        self.spilt = 0;
    }
}
