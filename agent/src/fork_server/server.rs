//! The server: takes requests and runs each in a process of its own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use engine::Installation;
use engine::confine::Confinement;
use engine::exec::{Services, Users};
use engine::installation::Disagreement;
use engine::log_source::speak_for;
use engine::process::{Child, Signals, fork_keeping};
use engine::reactor::{self, Event, Interest, Reactor};
use ring::Transport;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::process::Signal;

use super::Options;
use super::request::{BadRequest, Decoder, Request};
use crate::ground::Ground;
use crate::job::Job;
use crate::listener::{AcceptPause, Listener, max_clients};
use crate::{EXIT_DONE, EXIT_FAILED, call};

/// The tokens of the fork server's reactor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Signals,
    Listener,
    /// Everything that was watched later, by its key.
    Watched(u64),
}

/// The first key; smaller numbers are the other tokens'.
const FIRST_KEY: u64 = 2;

impl reactor::Token for Token {
    fn number(self) -> u64 {
        match self {
            Self::Signals => 0,
            Self::Listener => 1,
            Self::Watched(key) => key,
        }
    }

    fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Signals,
            1 => Self::Listener,
            key => Self::Watched(key),
        })
    }
}

/// Only this user, and root, as whom the agent runs.
const MODE: u32 = 0o600;

/// Most connections that are accepted before other descriptors are handled; the listener stays readable while more
/// wait.
const ACCEPT_BATCH: usize = 64;

/// How long a request may take to arrive.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// Runs the fork server with these arguments, the program's own name first. Returns its exit status.
#[must_use]
pub fn main(args: Vec<OsString>) -> i32 {
    let options = match Options::from_args(args) {
        Ok(options) => options,
        Err(status) => return status,
    };
    status(run(&options))
}

fn status(served: Result<(), Error>) -> i32 {
    match served {
        Ok(()) => EXIT_DONE,
        Err(error) => {
            tracing::error!("{error}");
            EXIT_FAILED
        }
    }
}

/// Why the fork server cannot run.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("no way to reach other machines: {0}")]
    Transport(#[from] ring::Error),
    #[error(transparent)]
    Installation(#[from] Disagreement),
    #[error("this user has no name: say where to listen")]
    NoUser,
    #[error("cannot listen at {}: {source}", path.display())]
    Listener { path: PathBuf, source: io::Error },
    #[error("cannot go into the background: {0}")]
    Background(io::Error),
    #[error("no event loop: {0}")]
    Reactor(#[from] Errno),
    #[error("no signals: {0}")]
    Signals(io::Error),
}

/// Listens, then serves: in the background unless an option says otherwise.
fn run(options: &Options) -> Result<(), Error> {
    let transport = Transport::from_env()?;
    let installation = Installation::stated(transport.kind())?;
    let path = options.socket().ok_or(Error::NoUser)?;
    let listener = Listener::open(&path, MODE).map_err(|source| Error::Listener { path, source })?;
    let services = Services::from_env(Users::session(), installation);
    let confinement = Confinement::unless(options.no_confine);
    confinement.announce();
    if options.foreground {
        return accept_requests(&listener, transport, services, confinement);
    }
    let in_background = || {
        let served = accept_requests(&listener, transport, services, confinement);
        // This process exits without dropping anything.
        listener.remove_file();
        status(served)
    };
    fork_keeping(&[listener.as_fd()], in_background).map_err(Error::Background)?;
    listener.leave();
    Ok(())
}

fn accept_requests(
    listener: &Listener,
    transport: Transport,
    services: Services,
    confinement: Confinement,
) -> Result<(), Error> {
    let reactor = Reactor::new()?;
    let signals = Signals::block(&[Signal::TERM, Signal::INT, Signal::HUP]).map_err(Error::Signals)?;
    reactor.add(&signals, Token::Signals, Interest::Read)?;
    reactor.add(listener, Token::Listener, Interest::Read)?;
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!("cannot tell the service manager that the fork server is ready: {error}");
    }
    let server = Server {
        transport,
        services,
        confinement,
        reactor,
        signals,
        accept_pause: AcceptPause::default(),
        watched: BTreeMap::new(),
        asking: 0,
        next_key: FIRST_KEY,
    };
    server.run(listener)
}

/// Everything with a descriptor and a key of its own.
#[derive(Debug)]
enum Watched {
    /// A connection whose request is not complete, and must be by this time.
    Asking(OwnedFd, Decoder, Instant),
    /// The process of a call, which holds the connection.
    Process(Child),
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Asking(socket, ..) => socket.as_fd(),
            Self::Process(child) => child.as_fd(),
        }
    }
}

struct Server {
    transport: Transport,
    services: Services,
    confinement: Confinement,
    reactor: Reactor<Token>,
    signals: Signals,
    accept_pause: AcceptPause,
    watched: BTreeMap<u64, Watched>,
    asking: usize,
    next_key: u64,
}

impl Server {
    /// Serves until a signal ends it. Running calls continue.
    fn run(mut self, listener: &Listener) -> Result<(), Error> {
        let mut events = Vec::new();
        loop {
            let now = Instant::now();
            let deadlines = self.watched.values().filter_map(deadline).chain(self.accept_pause.deadline());
            let timeout = deadlines.min().map(|next| next.saturating_duration_since(now));
            self.reactor.wait(timeout, &mut events)?;
            let now = Instant::now();
            for Event { token, .. } in &events {
                match *token {
                    Token::Signals if self.signals.take_next().map_err(Error::Signals)?.is_some() => {
                        return Ok(());
                    }
                    Token::Signals => {}
                    Token::Listener => self.accept(listener, now),
                    Token::Watched(key) => self.on_watched(key),
                }
            }
            self.on_time(now);
            let room = self.asking < max_clients();
            self.accept_pause.adjust(&self.reactor, listener, Token::Listener, room, now);
        }
    }

    fn accept(&mut self, listener: &Listener, now: Instant) {
        for _ in 0..ACCEPT_BATCH {
            if self.asking >= max_clients() {
                return;
            }
            let Some(socket) = self.accept_pause.accept(listener, now) else { return };
            let trusted = engine::unix::peer_uid(&socket)
                .is_ok_and(|uid| uid == 0 || uid == rustix::process::geteuid().as_raw());
            if !trusted {
                tracing::warn!("another user asked for a call: refused");
            } else if let Some(key) =
                self.watch(Watched::Asking(socket, Decoder::default(), now + REQUEST_LIMIT))
            {
                // Its request has usually arrived already.
                self.on_watched(key);
            }
        }
    }

    fn on_watched(&mut self, key: u64) {
        match self.watched.get_mut(&key) {
            Some(Watched::Asking(socket, decoder, _)) => match hear(socket, decoder) {
                Ok(None) => {}
                Ok(Some(request)) => {
                    if let Some(Watched::Asking(socket, ..)) = self.forget(key) {
                        self.start(socket, request);
                    }
                }
                Err(why) => {
                    tracing::warn!("a request for a call: {why}");
                    self.forget(key);
                }
            },
            Some(Watched::Process(child)) => match child.try_wait() {
                Ok(None) => {}
                Ok(Some(_)) | Err(_) => {
                    self.forget(key);
                }
            },
            None => {}
        }
    }

    /// Runs a call. Its process holds the connection, so that the agent sees it end with that process.
    fn start(&mut self, socket: OwnedFd, request: Request) {
        let Request { just, endpoint, command } = request;
        let job = Job::in_session(&self.services, just, endpoint, &command);
        speak_for(&job.log_source());
        tracing::debug!("{}", job.label);
        let ground =
            Ground { transport: &self.transport, services: &self.services, confinement: self.confinement };
        let child = fork_keeping(&[socket.as_fd()], || call::run(ground, job, None));
        speak_for("");
        match child {
            Ok(child) => {
                self.watch(Watched::Process(child));
            }
            Err(error) => tracing::error!("cannot run a call: {error}"),
        }
    }

    fn watch(&mut self, what: Watched) -> Option<u64> {
        let key = self.next_key;
        self.next_key = self.next_key.wrapping_add(1).max(FIRST_KEY);
        if let Err(error) = self.reactor.add(&what, Token::Watched(key), Interest::Read) {
            tracing::error!("cannot watch a call: {error}");
            return None;
        }
        self.asking = self.asking.saturating_add(usize::from(matches!(what, Watched::Asking(..))));
        self.watched.insert(key, what);
        Some(key)
    }

    fn forget(&mut self, key: u64) -> Option<Watched> {
        let what = self.watched.remove(&key)?;
        let _ = self.reactor.remove(&what);
        self.asking = self.asking.saturating_sub(usize::from(matches!(what, Watched::Asking(..))));
        Some(what)
    }

    fn on_time(&mut self, now: Instant) {
        let late = |what: &Watched| deadline(what).is_some_and(|deadline| deadline <= now);
        let keys: Vec<u64> =
            self.watched.iter().filter(|(_, what)| late(what)).map(|(key, _)| *key).collect();
        for key in keys {
            tracing::warn!("a request for a call was not finished");
            self.forget(key);
        }
    }
}

fn deadline(what: &Watched) -> Option<Instant> {
    match what {
        Watched::Asking(.., deadline) => Some(*deadline),
        Watched::Process(_) => None,
    }
}

/// Why a connection gave no request.
#[derive(Debug, thiserror::Error)]
enum NoRequest {
    #[error("it ended before it was complete")]
    Incomplete,
    #[error("{0}")]
    Receive(#[from] Errno),
    #[error("{0}")]
    Bad(#[from] BadRequest),
}

/// Reads what is there.
fn hear(socket: &OwnedFd, decoder: &mut Decoder) -> Result<Option<Request>, NoRequest> {
    let mut buffer = [0_u8; 4096];
    loop {
        let bytes = match rustix::net::recv(socket, &mut buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Err(NoRequest::Incomplete),
            Ok((count, _)) => buffer.get(..count).unwrap_or_default(),
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        if let Some(request) = decoder.feed(bytes)? {
            return Ok(Some(request));
        }
    }
}

#[cfg(test)]
mod tests {
    use ring::Kind;

    use super::*;

    #[test]
    fn a_request_may_take_ten_seconds() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut server = Server {
            transport: Transport::new(Kind::Shm, 7, dir.path()),
            services: Services::from_env(Users::session(), Installation::Lab),
            confinement: Confinement::On,
            reactor: Reactor::new().expect("reactor"),
            signals: Signals::block(&[Signal::TERM]).expect("signals"),
            accept_pause: AcceptPause::default(),
            watched: BTreeMap::new(),
            asking: 0,
            next_key: FIRST_KEY,
        };
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().expect("pair");
        let now = Instant::now();
        server.watch(Watched::Asking(ours.into(), Decoder::default(), now + REQUEST_LIMIT)).expect("watched");
        server.on_time(now + Duration::from_millis(9999));
        assert_eq!((server.watched.len(), server.asking), (1, 1));
        server.on_time(now + Duration::from_secs(10));
        assert_eq!((server.watched.len(), server.asking), (0, 0));
    }
}
