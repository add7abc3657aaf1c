#![forbid(unsafe_code)]
//! The local ends of a call: where its bytes come from and where they go.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::localfd::{Direction, Left, LocalFd, held, is_gone};

/// stderr that the local side does not take waits here while stdout goes on.
pub(super) const SPILL: usize = 256 << 10;

/// A descriptor that is read and sent.
#[derive(Debug)]
pub(super) struct Source {
    fd: Option<LocalFd>,
    /// Poll said so, or nothing has said otherwise yet.
    ready: bool,
    /// There is input, but for whoever is in front of the terminal: it is looked at again after a while.
    for_others: bool,
    /// What was there to be read when the local process had ended, and has not been read yet.
    last_words: usize,
    shut: bool,
}

impl Source {
    /// `None` is a source that has already ended.
    pub(super) fn new(fd: Option<OwnedFd>, shut: bool) -> io::Result<Source> {
        let fd = fd.map(|fd| LocalFd::adopt(fd, Direction::In)).transpose()?;
        let ready = fd.as_ref().is_some_and(LocalFd::may_try_reading);
        Ok(Source { fd, ready, for_others: false, last_words: 0, shut })
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

    /// The local process has ended: what it has left is its last words, and the next turn reads, if that never waits.
    pub(super) fn has_ended_behind(&mut self) {
        self.ready |= self.fd.as_ref().is_some_and(LocalFd::may_try_reading);
        self.last_words = self.fd.as_ref().map_or(0, held);
    }

    /// Whether last words can be read now.
    pub(super) fn has_last_words(&self) -> bool {
        self.last_words > 0 && self.readable().is_some()
    }

    /// Whether its input is for others. No event tells when that changes, so it is worth a look after a while.
    pub(super) fn is_for_others(&self) -> bool {
        self.for_others
    }

    /// Has the next sleep wait for input again.
    pub(super) fn look_again(&mut self) {
        self.for_others = false;
    }

    /// After a successful read of `n` bytes, fewer than asked for (`short`), or as many.
    pub(super) fn after_read(&mut self, n: usize, short: bool) {
        self.last_words = self.last_words.saturating_sub(n);
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

/// A descriptor that is written with what arrives.
#[derive(Debug)]
pub(super) struct Sink {
    fd: Option<LocalFd>,
    /// The last write took less than offered: wait for poll.
    blocked: bool,
    shut: bool,
    /// Replace what a terminal could be fooled by.
    pub(super) filter: bool,
    /// Bytes taken out of the ring that the local side has not taken yet.
    spill: Vec<u8>,
    /// How much of `spill` is already written.
    spilt: usize,
    /// The stream has ended; close once the spill is written.
    ending: bool,
    /// Its reader went away.
    gone: bool,
    /// A pipe that takes ring pages instead of copies.
    lends: bool,
    /// The same pipe after it was closed: what its reader has not taken yet is still lent.
    left: Option<Left>,
}

impl Sink {
    /// `None` is a sink that nobody reads: what arrives for it is discarded.
    pub(super) fn new(fd: Option<OwnedFd>, shut: bool, filter: bool) -> io::Result<Sink> {
        let (fd, gone) = match fd.map(|fd| LocalFd::adopt(fd, Direction::Out)).transpose() {
            Err(error) if is_gone(&error) => (None, true),
            other => (other?, false),
        };
        let blocked = fd.as_ref().is_some_and(|fd| !fd.may_try());
        Ok(Sink {
            fd,
            blocked,
            shut,
            filter,
            spill: Vec::new(),
            spilt: 0,
            ending: false,
            gone,
            lends: false,
            left: None,
        })
    }

    /// The descriptor, if a write from the ring is worth trying: nothing older waits in the spill.
    pub(super) fn writable(&self) -> Option<&LocalFd> {
        self.fd.as_ref().filter(|_| !self.blocked && self.spill.is_empty())
    }

    pub(super) fn is_open(&self) -> bool {
        self.fd.is_some()
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.fd.is_some() && self.blocked
    }

    /// Whether what arrives has to wait for the local side.
    pub(super) fn is_stuck(&self) -> bool {
        self.fd.is_some() && (self.blocked || !self.spill.is_empty())
    }

    pub(super) fn set_blocked(&mut self, blocked: bool) {
        self.blocked = blocked;
    }

    /// After a write of fewer bytes than offered (`short`), or of all.
    pub(super) fn after_write(&mut self, short: bool) {
        self.blocked = self.fd.as_ref().is_some_and(|fd| !fd.is_always_ready() && (short || !fd.may_try()));
    }

    /// Lends ring pages from now on, if this is a pipe that can be given room for `bytes`.
    pub(super) fn lend(&mut self, bytes: usize) {
        self.lends = !self.filter && self.fd.as_ref().is_some_and(|fd| fd.set_pipe_size(bytes));
    }

    pub(super) fn lends(&self) -> bool {
        self.lends
    }

    /// Bytes that its reader has not taken yet, even after the sink was closed.
    pub(super) fn held(&self) -> usize {
        match (&self.fd, &self.left) {
            (Some(fd), _) => held(fd),
            (None, Some(left)) => left.held(),
            (None, None) => 0,
        }
    }

    /// The descriptor to sleep on.
    pub(super) fn pollable(&self) -> Option<&LocalFd> {
        self.fd.as_ref().filter(|fd| !fd.is_always_ready())
    }

    /// Room in the spill, in bytes.
    pub(super) fn spill_room(&self) -> usize {
        SPILL - self.spill.len().min(SPILL)
    }

    pub(super) fn has_spill(&self) -> bool {
        !self.spill.is_empty()
    }

    /// Keeps bytes for later; they go out before anything newer.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        self.spill.extend_from_slice(bytes);
    }

    /// Writes what is kept. `true` if something moved or the sink changed.
    pub(super) fn drain_spill(&mut self) -> io::Result<bool> {
        let Some(fd) = self.fd.as_ref().filter(|_| !self.blocked && !self.spill.is_empty()) else {
            return Ok(false);
        };
        let rest = &self.spill[self.spilt..];
        match fd.write(rest) {
            Ok(n) => {
                let short = n < rest.len();
                self.spilt += n;
                if self.spilt == self.spill.len() {
                    self.spill = Vec::new();
                    self.spilt = 0;
                }
                self.after_write(short);
                if self.ending && self.spill.is_empty() {
                    self.close();
                }
                Ok(true)
            }
            Err(e) => self.on_error(e).map(|()| true),
        }
    }

    /// Sorts a write error: not now, gone, or a failure that is nobody's end of stream.
    pub(super) fn on_error(&mut self, error: io::Error) -> io::Result<()> {
        match error.kind() {
            io::ErrorKind::WouldBlock => self.blocked = true,
            io::ErrorKind::Interrupted => {}
            _ if is_gone(&error) => self.lose_reader(),
            _ => {
                self.close();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Its reader went away: close, and remember why.
    pub(super) fn lose_reader(&mut self) {
        self.gone = true;
        self.close();
    }

    /// Whether its reader went away before the stream had ended.
    pub(super) fn has_lost_reader(&self) -> bool {
        self.gone
    }

    /// The stream has ended: close, now or when the spill is written.
    pub(super) fn end(&mut self) {
        self.ending = true;
        if self.spill.is_empty() {
            self.close();
        }
    }

    pub(super) fn close(&mut self) {
        self.spill = Vec::new();
        self.spilt = 0;
        if let Some(fd) = self.fd.take() {
            self.left = if self.lends { fd.left() } else { None };
            fd.finish(Direction::Out, self.shut);
        }
    }
}

/// Whether two descriptors are the same open socket or file.
pub(super) fn same_file(a: &OwnedFd, b: &OwnedFd) -> bool {
    let id = |fd: &OwnedFd| rustix::fs::fstat(fd.as_fd()).ok().map(|s| (s.st_dev, s.st_ino));
    id(a).is_some() && id(a) == id(b)
}
