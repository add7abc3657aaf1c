#![forbid(unsafe_code)]
//! An event channel as a doorbell, and whether there is still a domain at its other end.
//!
//! A process that ends tells its peer, however it ends: the kernel clears its live byte and sends an event when its
//! pages are unmapped. A domain that is destroyed tells nobody. So a channel to any domain but dom0 (whose end is the
//! machine's) looks once a second, and only then: nothing of this is on the way of the data.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use super::DOM0;
use super::store::Store;
use crate::channel::Bell;
use crate::error::Error;
use crate::xendev::EventChannel;

/// How often to look for the peer's domain.
const PERIOD: Duration = Duration::from_secs(1);

pub(super) struct Doorbell {
    event: EventChannel,
    watchman: Option<Watchman>,
}

impl Doorbell {
    pub(super) fn new(event: EventChannel, peer: u32) -> Result<Doorbell, Error> {
        let watchman = (peer != DOM0).then(|| Watchman::new(&event, peer)).transpose();
        let watchman = watchman.map_err(|error| Error::io("making a timer")(error.into()))?;
        Ok(Doorbell { event, watchman })
    }
}

impl Bell for Doorbell {
    fn fd(&self) -> BorrowedFd<'_> {
        self.watchman.as_ref().map_or(self.event.as_fd(), |watchman| watchman.either.as_fd())
    }

    fn ring(&mut self) -> Result<bool, Error> {
        self.event.notify().map(|()| true)
    }

    fn acknowledge(&mut self) -> Result<bool, Error> {
        self.event.take()?;
        Ok(self.watchman.as_mut().is_none_or(|watchman| watchman.sees_the_peer(&self.event)))
    }

    fn is_stream(&self) -> bool {
        false
    }

    fn wants_in(&mut self) -> bool {
        true
    }

    fn wants_out(&self) -> bool {
        false
    }
}

struct Watchman {
    peer: u32,
    timer: OwnedFd,
    /// Ready when the event channel is, or the timer.
    either: OwnedFd,
    /// The timer is not read before this.
    due: Instant,
}

impl Watchman {
    fn new(event: &EventChannel, peer: u32) -> rustix::io::Result<Watchman> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let period = Timespec { tv_sec: PERIOD.as_secs() as i64, tv_nsec: PERIOD.subsec_nanos().into() };
        let times = Itimerspec { it_interval: period, it_value: period };
        let due = Instant::now() + PERIOD;
        rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &times)?;
        let either = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for fd in [event.as_fd(), timer.as_fd()] {
            epoll::add(&either, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        }
        Ok(Watchman { peer, timer, either, due })
    }

    /// Looks if a second has passed. An answer that cannot be had is no bad news.
    fn sees_the_peer(&mut self, event: &EventChannel) -> bool {
        let now = Instant::now();
        if now < self.due {
            return true;
        }
        // The number of periods that have passed; how many does not matter.
        let _ = rustix::io::read(&self.timer, &mut [0u8; 8]);
        // The next period ends sooner than one from now, since this one was seen late.
        self.due = now + PERIOD / 2;
        event.knows(self.peer) && is_served(self.peer)
    }
}

/// The hypervisor keeps a dying domain for as long as anybody maps a page of it; xenstore forgets it at once.
fn is_served(domain: u32) -> bool {
    Store::open().and_then(|mut store| store.serves(domain)).unwrap_or(true)
}
