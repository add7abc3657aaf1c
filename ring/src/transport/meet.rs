#![forbid(unsafe_code)]
//! Both ends of a meeting, whatever the transport, waiting for it, and who asks after peers.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::deadline::{Deadline, sleep_on};
use super::files::{FileConnector, FileListener};
use super::xen;
use crate::channel::Channel;
use crate::error::Error;

/// A server that waits for its one client.
pub struct Listener(pub(super) AnyListener);

pub(super) enum AnyListener {
    Files(FileListener),
    Xen(Box<xen::XenListener>),
    Library(xen::libxenvchan::LibraryListener),
}

impl Listener {
    /// Takes the client if it is there. Strangers are turned away and waiting goes on.
    ///
    /// Once a channel was returned this listener has served its purpose: drop it. Its pages are that
    /// client's, so a further call is [`Error::Closed`].
    pub fn accept(&mut self) -> Result<Option<Channel>, Error> {
        match &mut self.0 {
            AnyListener::Files(listener) => listener.accept(),
            AnyListener::Xen(server) => server.accept(),
            AnyListener::Library(server) => server.accept(),
        }
    }

    /// Waits for the client.
    pub fn accept_within(mut self, limit: Duration) -> Result<Channel, Error> {
        self.wait_for_client(limit)
    }

    /// As [`Listener::accept_within`], for callers with something more urgent to do than dropping the listener, which
    /// takes a few of xenstore's answers on Xen: a client that waits for a HELLO has a deadline.
    pub fn wait_for_client(&mut self, limit: Duration) -> Result<Channel, Error> {
        let deadline = Deadline::after(limit);
        loop {
            if let Some(channel) = self.accept()? {
                return Ok(channel);
            }
            sleep_on(self.as_fd(), deadline, None)?;
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            AnyListener::Files(listener) => listener.as_fd(),
            AnyListener::Xen(server) => server.as_fd(),
            AnyListener::Library(server) => server.as_fd(),
        }
    }
}

/// A client that looks for its server.
pub struct Connector(pub(super) AnyConnector);

pub(super) enum AnyConnector {
    Files(FileConnector),
    Xen(Box<xen::XenConnector>),
    Library(xen::libxenvchan::LibraryConnector),
}

impl Connector {
    /// One step, which does not wait for the server. Call when the descriptor is ready or
    /// [`Connector::retry_after`] has passed.
    pub fn poll(&mut self) -> Result<Option<Channel>, Error> {
        match &mut self.0 {
            AnyConnector::Files(connector) => connector.poll(),
            AnyConnector::Xen(client) => client.poll(),
            AnyConnector::Library(client) => client.poll(),
        }
    }

    /// How long to wait at most before the next [`Connector::poll`], if no event announces a change.
    pub fn retry_after(&self) -> Option<Duration> {
        match &self.0 {
            AnyConnector::Files(connector) => connector.retry_after(),
            AnyConnector::Xen(client) => client.retry_after(),
            AnyConnector::Library(client) => client.retry_after(),
        }
    }

    /// Waits until the server is there: it has given the channel already, or (`None`) is about to. What can be done
    /// beside that is best done now.
    pub fn find_within(&mut self, limit: Duration) -> Result<Option<Channel>, Error> {
        let deadline = Deadline::after(limit);
        loop {
            let channel = self.poll()?;
            if channel.is_some() || self.is_found() {
                return Ok(channel);
            }
            sleep_on(self.as_fd(), deadline, self.retry_after())?;
        }
    }

    /// Whether a server is there that owes its offer.
    fn is_found(&self) -> bool {
        matches!(&self.0, AnyConnector::Files(connector) if connector.is_greeting())
    }

    /// Waits for the server.
    pub fn connect_within(self, limit: Duration) -> Result<Channel, Error> {
        self.connect_or_next(limit, limit)
    }

    /// The same, but if a server that was found hangs up, another one is waited for no longer than `next`.
    pub fn connect_or_next(mut self, limit: Duration, next: Duration) -> Result<Channel, Error> {
        let mut deadline = Deadline::after(limit);
        let mut found = self.is_found();
        loop {
            if let Some(channel) = self.poll()? {
                return Ok(channel);
            }
            if found && !self.is_found() {
                deadline = Deadline::after(next.min(deadline.left()?));
            }
            found = self.is_found();
            sleep_on(self.as_fd(), deadline, self.retry_after())?;
        }
    }
}

impl AsFd for Connector {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            AnyConnector::Files(connector) => connector.as_fd(),
            AnyConnector::Xen(client) => client.as_fd(),
            AnyConnector::Library(client) => client.as_fd(),
        }
    }
}

/// Asks whether other domains are still there, for all calls of this one.
pub struct DomainMonitor(pub(super) xen::DomainMonitor);

impl DomainMonitor {
    /// To be called when the descriptor is ready; never waits. Fails once this VM was restored from a saved one.
    pub fn on_ready(&mut self) -> Result<(), Error> {
        self.0.on_ready()
    }
}

impl AsFd for DomainMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
