//! Waiting for many descriptors at once: a thin, level-triggered epoll.
//!
//! Descriptors are known by a token that the caller chooses: a type of its own, mostly an enum with one variant for each
//! thing that is watched. The reactor owns none of them.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

/// Events taken from the kernel in one [`Reactor::wait`]; what is left over comes with the next call.
const BATCH: usize = 64;

/// What one descriptor is watched for. Hang-up and errors are always reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Nothing but hang-up and errors.
    Hangup,
    /// Readable.
    Read,
    /// Writable.
    Write,
    /// Both.
    ReadWrite,
}

impl Interest {
    /// Reading always, writing only while `out` holds: what every buffered link needs.
    #[must_use]
    pub fn read_and(out: bool) -> Self {
        if out { Self::ReadWrite } else { Self::Read }
    }

    fn flags(self) -> epoll::EventFlags {
        match self {
            Self::Hangup => epoll::EventFlags::empty(),
            Self::Read => epoll::EventFlags::IN,
            Self::Write => epoll::EventFlags::OUT,
            Self::ReadWrite => epoll::EventFlags::IN | epoll::EventFlags::OUT,
        }
    }
}

/// The name of a watched descriptor. The kernel keeps a number for it.
pub trait Token: Copy {
    /// The number of this token. Different tokens have different numbers.
    fn number(self) -> u64;
    /// The token with this number.
    fn from_number(number: u64) -> Option<Self>;
}

/// Tokens of which there are only a few, each with a name.
pub trait Named: Copy + PartialEq + 'static {
    /// All of them, once each: the place is the number.
    const ALL: &'static [Self];
}

impl<T: Named> Token for T {
    fn number(self) -> u64 {
        let place = Self::ALL.iter().position(|token| *token == self);
        // One that is not listed has a number that no token has.
        place.map_or(u64::MAX, |place| place as u64)
    }

    fn from_number(number: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

/// For tests, which tell descriptors apart by numbers.
impl Token for u64 {
    fn number(self) -> u64 {
        self
    }

    fn from_number(number: u64) -> Option<Self> {
        Some(number)
    }
}

/// For reactors that are only polled themselves: which of their descriptors is ready nobody asks.
impl Token for () {
    fn number(self) -> u64 {
        0
    }

    fn from_number(_: u64) -> Option<Self> {
        Some(())
    }
}

/// One descriptor that is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<T = u64> {
    /// The token given to [`Reactor::add`].
    pub token: T,
    /// A read makes progress: there are bytes, an end of file, or an error to fetch.
    pub readable: bool,
    /// A write makes progress, or fails at once.
    pub writable: bool,
    /// The other side is gone entirely, or the descriptor is in error.
    pub hangup: bool,
}

/// An epoll instance. Level triggered: what is not dealt with is reported again.
#[derive(Debug)]
pub struct Reactor<T = u64> {
    epoll: OwnedFd,
    token: PhantomData<fn(T) -> T>,
}

impl<T: Token> Reactor<T> {
    /// A new reactor that watches nothing. Its descriptor is closed on exec.
    ///
    /// # Errors
    /// The process or the system is out of descriptors or memory.
    pub fn new() -> Result<Self, Errno> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, token: PhantomData })
    }

    /// Watches `fd` under `token`.
    ///
    /// # Errors
    /// `EEXIST` for a descriptor that is watched already, `EPERM` for a regular file, or no memory.
    pub fn add(&self, fd: impl AsFd, token: T, interest: Interest) -> Result<(), Errno> {
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token.number()), interest.flags())
    }

    /// Changes what a watched descriptor is watched for.
    ///
    /// # Errors
    /// `ENOENT` for a descriptor that is not watched.
    pub fn modify(&self, fd: impl AsFd, token: T, interest: Interest) -> Result<(), Errno> {
        epoll::modify(&self.epoll, fd, epoll::EventData::new_u64(token.number()), interest.flags())
    }

    /// Stops watching `fd`. To be called before a descriptor is closed: a forked child may hold a
    /// copy, and then the kernel would keep reporting what this process no longer has.
    ///
    /// # Errors
    /// `ENOENT` for a descriptor that is not watched.
    pub fn remove(&self, fd: impl AsFd) -> Result<(), Errno> {
        epoll::delete(&self.epoll, fd)
    }

    /// Sleeps until something is ready or `timeout` is over (`None`: no limit), and puts what is
    /// ready into `events`, which is emptied first. A signal ends the sleep without events.
    ///
    /// # Errors
    /// Only for trouble of this process, such as no memory.
    pub fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event<T>>) -> Result<(), Errno> {
        events.clear();
        let limit = timeout.map(timespec);
        let mut ready = [const { MaybeUninit::uninit() }; BATCH];
        let ready = match epoll::wait(&self.epoll, &mut ready, limit.as_ref()) {
            Ok((ready, _)) => ready,
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error),
        };
        events.extend(ready.iter().filter_map(|event| {
            let flags = event.flags;
            let hangup = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
            Some(Event {
                token: T::from_number(event.data.u64())?,
                readable: flags.contains(epoll::EventFlags::IN) || hangup,
                writable: flags.contains(epoll::EventFlags::OUT) || hangup,
                hangup,
            })
        }));
        Ok(())
    }
}

impl Reactor<()> {
    /// A new reactor that is ready when any of these can be read: one descriptor for all of them.
    ///
    /// # Errors
    /// As for [`Reactor::new`] and [`Reactor::add`].
    pub fn of(fds: &[BorrowedFd<'_>]) -> Result<Self, Errno> {
        let reactor = Self::new()?;
        fds.iter().try_for_each(|fd| reactor.add(fd, (), Interest::Read))?;
        Ok(reactor)
    }
}

impl<T> AsFd for Reactor<T> {
    /// Readable while something is ready, so that reactors can be nested.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

fn timespec(limit: Duration) -> Timespec {
    // More than the kernel's clock can hold means "for ever" to any caller; 2^31 seconds serve.
    let seconds = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX).min(i64::from(i32::MAX));
    Timespec { tv_sec: seconds, tv_nsec: limit.subsec_nanos().into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    fn poll(reactor: &mut Reactor) -> Vec<Event> {
        let mut events = Vec::new();
        reactor.wait(Some(Duration::ZERO), &mut events).unwrap();
        events
    }

    #[test]
    fn reports_readiness_until_it_is_dealt_with() {
        let (a, mut b) = UnixStream::pair().unwrap();
        let mut reactor = Reactor::new().unwrap();
        reactor.add(&a, 7, Interest::Read).unwrap();
        assert!(poll(&mut reactor).is_empty());
        b.write_all(b"x").unwrap();
        let expected = Event { token: 7, readable: true, writable: false, hangup: false };
        assert_eq!(poll(&mut reactor), [expected]);
        assert_eq!(poll(&mut reactor), [expected]);
    }

    #[test]
    fn interest_changes_and_ends() {
        let (a, _b) = UnixStream::pair().unwrap();
        let mut reactor = Reactor::new().unwrap();
        reactor.add(&a, 1, Interest::Hangup).unwrap();
        assert!(poll(&mut reactor).is_empty());
        reactor.modify(&a, 2, Interest::read_and(true)).unwrap();
        assert_eq!(poll(&mut reactor), [Event { token: 2, readable: false, writable: true, hangup: false }]);
        reactor.remove(&a).unwrap();
        assert!(poll(&mut reactor).is_empty());
        assert_eq!(reactor.remove(&a), Err(Errno::NOENT));
    }

    #[test]
    fn hangup_is_always_told() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut reactor = Reactor::new().unwrap();
        reactor.add(&a, 3, Interest::Hangup).unwrap();
        drop(b);
        let events = poll(&mut reactor);
        assert!(events.len() == 1 && events[0].hangup && events[0].readable && events[0].writable);
    }

    #[test]
    fn more_than_a_batch_comes_in_turns() {
        let mut reactor = Reactor::new().unwrap();
        let pairs: Vec<_> = (0..BATCH + 3).map(|_| UnixStream::pair().unwrap()).collect();
        for (token, (a, _)) in pairs.iter().enumerate() {
            reactor.add(a, token as u64, Interest::Write).unwrap();
        }
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..2 {
            seen.extend(poll(&mut reactor).iter().map(|event| event.token));
        }
        assert_eq!(seen.len(), pairs.len());
    }
}
