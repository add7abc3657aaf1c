#![forbid(unsafe_code)]
//! The one descriptor that a C program polls, the same from its first call to its last.
//!
//! It is an epoll instance, which is readable whenever something in it is: whatever the vchan waits for at the time (a
//! listener, a connector, the doorbell), a timer for attempts that no event announces, and the kick, an eventfd by
//! which we make it readable ourselves.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use ring::Error;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// See the module.
pub(crate) struct Beacon {
    epoll: OwnedFd,
    kick: OwnedFd,
    kicked: bool,
    /// What is asked of the watched descriptor; empty: it is not in the set.
    watched: EventFlags,
    timer: Option<OwnedFd>,
}

fn failed(what: &str) -> impl FnOnce(Errno) -> Error {
    let wrap = Error::io(format!("{what} the descriptor to poll"));
    move |errno| wrap(errno.into())
}

impl Beacon {
    pub(crate) fn new() -> Result<Beacon, Error> {
        let make = || {
            let epoll = epoll::create(CreateFlags::CLOEXEC)?;
            let kick = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            epoll::add(&epoll, &kick, EventData::new_u64(0), EventFlags::IN)?;
            Ok(Beacon { epoll, kick, kicked: false, watched: EventFlags::empty(), timer: None })
        };
        make().map_err(failed("making"))
    }

    /// Makes the descriptor readable until [`Beacon::calm`].
    pub(crate) fn kick(&mut self) -> Result<(), Error> {
        if !self.kicked {
            rustix::io::write(&self.kick, &1u64.to_ne_bytes()).map_err(failed("signalling"))?;
            self.kicked = true;
        }
        Ok(())
    }

    /// Takes back the kick. Whether there was one.
    pub(crate) fn calm(&mut self) -> Result<bool, Error> {
        if self.kicked {
            rustix::io::read(&self.kick, &mut [0u8; 8]).map_err(failed("clearing"))?;
        }
        Ok(std::mem::take(&mut self.kicked))
    }

    /// Lets `fd` make the descriptor readable for `wanted`; for nothing at all, not even its end, if that is empty.
    ///
    /// One descriptor at a time: the one before must have been taken out by an empty wish.
    pub(crate) fn watch(&mut self, fd: BorrowedFd<'_>, wanted: EventFlags) -> Result<(), Error> {
        if self.watched == wanted {
            return Ok(());
        }
        let data = EventData::new_u64(1);
        let done = if self.watched.is_empty() {
            epoll::add(&self.epoll, fd, data, wanted)
        } else if wanted.is_empty() {
            epoll::delete(&self.epoll, fd)
        } else {
            epoll::modify(&self.epoll, fd, data, wanted)
        };
        done.map_err(failed("changing"))?;
        self.watched = wanted;
        Ok(())
    }

    /// Makes the descriptor readable after `pause`, or by no timer any more.
    pub(crate) fn after(&mut self, pause: Option<Duration>) -> Result<(), Error> {
        let Some(pause) = pause else {
            if let Some(timer) = self.timer.take() {
                epoll::delete(&self.epoll, &timer).map_err(failed("changing"))?;
            }
            return Ok(());
        };
        let set = |timer: &OwnedFd| {
            let once = Timespec { tv_sec: 0, tv_nsec: 0 };
            let pause = pause.max(Duration::from_nanos(1));
            let value = Timespec { tv_sec: pause.as_secs() as i64, tv_nsec: pause.subsec_nanos().into() };
            timerfd_settime(
                timer,
                TimerfdTimerFlags::empty(),
                &Itimerspec { it_interval: once, it_value: value },
            )
        };
        let mut make = || {
            if let Some(timer) = &self.timer {
                return set(timer).map(drop);
            }
            let timer =
                timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
            set(&timer)?;
            epoll::add(&self.epoll, &timer, EventData::new_u64(2), EventFlags::IN)?;
            self.timer = Some(timer);
            Ok(())
        };
        make().map_err(failed("timing"))
    }
}

impl AsFd for Beacon {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
