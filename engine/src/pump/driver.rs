#![forbid(unsafe_code)]
//! What the pump needs of the system: transfers that never wait, and one place to sleep.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use ring::{Channel, Spans};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::localfd::LocalFd;

/// Most payload of one transfer. Several fit a ring, so that both sides can work at the same time, and what one
/// process has written the next one finds in the cache; with fewer bytes there would be more system calls.
pub(super) const TRANSFER: usize = 128 << 10;

/// The most that the local pipe of a large call holds: several transfers, and as much as four rings. It is more than
/// one transfer so that a local process gets far whenever it has the processor.
pub(super) const PIPE: usize = 512 << 10;

/// The descriptors on which a call may sleep, by place.
pub(super) const LINK: usize = 0;
/// The descriptor from which bytes are sent.
pub(super) const SOURCE: usize = 1;
/// The service's stderr.
pub(super) const ERR_SOURCE: usize = 2;
/// The descriptor to which incoming bytes are written.
pub(super) const SINK: usize = 3;
/// The descriptor to which incoming stderr is written.
pub(super) const ERR_SINK: usize = 4;
/// The local process.
pub(super) const CHILD: usize = 5;
/// The service's request for one socket.
pub(super) const REQUEST: usize = 6;
/// How many places there are.
pub(super) const PLACES: usize = 7;

/// What to sleep on: at each place a descriptor and the events that are wanted, or nothing. A descriptor without
/// events is still watched for the end of its other side.
pub(super) type Wants<'a> = [Option<(BorrowedFd<'a>, PollFlags)>; PLACES];

/// What happened, by place.
pub(super) type Ready = [PollFlags; PLACES];

/// One transfer between ring memory and a local descriptor.
pub(super) enum Transfer<'a> {
    /// From the descriptor into reserved ring memory.
    Fill(&'a LocalFd, &'a Spans<'a>),
    /// From ring memory to the descriptor.
    Drain(&'a LocalFd, &'a Spans<'a>),
    /// From ring memory to a pipe, as pages that stay in use.
    Lend(&'a LocalFd, &'a Spans<'a>),
}

/// The two transfers of a turn, and their results.
pub(super) type Results = [Option<io::Result<usize>>; 2];

/// The two ways to talk to the kernel.
pub(super) trait Driver {
    /// Carries out the given transfers. On return each is complete, or was refused with `WouldBlock`: no reservation
    /// in the ring outlasts a turn.
    fn transfer(&mut self, transfers: [Option<Transfer<'_>>; 2]) -> Results;
    /// Sleeps until something is ready, or `limit` has passed; then nothing is.
    fn wait(&mut self, wants: &Wants<'_>, limit: Option<Duration>) -> io::Result<Ready>;
    /// Releases the descriptors of all places that are not open any more.
    fn let_go(&mut self, _open: &[bool; PLACES]) {}
    /// Which of these are ready now.
    fn look(&mut self, wants: &Wants<'_>) -> io::Result<Ready>;
    /// System calls made so far.
    fn syscalls(&self) -> u64;
    /// Name for counters and logs.
    fn name(&self) -> &'static str;
}

impl Transfer<'_> {
    /// By `readv`, `writev`, `recvmsg` and `sendmsg`.
    pub(super) fn run(&self) -> io::Result<usize> {
        match self {
            Transfer::Fill(fd, spans) => fd.fill(spans),
            Transfer::Drain(fd, spans) => fd.drain(spans),
            Transfer::Lend(fd, spans) => spans.lend_to(fd.as_fd()),
        }
    }
}

/// Limits here are about a second, so they fit any representation.
fn timespec(limit: Duration) -> Timespec {
    Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() }
}

/// Plain system calls and `poll`.
#[derive(Default)]
pub(super) struct Poll {
    syscalls: u64,
}

impl Poll {
    /// A driver that continues the count of the one before.
    pub(super) fn after(syscalls: u64) -> Poll {
        Poll { syscalls }
    }
}

impl Driver for Poll {
    fn transfer(&mut self, transfers: [Option<Transfer<'_>>; 2]) -> Results {
        transfers.map(|t| {
            t.map(|t| {
                self.syscalls += 1;
                t.run()
            })
        })
    }

    fn wait(&mut self, wants: &Wants<'_>, limit: Option<Duration>) -> io::Result<Ready> {
        self.syscalls += 1;
        poll_all(wants, limit)
    }

    fn look(&mut self, wants: &Wants<'_>) -> io::Result<Ready> {
        self.syscalls += 1; // the one that gave way before it is counted here
        if wants.iter().all(Option::is_none) {
            return Ok([PollFlags::empty(); PLACES]);
        }
        self.syscalls += 1;
        poll_all(wants, Some(Duration::ZERO))
    }

    fn syscalls(&self) -> u64 {
        self.syscalls
    }

    fn name(&self) -> &'static str {
        "poll"
    }
}

/// `poll` on all descriptors that are wanted.
pub(super) fn poll_all(wants: &Wants<'_>, limit: Option<Duration>) -> io::Result<Ready> {
    let mut places = [0usize; PLACES];
    let mut fds = Vec::with_capacity(PLACES);
    for (place, want) in wants.iter().enumerate() {
        if let Some((fd, events)) = want {
            places[fds.len()] = place;
            fds.push(PollFd::from_borrowed_fd(fd.as_fd(), *events));
        }
    }
    let limit = limit.map(timespec);
    match poll(&mut fds, limit.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let mut ready = [PollFlags::empty(); PLACES];
    for (fd, place) in fds.iter().zip(places) {
        ready[place] = fd.revents();
    }
    Ok(ready)
}

/// Sleeps until the link's descriptor is ready, or `limit` has passed, and answers the doorbell.
pub(super) fn wait_for_link(channel: &mut Channel, limit: Option<Duration>) -> Result<(), ring::Error> {
    let out = if channel.wants_out() { PollFlags::OUT } else { PollFlags::empty() };
    let limit = limit.map(timespec);
    match poll(&mut [PollFd::new(&*channel, PollFlags::IN | out)], limit.as_ref()) {
        Ok(0) => Ok(()),
        Ok(_) => channel.on_ready(),
        Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(ring::Error::io("waiting for the link")(error.into())),
    }
}
