//! A socket on which programs of this VM ask for services, or the agent for calls.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use engine::reactor::{Interest, Reactor, Token};
use engine::unix::Bound;
use rustix::process::{Resource, getrlimit};

/// How long to wait when there is no descriptor for a connection.
const PAUSE: Duration = Duration::from_secs(1);

/// The listening socket. Its file is removed with it, unless a successor has put its own there.
#[derive(Debug)]
pub(crate) struct Listener(Bound);

impl Listener {
    /// Listens at `path`, which gets these permissions.
    pub(crate) fn open(path: &Path, mode: u32) -> io::Result<Self> {
        Bound::new(path, mode).map(Self)
    }

    /// Closes the socket here and leaves the file: another process holds the socket.
    pub(crate) fn leave(self) {
        self.0.leave();
    }

    /// Removes the file, so that no further client can connect.
    pub(crate) fn remove_file(&self) {
        // If it stays, the next process that listens there replaces it.
        let _ = self.0.withdraw();
    }
}

/// Whether a listener is watched: not while there is no room for connections, nor for a while after a connection could
/// not be accepted for want of a descriptor.
#[derive(Debug)]
pub(crate) struct AcceptPause {
    open: bool,
    again: Option<Instant>,
}

/// Watched, for a listener that was just given to the reactor.
impl Default for AcceptPause {
    fn default() -> Self {
        Self { open: true, again: None }
    }
}

impl AcceptPause {
    /// The next connection, non-blocking; `None`: none is waiting, or none can be accepted now.
    pub(crate) fn accept(&mut self, listener: &Listener, now: Instant) -> Option<OwnedFd> {
        match listener.0.accept() {
            Ok(client) => client,
            Err(error) => {
                // No descriptor is left in this process or in the system. The client stays in the queue.
                tracing::error!("cannot take a client: {error}");
                self.again = Some(now + PAUSE);
                None
            }
        }
    }

    /// When to accept again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.again
    }

    /// Watches the listener as long as connections can be accepted.
    pub(crate) fn adjust<T: Token>(
        &mut self,
        reactor: &Reactor<T>,
        listener: &Listener,
        token: T,
        room: bool,
        now: Instant,
    ) {
        self.again = self.again.filter(|time| *time > now);
        let open = room && self.again.is_none();
        let interest = if open { Interest::Read } else { Interest::Hangup };
        if self.open != open && reactor.modify(listener, token, interest).is_ok() {
            self.open = open;
        }
    }
}

/// As many connections as half of this process's descriptors; the rest is for calls.
pub(crate) fn max_clients() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit / 2).unwrap_or(usize::MAX).clamp(16, 1 << 16)
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_file_is_open_to_all_and_goes_with_the_listener() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("agent");
        let listener = Listener::open(&path, 0o777).expect("listens");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o777);
        assert!(listener.0.accept().expect("nobody").is_none());
        let _client = std::os::unix::net::UnixStream::connect(&path).expect("connects");
        assert!(listener.0.accept().expect("somebody").is_some());

        let successor = Listener::open(&path, 0o777).expect("replaces it");
        drop(listener);
        assert!(path.exists());
        drop(successor);
        assert!(!path.exists());
    }
}
