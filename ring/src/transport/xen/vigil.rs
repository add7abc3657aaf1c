#![forbid(unsafe_code)]
//! Whether the domain at the other end of one channel is still there.
//!
//! A process that ends tells its peer, however it ends: the kernel clears its live byte and sends an event when its
//! pages are unmapped. A domain that is destroyed tells nobody. In dom0, xenstore tells. In a VM, the agent asks
//! xenstore once a second for all calls together and tells those concerned (see [`super::warden`]); only where no agent
//! of ours runs, or none runs just now, does a channel ask for itself. Nothing of this is on the way of the data.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use super::store::Store;
use super::{DOM0, warden};
use crate::error::Error;
use crate::xendev;

/// How often whoever asks does so.
pub(super) const PERIOD: Duration = Duration::from_secs(1);
/// What xenstore lets dom0, and nobody else, watch for the end of any domain.
const RELEASE: &str = "@releaseDomain";

pub(super) struct Vigil {
    peer: u32,
    source: Source,
    /// Ready when the source is, or anything that was added.
    either: OwnedFd,
}

/// Who would know.
enum Source {
    /// Xenstore says that some domain is gone; beside it the hypervisor is asked, which costs no message.
    Release(Store, OwnedFd),
    /// The agent says that this one is.
    Agent(OwnedFd),
    /// Nobody: a timer says when to ask.
    Timer(OwnedFd),
}

impl Vigil {
    /// `None`: the peer is dom0, whose end is the machine's.
    pub(super) fn new(own: u32, peer: u32) -> Result<Option<Vigil>, Error> {
        if peer == DOM0 {
            return Ok(None);
        }
        let source = match own {
            DOM0 => released().ok(),
            _ => warden::ask(peer).map(Source::Agent).ok(),
        };
        let either = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        let source = source.map_or_else(|| Ok(Source::Timer(timer(PERIOD)?)), Ok).map_err(failed)?;
        let vigil = Vigil { peer, source, either };
        vigil.watch_source()?;
        Ok(Some(vigil))
    }

    /// Makes the descriptor ready when `fd` is, too, for as long as that is open.
    pub(super) fn watch_too(&self, fd: impl AsFd) -> Result<(), Error> {
        watch(&self.either, fd, 0).map_err(failed)
    }

    /// To be asked when the descriptor is ready and nothing that was added is.
    pub(super) fn is_peer_gone(&mut self) -> Result<bool, Error> {
        match &mut self.source {
            Source::Release(store, timer) => match was_released(store, self.peer) {
                Ok(gone) => Ok(gone || (has_ticked(timer) && !xendev::knows(self.peer))),
                Err(_) => self.ask_alone().map(|()| false),
            },
            Source::Agent(agent) => match rustix::io::read(agent, &mut [0u8; 1]) {
                Ok(1) => Ok(true),
                Err(Errno::AGAIN | Errno::INTR) => Ok(false),
                // The agent is gone; the call goes on without it.
                _ => self.ask_alone().map(|()| false),
            },
            Source::Timer(timer) => {
                if !has_ticked(timer) {
                    return Ok(false);
                }
                if let Ok(agent) = warden::ask(self.peer) {
                    self.turn_to(Source::Agent(agent))?;
                    return Ok(false);
                }
                // An answer that cannot be had is no bad news.
                let served = || Store::open().and_then(|mut store| store.serves(self.peer)).unwrap_or(true);
                Ok(!xendev::knows(self.peer) || !served())
            }
        }
    }

    fn ask_alone(&mut self) -> Result<(), Error> {
        self.turn_to(Source::Timer(timer(PERIOD).map_err(failed)?))
    }

    /// The old source leaves the epoll instance with its last descriptor.
    fn turn_to(&mut self, source: Source) -> Result<(), Error> {
        self.source = source;
        self.watch_source()
    }

    fn watch_source(&self) -> Result<(), Error> {
        match &self.source {
            Source::Release(store, timer) => self.watch_too(store).and_then(|()| self.watch_too(timer)),
            Source::Agent(fd) | Source::Timer(fd) => self.watch_too(fd),
        }
    }
}

impl AsFd for Vigil {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.either.as_fd()
    }
}

fn released() -> Result<Source, Error> {
    let mut store = Store::open()?;
    store.watch(RELEASE)?;
    Ok(Source::Release(store, timer(PERIOD).map_err(failed)?))
}

fn has_ticked(timer: &OwnedFd) -> bool {
    rustix::io::read(timer, &mut [0u8; 8]).is_ok()
}

/// Xenstore says only that some domain is gone, so it is asked for this one; it may say it again meanwhile.
fn was_released(store: &mut Store, peer: u32) -> Result<bool, Error> {
    while store.changed()? {
        if !store.serves(peer)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A timer that is ready every `period`; never, if that is zero.
pub(super) fn timer(period: Duration) -> rustix::io::Result<OwnedFd> {
    let timer = rustix::time::timerfd_create(
        TimerfdClockId::Monotonic,
        TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
    )?;
    set(&timer, period)?;
    Ok(timer)
}

/// Gives a timer another period.
pub(super) fn set(timer: &OwnedFd, period: Duration) -> rustix::io::Result<()> {
    let period = Timespec { tv_sec: period.as_secs() as i64, tv_nsec: period.subsec_nanos().into() };
    let times = Itimerspec { it_interval: period, it_value: period };
    rustix::time::timerfd_settime(timer, TimerfdTimerFlags::empty(), &times).map(drop)
}

/// A descriptor that is ready when `fd` is, or the vigil: for whoever has the vigil only for a while.
pub(super) fn either(fd: impl AsFd, vigil: Option<&Vigil>) -> Result<OwnedFd, Error> {
    let events = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
    watch(&events, fd, 0).map_err(failed)?;
    vigil.map_or(Ok(()), |vigil| watch(&events, vigil, 0)).map_err(failed)?;
    Ok(events)
}

/// Adds a descriptor to an epoll instance, level-triggered.
pub(super) fn watch(events: &OwnedFd, fd: impl AsFd, token: u64) -> rustix::io::Result<()> {
    epoll::add(events, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN)
}

fn failed(error: Errno) -> Error {
    Error::io("watching over the peer's domain")(error.into())
}
