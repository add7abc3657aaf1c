#![forbid(unsafe_code)]
//! A pipe in blocking mode that cannot be opened anew, because another user made it (`sudo`, `su`, `runuser`, cron) or
//! because there is no `/proc`.
//!
//! Others share its description, so none of its flags is ever set, and writing more than it has room for would block
//! this process. From Linux 6.4 on each transfer can ask not to wait (`RWF_NOWAIT`), as long as the description is the
//! one that `pipe(2)` returned and nobody has spliced through it; both may change in the middle of a call. Otherwise
//! bytes are written into a pipe of this process's own, and go from there by a `splice` that need not wait, as pages
//! and without another copy. Bytes that find no room are dropped from that pipe, since the ring still has them.
//! Without such a pipe, bytes are read once after `POLLIN`, and at most `PIPE_BUF` are written after `POLLOUT`.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ring::Access;
use rustix::io::Errno;
use rustix::pipe::{self, PipeFlags, SpliceFlags};

use super::{Direction, PIPE_BUF, held};

/// How much this process's own pipe holds in a call that moves much: one transfer of the pump.
const LOCK: usize = 128 << 10;

/// How the shared pipe is used now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// Each transfer asks not to wait.
    Asking,
    /// Through a pipe of this process's own.
    Splicing,
    /// After poll, with so few bytes that it never waits.
    Careful,
}

/// A pipe of this process's own, empty between transfers.
#[derive(Debug)]
struct Lock {
    enters: OwnedFd,
    leaves: OwnedFd,
    size: Cell<usize>,
}

/// The state of such a shared pipe.
#[derive(Debug)]
pub(super) struct Shared {
    way: Cell<Way>,
    /// Only if this process writes to the shared pipe.
    lock: Option<Lock>,
    /// How much the shared pipe holds.
    size: Cell<usize>,
}

impl Shared {
    /// Prepares to use `pipe`: later, nothing may be opened any more.
    pub(super) fn new(pipe: BorrowedFd<'_>, direction: Direction) -> Shared {
        let lock = match direction {
            Direction::In => None,
            Direction::Out => Lock::new(),
        };
        Shared { way: Cell::new(Way::Asking), lock, size: Cell::new(size_of(pipe)) }
    }

    /// Whether a transfer may be tried before poll.
    pub(super) fn may_try(&self) -> bool {
        self.way.get() != Way::Careful
    }

    /// Most bytes of one write.
    pub(super) fn write_limit(&self, pipe: BorrowedFd<'_>) -> usize {
        match (self.way.get(), &self.lock) {
            (Way::Asking, _) => usize::MAX,
            // More would be copied only to be dropped. Less than a page may still find room.
            (Way::Splicing, Some(lock)) => {
                let room = self.size.get().saturating_sub(held(pipe)) / PIPE_BUF * PIPE_BUF;
                room.clamp(PIPE_BUF, lock.size.get().max(PIPE_BUF))
            }
            (Way::Splicing, None) | (Way::Careful, _) => PIPE_BUF,
        }
    }

    /// Gives both pipes room for a call that moves much, as far as limits allow.
    pub(super) fn grow(&self, pipe: BorrowedFd<'_>, bytes: usize) {
        if self.size.get() < bytes {
            let _ = pipe::fcntl_setpipe_size(pipe, bytes);
            self.size.set(size_of(pipe));
        }
        if let Some(lock) = self.lock.as_ref().filter(|lock| lock.size.get() < LOCK) {
            let _ = pipe::fcntl_setpipe_size(&lock.enters, LOCK);
            lock.size.set(size_of(lock.enters.as_fd()));
        }
    }

    /// Reads by the given function: asking not to wait, or after poll.
    pub(super) fn read(&self, mut read: impl FnMut(Access) -> io::Result<usize>) -> io::Result<usize> {
        if self.way.get() == Way::Careful {
            return read(Access::File);
        }
        match read(Access::Nowait) {
            Err(error) if cannot(&error) => self.be_careful(),
            done => done,
        }
    }

    /// Writes as many of `offered` bytes as there is room for, by the given function: to `pipe`, asking not to wait or
    /// after poll; or to this process's own pipe.
    pub(super) fn write(
        &self,
        pipe: BorrowedFd<'_>,
        offered: usize,
        mut write: impl FnMut(BorrowedFd<'_>, Access) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if self.way.get() == Way::Asking {
            match write(pipe, Access::Nowait) {
                Err(error) if cannot(&error) => self.way.set(Way::Splicing),
                done => return done,
            }
        }
        if self.way.get() == Way::Splicing {
            let Some(lock) = &self.lock else { return self.be_careful() };
            match lock.pass(pipe, |own| write(own, Access::File)) {
                Err(error) if cannot(&error) => return self.be_careful(),
                done => return done,
            }
        }
        // More may have been offered than a write after poll may carry.
        if offered > PIPE_BUF { Err(io::ErrorKind::WouldBlock.into()) } else { write(pipe, Access::File) }
    }

    /// From now on poll comes before each transfer.
    fn be_careful(&self) -> io::Result<usize> {
        self.way.set(Way::Careful);
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl Lock {
    /// `None`: no descriptor was free.
    fn new() -> Option<Lock> {
        let (leaves, enters) = pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        let size = Cell::new(size_of(enters.as_fd()));
        Some(Lock { enters, leaves, size })
    }

    /// Has bytes written into this pipe, and passes on as many as the other one has room for.
    fn pass(
        &self,
        to: BorrowedFd<'_>,
        write: impl FnOnce(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let entered = write(self.enters.as_fd())?;
        if entered == 0 {
            return Ok(0);
        }
        let left = pipe::splice(&self.leaves, None, to, None, entered, SpliceFlags::NONBLOCK);
        if left != Ok(entered) {
            self.empty()?;
        }
        Ok(left?)
    }

    /// Drops the pipe's content.
    fn empty(&self) -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        loop {
            match rustix::io::read(&self.leaves, &mut buffer) {
                Ok(0) | Err(Errno::AGAIN) => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn size_of(pipe: BorrowedFd<'_>) -> usize {
    pipe::fcntl_getpipe_size(pipe).unwrap_or(0)
}

/// Whether the kernel, or a filter of system calls, refuses this kind of transfer and not just these bytes.
fn cannot(error: &io::Error) -> bool {
    let refusals = [Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL, Errno::PERM];
    refusals.iter().any(|refusal| error.raw_os_error() == Some(refusal.raw_os_error()))
}
