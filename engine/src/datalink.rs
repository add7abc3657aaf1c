#![forbid(unsafe_code)]
//! Opens the data link of one call: both sides meet, then each sends HELLO.
//!
//! Neither side waits for the other's HELLO before it sends its own: the lower of the two versions is used, whichever
//! came first.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use ring::{Channel, Connector, Listener, Rings, Sizes, Transport};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, recv};
use wire::error::PeerError;
use wire::handshake::Handshake;
use wire::version::Version;

use crate::step;

/// How long `client-vm` and the agent wait for the other side of the data link.
pub const WAIT_VM: Duration = Duration::from_secs(120);
/// How long `qrexec-client` waits, unless `-w` says otherwise.
pub const WAIT_CLIENT: Duration = Duration::from_secs(10);
/// How long a service in dom0 waits for its caller.
pub const WAIT_DOM0_SERVICE: Duration = Duration::from_secs(5);
/// How long a HELLO may take once the link is there.
pub const WAIT_HELLO: Duration = Duration::from_secs(10);

/// If a server closes before its HELLO, another one is looked for this long. The first may have belonged to an earlier
/// call that is ending, on a port that the daemon has given to a new call: upstream's daemon does so at once.
const ANOTHER: Duration = Duration::from_secs(10);
/// The same between processes of one machine. Only programs of this project meet there, and this project's daemon
/// reuses no port while its last caller may still listen. So the server that is gone was most likely this call's own;
/// if not, the next one comes at once.
const SURELY: Duration = Duration::from_millis(500);
/// Time until the next attempt to meet: no event tells that another server has come.
const PAUSE: Duration = Duration::from_millis(20);

/// How long a client may still come after a [`Promise`] was broken.
const LAST_CALL: Duration = Duration::from_millis(700);

/// Why there is no data link.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Meeting failed, or nobody came.
    #[error(transparent)]
    Ring(#[from] ring::Error),
    /// The peer's HELLO is not acceptable.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The peer left before its HELLO was complete.
    #[error("the peer closed the data link before its HELLO")]
    Closed,
    /// The peer is there and has sent no HELLO.
    #[error("the peer sent no HELLO within {0:?}")]
    Silent(Duration),
    /// The daemon no longer expects the call.
    #[error("the call can't come: it is over, or its qube's agent is gone")]
    Withdrawn,
    /// Waiting itself failed.
    #[error("waiting for the peer's HELLO: {0}")]
    Wait(#[from] rustix::io::Errno),
}

/// Opens the data link on `port` as its server, for the domain `peer`, with rings of at least `min` bytes.
pub fn serve(
    transport: &Transport,
    peer: u32,
    port: u32,
    min: Sizes,
    limit: Duration,
) -> Result<(Channel, Version), Error> {
    serve_with(transport, peer, port, transport.rings(min)?, limit)
}

/// As [`serve`], with rings that were prepared before it was known who would come.
pub fn serve_with(
    transport: &Transport,
    peer: u32,
    port: u32,
    rings: Rings,
    limit: Duration,
) -> Result<(Channel, Version), Error> {
    let mut listener = transport.listen_with(peer, port, rings)?;
    step::reached("data link: listening");
    let link = greet(listener.wait_for_client(limit)?);
    // Only now: removing the listener's name may take longer than the client waits for a HELLO.
    drop(listener);
    link
}

/// A connection to a process that knows when the call cannot come any more.
#[derive(Debug, Clone, Copy)]
pub enum Promise<'a> {
    /// It closes the connection then.
    Open(BorrowedFd<'a>),
    /// It sends something then. If it closes the connection, that means nothing.
    Silent(BorrowedFd<'a>),
}

impl Promise<'_> {
    /// Other data on that connection are for another reader, and must not wake this one again and again.
    fn poll(&self) -> PollFd<'_> {
        match self {
            Self::Open(fd) => PollFd::from_borrowed_fd(*fd, PollFlags::RDHUP),
            Self::Silent(fd) => PollFd::from_borrowed_fd(*fd, PollFlags::IN),
        }
    }

    /// Something happened on the connection: whether it breaks the promise.
    fn is_broken(&self) -> bool {
        match self {
            Self::Open(_) => true,
            Self::Silent(fd) => {
                let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
                matches!(recv(fd, &mut [0; 1][..], flags), Ok((1.., _)))
            }
        }
    }
}

/// As [`serve_with`], with a promise that the client will come. A broken promise may also mean that the call is over
/// already, with its last bytes in rings that nobody has read: so the client is waited for a little longer.
pub fn serve_while(
    transport: &Transport,
    peer: u32,
    port: u32,
    rings: Rings,
    limit: Duration,
    promise: Promise<'_>,
) -> Result<(Channel, Version), Error> {
    let mut listener = transport.listen_with(peer, port, rings)?;
    step::reached("data link: listening");
    let mut until = Instant::now().checked_add(limit);
    let mut promised = true;
    let mut watched = Some(promise);
    loop {
        if let Some(channel) = listener.accept()? {
            let link = greet(channel);
            drop(listener);
            return link;
        }
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(if promised { ring::Error::Timeout(limit).into() } else { Error::Withdrawn });
        }
        if !wait_for_either(&listener, watched, left)? {
            continue;
        }
        if watched.take().is_some_and(|promise| promise.is_broken()) {
            promised = false;
            let soon = Instant::now() + LAST_CALL;
            until = Some(until.map_or(soon, |until| until.min(soon)));
        }
    }
}

/// Sleeps until a client may be there. `true`: something happened on the promise's connection.
fn wait_for_either(
    listener: &Listener,
    promise: Option<Promise<'_>>,
    left: Option<Duration>,
) -> Result<bool, Error> {
    let timeout =
        left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
    let mut fds = vec![PollFd::new(listener, PollFlags::IN)];
    fds.extend(promise.as_ref().map(Promise::poll));
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(fds.get(1).is_some_and(|fd| !fd.revents().is_empty())),
        Err(error) => Err(error.into()),
    }
}

/// Connects to the data link on `port` of the domain `server`.
pub fn connect(
    transport: &Transport,
    server: u32,
    port: u32,
    limit: Duration,
) -> Result<(Channel, Version), Error> {
    let begun = Instant::now();
    let found = Found::look(transport, server, port, limit)?;
    found.greet(limit.saturating_sub(begun.elapsed()))
}

/// A server of a data link that was found. It has not sent HELLO yet, nor perhaps shared its rings: the caller can use
/// the time until it does.
pub struct Found<'a> {
    transport: &'a Transport,
    place: (u32, u32),
    met: Met,
}

/// How long another server is waited for if the one that was found is gone.
#[must_use]
pub fn next_within(transport: &Transport) -> Duration {
    match transport.kind() {
        ring::Kind::Shm => SURELY,
        ring::Kind::Socket | ring::Kind::Xen => ANOTHER,
    }
}

/// How far the meeting with a server is.
enum Met {
    There(Connector),
    Done(Channel),
    /// The server was not the right one: look for another.
    No,
}

impl<'a> Found<'a> {
    /// Waits until there is a server on `port` of the domain `server`.
    pub fn look(transport: &'a Transport, server: u32, port: u32, limit: Duration) -> Result<Self, Error> {
        step::reached("data link: looking");
        let mut connector = transport.connect(server, port)?;
        let met = connector.find_within(limit)?.map_or(Met::There(connector), Met::Done);
        step::reached("data link: found");
        Ok(Self { transport, place: (server, port), met })
    }

    /// Takes the channel and exchanges HELLOs; if the server that was found closes before its own, with the next one.
    /// That may take as long as `limit`, however long [`Found::look`] took.
    pub fn greet(mut self, limit: Duration) -> Result<(Channel, Version), Error> {
        let end = Instant::now() + limit;
        // Set once a server has closed before its HELLO.
        let mut until: Option<Instant> = None;
        loop {
            let until_then = until.unwrap_or(end);
            let left = until_then.saturating_duration_since(Instant::now());
            match self.meet(left) {
                // That a server closed tells more than that no other one came.
                Err(_) if until.is_some() => return Err(Error::Closed),
                met => match greet(met?) {
                    Err(Error::Closed | Error::Ring(ring::Error::Closed))
                        if until.is_none_or(|until| Instant::now() < until) => {}
                    greeted => return greeted,
                },
            }
            until.get_or_insert_with(|| end.min(Instant::now() + next_within(self.transport)));
            // No event tells when the next server listens, and one that closes at once must not make this a busy loop.
            std::thread::sleep(PAUSE);
        }
    }

    fn meet(&mut self, left: Duration) -> Result<Channel, ring::Error> {
        match std::mem::replace(&mut self.met, Met::No) {
            Met::Done(channel) => Ok(channel),
            Met::There(connector) => connector.connect_or_next(left, next_within(self.transport)),
            Met::No => self.transport.connect(self.place.0, self.place.1)?.connect_within(left),
        }
    }
}

/// Exchanges HELLOs on a new channel.
pub fn greet(channel: Channel) -> Result<(Channel, Version), Error> {
    greet_as(channel, Version::OURS, WAIT_HELLO)
}

/// As [`greet`], as a program of version `ours` that waits for `limit`.
pub fn greet_as(mut channel: Channel, ours: Version, limit: Duration) -> Result<(Channel, Version), Error> {
    step::reached("data link: met");
    let mut handshake = Handshake::new(ours);
    let deadline = Instant::now() + limit;
    let hello = handshake.hello();
    let mut sent = 0;
    let mut agreed = None;
    loop {
        if sent < hello.len() {
            sent += channel.write(&hello[sent..])?;
            channel.flush()?;
        }
        while agreed.is_none() {
            let mut buf = [0u8; 16];
            let wanted = handshake.wanted().min(buf.len());
            match channel.read(&mut buf[..wanted])? {
                0 => break,
                n => agreed = handshake.feed(&buf[..n])?,
            }
        }
        match agreed {
            Some(version) if sent == hello.len() && channel.drained() => {
                step::reached("data link: HELLO");
                return Ok((channel, version));
            }
            _ if deadline <= Instant::now() => return Err(Error::Silent(limit)),
            _ => sleep(&mut channel, agreed.is_none(), sent < hello.len(), deadline)?,
        }
    }
}

fn sleep(channel: &mut Channel, data: bool, room: bool, deadline: Instant) -> Result<(), Error> {
    if !channel.is_open() && channel.readable()? == 0 {
        return Err(Error::Closed);
    }
    if channel.arm(data, room)? {
        return Ok(());
    }
    let left = deadline.saturating_duration_since(Instant::now());
    let out = if channel.wants_out() { PollFlags::OUT } else { PollFlags::empty() };
    let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
    let ready = match poll(&mut [PollFd::new(&*channel, PollFlags::IN | out)], Some(&timeout)) {
        Ok(n) => n > 0,
        Err(rustix::io::Errno::INTR) => false,
        Err(error) => return Err(error.into()),
    };
    if ready {
        channel.on_ready()?;
    }
    Ok(())
}
