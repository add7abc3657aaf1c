#![forbid(unsafe_code)]
//! Timers as descriptors, for event loops.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::{self, Errno};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// A timer that is readable when its time has come. Non-blocking.
#[derive(Debug)]
pub struct Timer(OwnedFd);

impl Timer {
    /// A timer that is not set.
    ///
    /// # Errors
    /// What `timerfd_create(2)` said.
    pub fn new() -> io::Result<Self> {
        made(TimerfdClockId::Monotonic).map(Self)
    }

    /// A timer that is readable every `period`; never, if that is zero.
    ///
    /// # Errors
    /// What `timerfd_create(2)` said.
    pub fn every(period: Duration) -> io::Result<Self> {
        let timer = Self::new()?;
        timer.set_period(period)?;
        Ok(timer)
    }

    /// Readable every `period` from now on; never again, if that is zero.
    ///
    /// # Errors
    /// An impossible time.
    pub fn set_period(&self, period: Duration) -> io::Result<()> {
        self.set(period, period)
    }

    /// Readable once, after `pause`; at once, if that is zero.
    ///
    /// # Errors
    /// An impossible time.
    pub fn set_once(&self, pause: Duration) -> io::Result<()> {
        self.set(pause.max(Duration::from_nanos(1)), Duration::ZERO)
    }

    /// Makes the timer unreadable again. Returns whether it was readable.
    pub fn take(&self) -> bool {
        rustix::io::read(&self.0, &mut [0u8; 8]).is_ok()
    }

    fn set(&self, first: Duration, further: Duration) -> io::Result<()> {
        let times = Itimerspec { it_interval: timespec(further)?, it_value: timespec(first)? };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &times).map(drop)
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Readable when the wall clock is set, or leaps, as it does when a virtual machine wakes up.
#[derive(Debug)]
pub struct ClockLeaps(OwnedFd);

impl ClockLeaps {
    /// Waits for the first leap.
    ///
    /// # Errors
    /// What `timerfd_create(2)` said.
    pub fn new() -> io::Result<Self> {
        let leaps = Self(made(TimerfdClockId::Realtime)?);
        leaps.rearm()?;
        Ok(leaps)
    }

    /// Waits for the next leap.
    ///
    /// # Errors
    /// It cannot fail for a timer.
    pub fn rearm(&self) -> io::Result<()> {
        let never = Timespec { tv_sec: i64::from(u32::MAX) * 2, tv_nsec: 0 };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: never };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        timerfd_settime(&self.0, flags, &once).map(drop)
    }
}

impl AsFd for ClockLeaps {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn made(clock: TimerfdClockId) -> io::Result<OwnedFd> {
    timerfd_create(clock, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)
}

fn timespec(time: Duration) -> io::Result<Timespec> {
    let tv_sec = i64::try_from(time.as_secs()).map_err(|_| Errno::INVAL)?;
    Ok(Timespec { tv_sec, tv_nsec: time.subsec_nanos().into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::{Interest, Reactor};

    fn wakes(timer: &Timer) -> bool {
        let mut reactor = Reactor::new().expect("reactor");
        reactor.add(timer, 0, Interest::Read).expect("watched");
        let mut events = Vec::new();
        reactor.wait(Some(Duration::from_secs(20)), &mut events).expect("wait");
        !events.is_empty()
    }

    #[test]
    fn a_timer_comes_once_or_again_and_again() {
        let timer = Timer::new().expect("timer");
        assert!(!timer.take());
        timer.set_once(Duration::ZERO).expect("set");
        assert!(wakes(&timer) && timer.take() && !timer.take());
        let timer = Timer::every(Duration::from_millis(1)).expect("timer");
        assert!((0..3).all(|_| wakes(&timer) && timer.take()));
        timer.set_period(Duration::ZERO).expect("set");
        timer.take();
        assert!(!timer.take());
        assert_eq!(timer.set_once(Duration::MAX), Err(Errno::INVAL));
    }
}
