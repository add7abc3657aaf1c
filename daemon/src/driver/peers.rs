//! Framed unix connections by id: local clients, and the daemons of targets.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use engine::link::{ByteLink, Framed, LinkError, UnixLink};
use engine::reactor::{Interest, Reactor, Token};
use rustix::io::Errno;
use wire::control::MAX_LOCAL_BODY;
use wire::frame::Frame;

/// What one look at a link brought.
#[derive(Debug)]
pub(super) enum Heard {
    /// A message; there may be more.
    Message(Frame),
    /// Nothing more for now; whether a message has begun.
    Nothing { mid_message: bool },
    /// The other side closed it.
    Closed,
    /// It is broken.
    Broken(LinkError),
}

/// Takes what a link has next.
pub(super) fn hear<T: ByteLink>(link: &mut Framed<T>) -> Heard {
    match link.next() {
        Ok(Some(frame)) => Heard::Message(frame),
        Ok(None) if link.is_open() => Heard::Nothing { mid_message: link.is_mid_message() },
        Ok(None) => Heard::Closed,
        Err(error) => Heard::Broken(error),
    }
}

/// Connections of one kind.
#[derive(Debug)]
pub(super) struct Peers<K, T> {
    token: fn(K) -> T,
    links: BTreeMap<K, Framed<UnixLink>>,
}

impl<K: Copy + Ord, T: Token> Peers<K, T> {
    /// None yet; `token` names them to the reactor.
    pub(super) fn new(token: fn(K) -> T) -> Self {
        Self { token, links: BTreeMap::new() }
    }

    /// Takes a connected socket and watches it.
    pub(super) fn insert(&mut self, reactor: &Reactor<T>, id: K, socket: OwnedFd) -> Result<(), Errno> {
        reactor.add(&socket, (self.token)(id), Interest::Read)?;
        self.links.insert(id, Framed::new(UnixLink::new(socket), MAX_LOCAL_BODY));
        Ok(())
    }

    /// Sends a message, as far as the other side has room for it, the rest when it has.
    pub(super) fn send(&mut self, reactor: &Reactor<T>, id: K, message: Vec<u8>) -> Result<(), LinkError> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        link.send(message)?;
        self.settle(reactor, id)
    }

    /// To be called when the descriptor was ready, before [`Peers::hear`].
    pub(super) fn on_ready(&mut self, reactor: &Reactor<T>, id: K) -> Result<(), LinkError> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        link.on_ready()?;
        self.settle(reactor, id)
    }

    /// The next thing that a connection has to tell; `None` if there is no such connection. One that
    /// is closed or broken is dropped.
    pub(super) fn hear(&mut self, reactor: &Reactor<T>, id: K) -> Option<Heard> {
        let heard = hear(self.links.get_mut(&id)?);
        if matches!(heard, Heard::Closed | Heard::Broken(_)) {
            self.close(reactor, id);
        }
        Some(heard)
    }

    /// Closes a connection. What was sent has been handed to the kernel, which delivers it still.
    pub(super) fn close(&mut self, reactor: &Reactor<T>, id: K) {
        if let Some(link) = self.links.remove(&id) {
            forget(reactor, &link);
        }
    }

    fn settle(&mut self, reactor: &Reactor<T>, id: K) -> Result<(), LinkError> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        let before = link.wants_out();
        link.arm()?;
        if link.wants_out() != before {
            reactor.modify(&*link, (self.token)(id), Interest::read_and(link.wants_out()))?;
        }
        Ok(())
    }
}

/// Stops watching what is about to be closed.
pub(super) fn forget<T: Token>(reactor: &Reactor<T>, fd: impl std::os::fd::AsFd) {
    // It was watched; if the kernel forgot it already, all the better.
    let _ = reactor.remove(fd);
}
