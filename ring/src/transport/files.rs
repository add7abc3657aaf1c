#![forbid(unsafe_code)]
//! Servers and clients finding each other on the file system.
//!
//! A client may come before its server. Most are less than a millisecond early, and closing an inotify instance takes
//! the kernel more than ten (it waits for a grace period of all readers). So a client looks again a few times, after
//! pauses that double, and only then watches the folder and tries again when the name appears. Where no event comes
//! (upstream's listener is bound before it listens, and a user may have no inotify instance left) it tries again after
//! a few milliseconds, then after pauses that double up to a second: so a long wait costs little.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify;

use super::{Kind, shm, stream};
use crate::channel::Channel;
use crate::error::Error;
use crate::layout::Orders;
use sys::reactor::{Interest, Reactor};
use sys::unix;

/// Pause before the first retry that no event announces; each further one is twice as long, up to the longest.
const RETRY: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_secs(1);
/// Pause before the first look again; each further one is twice as long.
const SOON: Duration = Duration::from_micros(100);
/// Looks again before the folder is watched: together they last as long as closing the watch would.
const LOOKS: u32 = 7;

/// A server that waits for its one client.
pub(super) struct FileListener {
    socket: unix::Bound,
    offer: Offer,
}

/// What the client will be given.
pub(super) enum Offer {
    Shm(shm::Offer),
    Stream(Orders),
    /// The client has been given it.
    Taken,
}

impl Offer {
    /// Rings of these orders, for a client that is not known yet.
    pub(super) fn new(kind: Kind, orders: Orders) -> Result<Offer, Error> {
        Ok(match kind {
            Kind::Shm => Offer::Shm(shm::Offer::new(orders)?),
            _ => Offer::Stream(orders),
        })
    }
}

impl FileListener {
    pub(super) fn new(path: PathBuf, offer: Offer) -> Result<FileListener, Error> {
        let socket =
            unix::Bound::new(&path, 0o600).map_err(Error::io(format!("listening at {}", path.display())))?;
        Ok(FileListener { socket, offer })
    }

    /// Takes the client if it is there. Strangers are turned away and waiting goes on.
    pub(super) fn accept(&mut self) -> Result<Option<Channel>, Error> {
        loop {
            if matches!(self.offer, Offer::Taken) {
                return Err(Error::Closed);
            }
            let accepted = self.socket.accept();
            let at = || format!("accepting at {}", self.socket.path().display());
            let Some(peer) = accepted.map_err(|error| Error::io(at())(error))? else {
                return Ok(None);
            };
            if !trusted(&peer) {
                continue;
            }
            let channel = match &mut self.offer {
                Offer::Shm(offer) => match offer.give(peer) {
                    Ok(channel) => channel,
                    Err(_) => continue, // it left again before it was greeted
                },
                Offer::Stream(orders) => stream::channel(peer, orders.swapped())?,
                Offer::Taken => return Err(Error::Closed),
            };
            self.offer = Offer::Taken;
            return Ok(Some(channel));
        }
    }
}

impl AsFd for FileListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Peers run as the same user, or as root, who could do anything anyway.
fn trusted(peer: &OwnedFd) -> bool {
    unix::peer_uid(peer).is_ok_and(|uid| uid == 0 || uid == rustix::process::geteuid().as_raw())
        || rustix::process::geteuid().is_root()
}

/// A client that looks for its server.
pub(super) struct FileConnector {
    kind: Kind,
    path: PathBuf,
    state: State,
    /// Holds whatever is waited for, so that callers may register one descriptor for all states.
    events: Reactor<()>,
    /// No event will come: try again after `pause`.
    timed: bool,
    pause: Duration,
}

enum State {
    /// It tried so many times, without a watch, because most servers are there already or come soon.
    Looking(u32),
    /// The server was not there: its folder is watched, if that is possible.
    Watching(Option<OwnedFd>),
    /// Connected, waiting for the offer.
    Greeting(OwnedFd),
    /// The channel was handed out.
    Done,
}

impl FileConnector {
    pub(super) fn new(kind: Kind, path: PathBuf) -> Result<FileConnector, Error> {
        let events = Reactor::new().map_err(|e| Error::io("creating an epoll instance")(e.into()))?;
        Ok(FileConnector { kind, path, state: State::Looking(0), events, timed: false, pause: RETRY })
    }

    /// One step, never blocking. Call when the descriptor is ready or [`FileConnector::retry_after`] has passed.
    pub(super) fn poll(&mut self) -> Result<Option<Channel>, Error> {
        loop {
            match &mut self.state {
                State::Looking(tried) => {
                    let tried = *tried;
                    if self.try_connect()? {
                        continue;
                    }
                    if tried < LOOKS {
                        self.state = State::Looking(tried + 1);
                        return Ok(None);
                    }
                    self.watch();
                }
                State::Watching(watch) => {
                    if let Some(fd) = watch {
                        forget_events(fd);
                    }
                    let waited = self.timed;
                    if !self.try_connect()? {
                        if waited {
                            self.pause = (self.pause * 2).min(LONGEST);
                        }
                        return Ok(None);
                    }
                }
                State::Greeting(_) => match self.greet()? {
                    Greeting::Wait => return Ok(None),
                    Greeting::Again => {
                        // After a pause: a server that hangs up at once must not make this a busy loop.
                        self.watch();
                        self.timed = true;
                        return Ok(None);
                    }
                    Greeting::Met(channel) => return Ok(Some(*channel)),
                },
                State::Done => return Err(Error::Closed),
            }
        }
    }

    /// Whether the server has accepted the connection and has not sent its offer yet.
    pub(super) fn is_greeting(&self) -> bool {
        matches!(self.state, State::Greeting(_))
    }

    /// How long to wait at most before the next [`FileConnector::poll`], if no event announces a change.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self.state {
            State::Looking(0) => Some(Duration::ZERO),
            State::Looking(tried) => Some(SOON * (1 << (tried - 1))),
            _ => self.timed.then_some(self.pause),
        }
    }

    /// Tries once. `false`: the server is not there (yet).
    fn try_connect(&mut self) -> Result<bool, Error> {
        self.timed = match unix::connect_nonblocking(&self.path) {
            Ok(fd) if !trusted(&fd) => {
                return Err(self.misbehaved("it belongs to another user"));
            }
            Ok(fd) => {
                self.register(&fd)?;
                self.state = State::Greeting(fd);
                return Ok(true);
            }
            // A name that appears raises an event; a listener of upstream's that is not ready yet does not.
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => self.kind != Kind::Shm,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => true,
            Err(e) => return Err(Error::io(format!("connecting to {}", self.path.display()))(e)),
        } || matches!(self.state, State::Watching(None));
        Ok(false)
    }

    fn watch(&mut self) {
        let watch = watch_folder(self.kind, &self.path).filter(|fd| self.register(fd).is_ok());
        self.timed = watch.is_none();
        self.state = State::Watching(watch);
    }

    fn register(&self, fd: &OwnedFd) -> Result<(), Error> {
        self.events.add(fd, (), Interest::Read).map_err(|e| Error::io("watching a descriptor")(e.into()))
    }

    fn greet(&mut self) -> Result<Greeting, Error> {
        let State::Greeting(fd) = std::mem::replace(&mut self.state, State::Done) else {
            return Err(Error::Closed);
        };
        if self.kind != Kind::Shm {
            // The listening side of a stream chose its own staging; ours is a matter of this process.
            return stream::channel(fd, stream::client_orders()?).map(Box::new).map(Greeting::Met);
        }
        match shm::receive(&fd) {
            Ok(region) => Ok(Greeting::Met(Box::new(shm::join(fd, region)))),
            Err(shm::Refusal::NotYet) => {
                self.state = State::Greeting(fd);
                Ok(Greeting::Wait)
            }
            Err(shm::Refusal::Gone) => Ok(Greeting::Again),
            Err(shm::Refusal::Bad(what)) => Err(self.misbehaved(what)),
            Err(shm::Refusal::Failed(error)) => Err(error),
        }
    }

    fn misbehaved(&self, what: &'static str) -> Error {
        Error::BadMeeting { path: self.path.clone(), what }
    }
}

enum Greeting {
    Wait,
    Again,
    Met(Box<Channel>),
}

impl AsFd for FileConnector {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

fn watch_folder(kind: Kind, path: &Path) -> Option<OwnedFd> {
    let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).ok()?;
    // Our own listeners appear by rename; upstream's are bound in place.
    let what = match kind {
        Kind::Shm => inotify::WatchFlags::MOVED_TO,
        _ => inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::CREATE,
    };
    inotify::add_watch(&fd, path.parent()?, what).ok()?;
    Some(fd)
}

fn forget_events(fd: &OwnedFd) {
    let mut buf = [0u8; 4096];
    while rustix::io::read(fd, &mut buf).is_ok_and(|n| n == buf.len()) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without a watch, as when all instances of the user are taken.
    #[test]
    fn looking_without_a_watch_costs_less_and_less() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server");
        let mut connector = FileConnector::new(Kind::Shm, path.clone()).unwrap();
        connector.state = State::Watching(None);
        connector.timed = true;
        let mut pauses = Vec::new();
        for _ in 0..12 {
            pauses.push(connector.retry_after().unwrap().as_millis());
            assert!(connector.poll().unwrap().is_none());
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000, 1000]);
        // And it is found all the same.
        let orders = super::super::stream::client_orders().unwrap();
        let _server = FileListener::new(path, Offer::new(Kind::Shm, orders).unwrap()).unwrap();
        assert!(connector.poll().unwrap().is_none() && connector.is_greeting());
    }
}
