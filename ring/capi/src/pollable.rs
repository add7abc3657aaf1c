#![forbid(unsafe_code)]
//! The one descriptor that a C program polls, the same from its first call to its last.
//!
//! It is an epoll instance, which is readable whenever something in it is: whatever the vchan waits for at the time (a
//! listener, a connector, the doorbell), a timer for attempts that no event announces, and the kick, an eventfd by
//! which we make it readable ourselves.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use ring::Error;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use sys::reactor::{Interest, Reactor};
use sys::timer::Timer;

/// See the module.
pub(crate) struct Pollable {
    events: Reactor<()>,
    kick: OwnedFd,
    kicked: bool,
    /// What the watched descriptor is watched for. `None`: none is watched.
    watched: Option<Interest>,
    timer: Option<Timer>,
}

fn failed(what: &str) -> impl FnOnce(Errno) -> Error {
    let wrap = Error::io(format!("{what} the descriptor to poll"));
    move |errno| wrap(errno.into())
}

impl Pollable {
    pub(crate) fn new() -> Result<Pollable, Error> {
        let make = || {
            let kick = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            Ok(Pollable {
                events: Reactor::of(&[kick.as_fd()])?,
                kick,
                kicked: false,
                watched: None,
                timer: None,
            })
        };
        make().map_err(failed("making"))
    }

    /// Makes the descriptor readable until [`Pollable::calm`].
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

    /// Lets `fd` make the descriptor readable for `wanted`; for nothing at all, not even its end, if that is `None`.
    ///
    /// One descriptor at a time: before another one is watched, the last one must be given up with `None`.
    pub(crate) fn watch(&mut self, fd: BorrowedFd<'_>, wanted: Option<Interest>) -> Result<(), Error> {
        if self.watched == wanted {
            return Ok(());
        }
        let done = match (self.watched, wanted) {
            (None, Some(wanted)) => self.events.add(fd, (), wanted),
            (_, None) => self.events.remove(fd),
            (_, Some(wanted)) => self.events.modify(fd, (), wanted),
        };
        done.map_err(failed("changing"))?;
        self.watched = wanted;
        Ok(())
    }

    /// Makes the descriptor readable after `pause`; `None` stops the timer.
    pub(crate) fn after(&mut self, pause: Option<Duration>) -> Result<(), Error> {
        let Some(pause) = pause else {
            if let Some(timer) = self.timer.take() {
                self.events.remove(&timer).map_err(failed("changing"))?;
            }
            return Ok(());
        };
        let mut make = || {
            if let Some(timer) = &self.timer {
                return timer.set_once(pause);
            }
            let timer = Timer::new()?;
            timer.set_once(pause)?;
            self.events.add(&timer, (), Interest::Read)?;
            self.timer = Some(timer);
            Ok(())
        };
        make().map_err(failed("timing"))
    }
}

impl AsFd for Pollable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}
