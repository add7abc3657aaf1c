//! The local socket and the programs on it.

use std::io;
use std::path::Path;
use std::time::Duration;

use daemon_core::{ClientId, Now};
use engine::reactor::{Event, Interest, Reactor};
use rustix::io::Errno;
use wire::names::{DomainId, DomainName, Target};

use super::Driver;
use super::peers::{Heard, Peers, forget};
use super::token::{LocalToken, Token};
use crate::local_socket::LocalSocket;

/// Connections taken before everybody else has a turn.
const ACCEPT_BATCH: usize = 64;
/// Pause when there is no descriptor for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The socket, its clients, and the reactor that watches them.
pub(super) struct LocalClients {
    reactor: Reactor<LocalToken>,
    open: bool,
    socket: Option<LocalSocket>,
    paused_until: Option<Now>,
    clients: Peers<ClientId, LocalToken>,
}

impl LocalClients {
    /// No socket yet; `main` watches what this watches.
    pub(super) fn new(main: &Reactor<Token>) -> Result<Self, Errno> {
        let reactor = Reactor::new()?;
        main.add(&reactor, Token::LocalClients, Interest::Read)?;
        let clients = Peers::new(LocalToken::Client);
        Ok(Self { reactor, open: true, socket: None, paused_until: None, clients })
    }

    /// Whether clients are heard, or have to wait.
    pub(super) fn set_open(&mut self, main: &Reactor<Token>, open: bool) -> Result<(), Errno> {
        if open != self.open {
            let interest = if open { Interest::Read } else { Interest::Hangup };
            main.modify(&self.reactor, Token::LocalClients, interest)?;
            self.open = open;
        }
        Ok(())
    }

    /// Opens the local socket under all its names.
    pub(super) fn open(
        &mut self,
        folder: &Path,
        id: DomainId,
        name: &DomainName,
        uuid: Option<&Target>,
    ) -> io::Result<()> {
        let socket = LocalSocket::open(folder, id, name, uuid)?;
        self.reactor.add(&socket, LocalToken::Listener, Interest::Read)?;
        self.socket = Some(socket);
        self.paused_until = None;
        Ok(())
    }

    /// Removes the local socket.
    pub(super) fn withdraw(&mut self) {
        if let Some(socket) = self.socket.take() {
            forget(&self.reactor, &socket);
        }
        self.paused_until = None;
    }

    pub(super) fn close_client(&mut self, id: ClientId) {
        self.clients.close(&self.reactor, id);
    }

    /// When the next connection may be taken, if none may be now.
    pub(super) fn accept_at(&self) -> Option<Now> {
        self.paused_until
    }

    /// Takes a connection, if one is there and may be taken.
    fn accept(&mut self, now: Now) -> Option<std::os::fd::OwnedFd> {
        match self.socket.as_ref()?.accept() {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("a local client has to wait: {error}");
                self.pause(Some(now.saturating_add(ACCEPT_PAUSE)));
                None
            }
        }
    }

    /// Stops taking connections until then, or (`None`) takes them again.
    fn pause(&mut self, until: Option<Now>) {
        let interest = if until.is_some() { Interest::Hangup } else { Interest::Read };
        if let Some(socket) = &self.socket
            && let Err(error) = self.reactor.modify(socket, LocalToken::Listener, interest)
        {
            tracing::error!("watching the local socket: {error}");
        }
        self.paused_until = until;
    }
}

impl Driver {
    pub(super) fn local_clients_ready(&mut self) {
        let mut events: Vec<Event<LocalToken>> = Vec::new();
        if let Err(error) = self.local_clients.reactor.wait(Some(Duration::ZERO), &mut events) {
            tracing::error!("watching local clients: {error}");
            return;
        }
        for event in events {
            match event.token {
                LocalToken::Listener => self.accept_clients(),
                LocalToken::Client(id) => self.client_ready(id),
            }
            self.settle();
        }
    }

    pub(super) fn send_client(&mut self, id: ClientId, message: Vec<u8>) {
        if let Err(error) = self.local_clients.clients.send(&self.local_clients.reactor, id, message) {
            tracing::warn!("a local client was closed: {error}");
            self.local_clients.close_client(id);
            self.core.handle_client_closed(id);
        }
    }

    /// Takes connections again after a pause that is over.
    pub(super) fn resume_front(&mut self) {
        if self.local_clients.paused_until.is_some_and(|until| until <= self.now()) {
            self.local_clients.pause(None);
        }
    }

    fn accept_clients(&mut self) {
        for _ in 0..ACCEPT_BATCH {
            let now = self.now();
            let Some(socket) = self.local_clients.accept(now) else { return };
            let id = self.core.handle_client_connected(now);
            if let Err(error) = self.local_clients.clients.insert(&self.local_clients.reactor, id, socket) {
                tracing::warn!("a local client was closed: {error}");
                self.core.handle_client_closed(id);
            }
            self.settle();
        }
    }

    fn client_ready(&mut self, id: ClientId) {
        if let Err(error) = self.local_clients.clients.on_ready(&self.local_clients.reactor, id) {
            tracing::warn!("a local client was closed: {error}");
            self.local_clients.close_client(id);
            return self.core.handle_client_closed(id);
        }
        while let Some(heard) = self.local_clients.clients.hear(&self.local_clients.reactor, id) {
            let now = self.now();
            match heard {
                // A client has at most two messages to send; a third closes it.
                Heard::Message(frame) => self.core.handle_client_frame(now, id, &frame),
                Heard::Nothing { mid_message } => return self.core.handle_client_read(now, id, mid_message),
                Heard::Closed => return self.core.handle_client_closed(id),
                Heard::Broken(error) => {
                    tracing::warn!("a local client was closed: {error}");
                    return self.core.handle_client_closed(id);
                }
            }
            self.settle();
        }
    }
}
