#![forbid(unsafe_code)]
//! What the state machine needs of the system: transfers that never wait, and one place to sleep.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use ring::{Channel, Spans};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::localfd::LocalFd;

/// Payload of one transfer, at most. Several fit a ring, so that both sides are at work, and what one hop has
/// written the next one finds in the cache; fewer bytes cost more system calls.
pub(super) const TRANSFER: usize = 128 << 10;

/// What the local pipe of a large call holds at most: some transfers, and what four rings hold. More than one, so that a
/// local process that has the processor for once gets far with it.
pub(super) const PIPE: usize = 512 << 10;

/// The descriptors a call may sleep on, by place.
pub(super) const LINK: usize = 0;
/// Where outgoing bytes come from.
pub(super) const SOURCE: usize = 1;
/// The service's stderr.
pub(super) const ERR_SOURCE: usize = 2;
/// Where incoming bytes go.
pub(super) const SINK: usize = 3;
/// Where incoming stderr goes.
pub(super) const ERR_SINK: usize = 4;
/// The local process.
pub(super) const CHILD: usize = 5;
/// The service's request for one socket.
pub(super) const REQUEST: usize = 6;
/// How many places there are.
pub(super) const PLACES: usize = 7;

/// What to sleep on: at each place a descriptor and the events wanted, or nothing. A descriptor with no
/// events is still watched for its other end going away.
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
    /// Carries out what is there. Each transfer is complete, or refused with `WouldBlock`, on return:
    /// no reservation outlives a turn.
    fn transfer(&mut self, transfers: [Option<Transfer<'_>>; 2]) -> Results;
    /// Sleeps until something is ready, or `limit` has passed: then nothing is.
    fn wait(&mut self, wants: &Wants<'_>, limit: Option<Duration>) -> io::Result<Ready>;
    /// Holds on to no descriptor of a place that is not open any more.
    fn let_go(&mut self, _open: &[bool; PLACES]) {}
    /// What of these is ready now.
    fn look(&mut self, wants: &Wants<'_>) -> io::Result<Ready>;
    /// System calls made so far.
    fn syscalls(&self) -> u64;
    /// Name for counters and logs.
    fn name(&self) -> &'static str;
}

impl Transfer<'_> {
    /// By plain `readv`, `writev`, `recvmsg`, `sendmsg`.
    pub(super) fn run(&self) -> io::Result<usize> {
        match self {
            Transfer::Fill(fd, spans) => fd.fill(spans),
            Transfer::Drain(fd, spans) => fd.drain(spans),
            Transfer::Lend(fd, spans) => spans.lend_to(fd.as_fd()),
        }
    }
}

/// Limits here are a second or so: they fit any representation.
fn timespec(limit: Duration) -> Timespec {
    Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() }
}

/// Plain system calls and `poll`.
#[derive(Default)]
pub(super) struct Poll {
    syscalls: u64,
}

impl Poll {
    /// Continues the count of a driver before it.
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

/// `poll` on all that is wanted.
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

/// Sleeps until the link's descriptor is ready, or `limit` has passed, and takes the wake-up.
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
