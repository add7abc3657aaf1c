//! The link to the daemon: waiting for it, HELLO, messages, and waiting again when the link was lost.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use agent_core::Violation;
use engine::link::{Framed, LinkError, MAX_QUEUED};
use engine::reactor::{Interest, Reactor, Token};
use ring::{Channel, Listener, Sizes, Transport};
use rustix::io::Errno;
use wire::control::{MAX_LOCAL_BODY, Message};
use wire::error::{Breach, PeerError};
use wire::handshake;
use wire::names::{DomainId, Port};
use wire::version::Version;

/// How long the daemon may take for its HELLO, and for the rest of a message that it has begun.
const MESSAGE_LIMIT: Duration = Duration::from_secs(10);

/// Time until the next attempt when listening failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Ring sizes of the control link, the same as upstream's.
const RINGS: Sizes = Sizes { left: 4096, right: 4096 };

/// Bytes that may wait for a daemon that does not read before further requests are refused: half of what the link
/// queues. The rest is for the ends of calls, which cannot be refused.
const BACKLOG: usize = MAX_QUEUED / 2;

/// The link, or the wait for it.
#[derive(Debug)]
pub(crate) struct Control<T> {
    transport: Transport,
    token: T,
    state: State,
}

enum State {
    /// No daemon yet.
    Waiting(Listener),
    /// The daemon has connected.
    Linked(Box<Link>),
    /// Listening failed; try again at this time.
    Down(Instant),
}

struct Link {
    framed: Framed<Channel>,
    /// Whether [`Event::Met`] was returned.
    told: bool,
    /// The version, once the daemon's HELLO has come.
    version: Option<Version>,
    /// Until when the rest of the daemon's message must come.
    deadline: Option<Instant>,
    /// What the descriptor is watched for.
    interest: Interest,
}

/// What happened on the link.
#[derive(Debug)]
pub(crate) enum Event {
    /// The daemon has connected; its HELLO has not come yet.
    Met,
    /// The HELLOs were exchanged.
    Up(Version),
    /// The daemon has sent a message.
    Message(Message),
}

/// Why the link is lost.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    /// The daemon broke the protocol.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The transport failed, or the daemon broke the framing.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The descriptor cannot be watched.
    #[error("cannot watch the link: {0}")]
    Watch(#[from] Errno),
    /// The daemon closed the link.
    #[error("dom0 closed the link")]
    Closed,
    /// The daemon has left a message incomplete for too long.
    #[error("dom0 left a message half sent for {MESSAGE_LIMIT:?}")]
    Late,
}

impl From<PeerError> for Lost {
    fn from(error: PeerError) -> Self {
        Self::Violation(error.into())
    }
}

impl<T: Token> Control<T> {
    /// Begins to listen for the daemon; the descriptor is watched under `token`.
    ///
    /// # Errors
    /// The transport does not allow it.
    pub(crate) fn new(transport: Transport, reactor: &Reactor<T>, token: T) -> Result<Self, ring::Error> {
        let state = State::Waiting(listen(&transport, reactor, token)?);
        Ok(Self { transport, token, state })
    }

    /// To be called when the descriptor was reported ready.
    pub(crate) fn on_ready(&mut self, reactor: &Reactor<T>, now: Instant) -> Result<(), Lost> {
        match &mut self.state {
            State::Waiting(_) => {
                self.meet(reactor, now);
                Ok(())
            }
            State::Linked(link) => Ok(link.framed.on_ready()?),
            State::Down(_) => Ok(()),
        }
    }

    /// What has happened since the last call; to be called until `None`.
    pub(crate) fn next(&mut self, now: Instant) -> Result<Option<Event>, Lost> {
        let State::Linked(link) = &mut self.state else { return Ok(None) };
        if !std::mem::replace(&mut link.told, true) {
            return Ok(Some(Event::Met));
        }
        let Some(frame) = link.framed.next()? else {
            link.owed(now);
            return if link.framed.is_open() { Ok(None) } else { Err(Lost::Closed) };
        };
        link.deadline = None;
        let message = Message::decode(frame.ty, &frame.body)?;
        match (link.version, message) {
            (Some(_), message) => Ok(Some(Event::Message(message))),
            (None, Message::Hello(theirs)) => {
                let version = Version::negotiate(theirs)?;
                link.version = Some(version);
                Ok(Some(Event::Up(version)))
            }
            (None, _) => Err(PeerError::from(Breach::UnexpectedType(frame.ty)).into()),
        }
    }

    /// Queues a message.
    pub(crate) fn send(&mut self, message: Vec<u8>) -> Result<(), Lost> {
        if let State::Linked(link) = &mut self.state {
            link.framed.send(message)?;
        }
        Ok(())
    }

    /// Whether many bytes wait for the daemon.
    pub(crate) fn is_busy(&self) -> bool {
        match &self.state {
            State::Linked(link) => link.framed.queued() >= BACKLOG,
            _ => false,
        }
    }

    /// Sends what can be sent and prepares to sleep. `true`: there is something to do already, do not sleep.
    pub(crate) fn arm(&mut self, reactor: &Reactor<T>) -> Result<bool, Lost> {
        let State::Linked(link) = &mut self.state else { return Ok(false) };
        let ready = link.framed.arm()?;
        let interest = Interest::read_and(link.framed.wants_out());
        if interest != link.interest {
            reactor.modify(link.framed.as_fd(), self.token, interest)?;
            link.interest = interest;
        }
        Ok(ready)
    }

    /// When [`Control::on_time`] is to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Waiting(_) => None,
            State::Linked(link) => link.deadline,
            State::Down(until) => Some(*until),
        }
    }

    /// To be called when the time of [`Control::deadline`] has come.
    pub(crate) fn on_time(&mut self, reactor: &Reactor<T>, now: Instant) -> Result<(), Lost> {
        match &self.state {
            State::Linked(link) if link.deadline.is_some_and(|deadline| deadline <= now) => Err(Lost::Late),
            State::Down(until) if *until <= now => {
                self.listen_again(reactor, now);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Drops the link and waits for another daemon.
    pub(crate) fn lose(&mut self, reactor: &Reactor<T>, now: Instant) {
        if let Some(fd) = self.fd() {
            // Closing it takes it off as well, unless another process holds a copy.
            let _ = reactor.remove(fd);
        }
        // The old link is closed before the new listener is made: both have the same name.
        self.state = State::Down(now);
        self.listen_again(reactor, now);
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            State::Waiting(listener) => Some(listener.as_fd()),
            State::Linked(link) => Some(link.framed.as_fd()),
            State::Down(_) => None,
        }
    }

    fn listen_again(&mut self, reactor: &Reactor<T>, now: Instant) {
        self.state = match listen(&self.transport, reactor, self.token) {
            Ok(listener) => State::Waiting(listener),
            Err(error) => {
                tracing::error!("cannot listen for dom0: {error}");
                State::Down(now + PAUSE)
            }
        };
    }

    /// Accepts the daemon, if it has connected.
    fn meet(&mut self, reactor: &Reactor<T>, now: Instant) {
        let State::Waiting(listener) = &mut self.state else { return };
        let channel = match listener.accept() {
            Ok(None) => return,
            Ok(Some(channel)) => channel,
            Err(error) => {
                tracing::error!("meeting dom0 failed: {error}");
                let _ = reactor.remove(listener.as_fd());
                self.state = State::Down(now + PAUSE);
                return;
            }
        };
        let _ = reactor.remove(listener.as_fd());
        self.state = match Link::new(channel, reactor, self.token, now) {
            Ok(link) => State::Linked(Box::new(link)),
            Err(error) => {
                tracing::error!("meeting dom0 failed: {error}");
                State::Down(now + PAUSE)
            }
        };
    }
}

impl Link {
    /// Takes a new channel: the agent is the server of this link, so its HELLO comes first.
    fn new<T: Token>(channel: Channel, reactor: &Reactor<T>, token: T, now: Instant) -> Result<Self, Lost> {
        reactor.add(&channel, token, Interest::Read)?;
        let mut framed = Framed::new(channel, MAX_LOCAL_BODY);
        framed.send(handshake::hello(Version::OURS).to_vec())?;
        Ok(Self {
            framed,
            told: false,
            version: None,
            deadline: Some(now + MESSAGE_LIMIT),
            interest: Interest::Read,
        })
    }

    /// Everything that has arrived was taken: the rest of an incomplete message must come in time.
    fn owed(&mut self, now: Instant) {
        let owes = self.version.is_none() || self.framed.is_mid_message();
        self.deadline = owes.then(|| self.deadline.unwrap_or(now + MESSAGE_LIMIT));
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Waiting(_) => "Waiting",
            Self::Linked(_) => "Linked",
            Self::Down(_) => "Down",
        })
    }
}

fn listen<T: Token>(transport: &Transport, reactor: &Reactor<T>, token: T) -> Result<Listener, ring::Error> {
    let listener = transport.listen(DomainId::DOM0.0, Port::CONTROL.0, RINGS)?;
    let watched = reactor.add(&listener, token, Interest::Read);
    watched.map_err(|error| ring::Error::io("watching the control socket")(error.into()))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::Kind;

    const LIMIT: Duration = Duration::from_secs(20);

    /// The agent's end, connected at `now`, and dom0's.
    fn met(dir: &std::path::Path, reactor: &mut Reactor, now: Instant) -> (Control<u64>, Channel) {
        let mut control = Control::new(Transport::new(Kind::Shm, 7, dir), &*reactor, 1).expect("listener");
        let dom0 = Transport::new(Kind::Shm, 0, dir);
        let other = std::thread::spawn(move || {
            dom0.connect(7, Port::CONTROL.0).expect("there").connect_within(LIMIT)
        });
        while !matches!(control.next(now).expect("no loss"), Some(Event::Met)) {
            reactor.wait(Some(LIMIT), &mut Vec::new()).expect("wait");
            control.on_ready(reactor, now).expect("no loss");
        }
        (control, other.join().expect("thread").expect("met"))
    }

    fn is_late(control: &mut Control<u64>, reactor: &Reactor, now: Instant) -> bool {
        match control.on_time(reactor, now) {
            Ok(()) => false,
            Err(Lost::Late) => true,
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn hello_and_the_rest_of_a_message_come_in_time() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut reactor = Reactor::new().expect("reactor");
        let begun = Instant::now();
        let (before, limit) = (Duration::from_millis(9999), Duration::from_secs(10));
        let (mut control, mut dom0) = met(dir.path(), &mut reactor, begun);
        assert!(control.next(begun).expect("no loss").is_none());
        assert!(!is_late(&mut control, &reactor, begun + before));
        assert!(is_late(&mut control, &reactor, begun + limit));

        let mut say = |control: &mut Control<u64>, bytes: &[u8]| {
            assert_eq!(dom0.write(bytes).expect("write"), bytes.len());
            dom0.flush().expect("flush");
            control.on_ready(&reactor, begun).expect("no loss");
        };
        say(&mut control, &handshake::hello(Version::V3));
        assert!(matches!(control.next(begun), Ok(Some(Event::Up(Version::V3)))));
        assert!(control.next(begun).expect("no loss").is_none());
        // No message is incomplete, so silence may last.
        assert_eq!(control.deadline(), None);
        say(&mut control, &[0, 2, 0]);
        let later = begun + limit;
        assert!(control.next(later).expect("no loss").is_none());
        assert!(!is_late(&mut control, &reactor, later + before));
        // Another byte of the message gives no more time.
        say(&mut control, &[0]);
        assert!(control.next(later + before).expect("no loss").is_none());
        assert!(is_late(&mut control, &reactor, later + limit));
    }
}
