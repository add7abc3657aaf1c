#![forbid(unsafe_code)]
//! Whether the domain at the other end of one channel is still there.
//!
//! A process that ends tells its peer, however it ends: the kernel clears its live byte and sends an event when its
//! pages are unmapped. A domain that is destroyed tells nobody. In dom0, xenstore tells. In a VM, the agent asks
//! xenstore once a second for all calls together and tells those concerned (see [`super::warden`]); only where no agent
//! of ours runs, or none runs just now, does a channel ask for itself. Nothing of this is on the way of the data, and no
//! answer is ever waited for: xenstore may be slow, and a daemon serves others meanwhile.

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
    Release { store: Store, asked: bool, timer: OwnedFd },
    /// The agent says that this one is.
    Agent(OwnedFd),
    /// Nobody: a timer says when to ask, and `asked` has the answer one day.
    Timer { timer: OwnedFd, asked: Option<Store> },
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
        let source = source.map_or_else(alone, Ok)?;
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
            Source::Release { store, asked, timer } => match was_released(store, asked, self.peer) {
                Ok(gone) => Ok(gone || (has_ticked(timer) && !xendev::knows(self.peer))),
                Err(_) => self.ask_alone().map(|()| false),
            },
            Source::Agent(agent) => match rustix::io::read(agent, &mut [0u8; 1]) {
                Ok(1) => Ok(true),
                Err(Errno::AGAIN | Errno::INTR) => Ok(false),
                // The agent is gone; the call goes on without it.
                _ => self.ask_alone().map(|()| false),
            },
            Source::Timer { timer, asked } => match answer(asked) {
                Some(served) => Ok(!served),
                None if !has_ticked(timer) => Ok(false),
                None => self.on_tick(),
            },
        }
    }

    /// Turns to the agent, if there is one again; else asks the hypervisor, and xenstore unless it was asked already.
    fn on_tick(&mut self) -> Result<bool, Error> {
        if let Ok(agent) = warden::ask(self.peer) {
            return self.turn_to(Source::Agent(agent)).map(|()| false);
        }
        if !xendev::knows(self.peer) {
            return Ok(true);
        }
        let Source::Timer { asked: asked @ None, .. } = &mut self.source else { return Ok(false) };
        // A question that cannot be asked is no bad news.
        let question = Store::open().and_then(|mut store| store.ask_if_served(self.peer).map(|()| store));
        if let Ok(store) = question {
            watch(&self.either, &store, 0).map_err(failed)?;
            *asked = Some(store);
        }
        Ok(false)
    }

    fn ask_alone(&mut self) -> Result<(), Error> {
        self.turn_to(alone()?)
    }

    /// The old source leaves the epoll instance with its last descriptor.
    fn turn_to(&mut self, source: Source) -> Result<(), Error> {
        self.source = source;
        self.watch_source()
    }

    fn watch_source(&self) -> Result<(), Error> {
        match &self.source {
            Source::Release { store, timer, .. } => {
                self.watch_too(store).and_then(|()| self.watch_too(timer))
            }
            Source::Agent(fd) | Source::Timer { timer: fd, .. } => self.watch_too(fd),
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
    Ok(Source::Release { store, asked: false, timer: timer(PERIOD).map_err(failed)? })
}

fn alone() -> Result<Source, Error> {
    Ok(Source::Timer { timer: timer(PERIOD).map_err(failed)?, asked: None })
}

/// The answer that has come, if one has: whether the domain is served. One that cannot be had is no bad news.
fn answer(asked: &mut Option<Store>) -> Option<bool> {
    let heard = asked.as_mut()?.is_served().transpose()?;
    *asked = None;
    Some(heard.unwrap_or(true))
}

fn has_ticked(timer: &OwnedFd) -> bool {
    rustix::io::read(timer, &mut [0u8; 8]).is_ok()
}

/// Xenstore says only that some domain is gone, so it is asked for this one; it may say it again meanwhile.
fn was_released(store: &mut Store, asked: &mut bool, peer: u32) -> Result<bool, Error> {
    loop {
        if *asked {
            let Some(served) = store.is_served()? else { return Ok(false) };
            *asked = false;
            if !served {
                return Ok(true);
            }
        }
        if !store.changed()? {
            return Ok(false);
        }
        store.ask_if_served(peer)?;
        *asked = true;
    }
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
