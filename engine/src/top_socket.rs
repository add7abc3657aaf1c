#![forbid(unsafe_code)]
//! The socket on which an agent or a daemon tells `qrexec-top` who talks to whom.
//!
//! Whoever connects gets one answer, in one piece, and the end of the connection. Nothing is read from them, nothing waits
//! for them, and nothing of them is kept but when a user last had an answer.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Gid, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use wire::top::Viewer;

use crate::reactor::{Interest, Reactor, Token};
use crate::unix::{Bound, peer_uid};

/// Connections answered before everybody else has a turn.
const BATCH: usize = 8;
/// How long a user who sees only a part waits for the next answer: they cannot keep the program busy.
const PAUSE: Duration = Duration::from_millis(100);
/// Users of whom that is remembered; more have to wait.
const USERS: usize = 64;

/// Who may see what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Whoever can connect sees everything: the folder or the file's group says who that is.
    WhoeverConnects,
    /// Root and our own user see everything, others what is theirs.
    EachTheirOwn,
}

/// The listening socket.
#[derive(Debug)]
pub struct TopSocket {
    /// `None` from when even the spare descriptor was not enough to take connections.
    socket: Option<Bound>,
    /// Given up to take a connection, and close it, where no descriptor is left: it would wake us for ever.
    spare: Option<OwnedFd>,
    audience: Audience,
    /// When others than root were last answered.
    answered: BTreeMap<u32, Instant>,
}

impl TopSocket {
    /// Listens at `path`, for everybody on the machine, or for our user and this group. `reactor` watches it under `token`
    /// for as long as it is there.
    ///
    /// # Errors
    /// The folder is missing or not ours to write in.
    pub fn open<T: Token>(
        path: &Path,
        group: Option<Gid>,
        reactor: &Reactor<T>,
        token: T,
    ) -> io::Result<Self> {
        let (mode, audience) = match group {
            Some(_) => (0o660, Audience::WhoeverConnects),
            None => (0o666, Audience::EachTheirOwn),
        };
        let socket = Bound::new_for(path, mode, group)?;
        reactor.add(&socket, token, Interest::Read)?;
        Ok(Self { socket: Some(socket), spare: spare(), audience, answered: BTreeMap::new() })
    }

    /// Answers those who have connected. To be called when the socket is readable.
    pub fn answer(&mut self, now: Instant, text: impl Fn(Viewer) -> String) {
        for _ in 0..BATCH {
            let Some(peer) = self.accept() else { return };
            if let Some(viewer) = self.viewer(&peer, now) {
                tell(&peer, text(viewer).as_bytes());
            }
        }
    }

    /// The next connection. One that has no descriptor is closed.
    fn accept(&mut self) -> Option<OwnedFd> {
        let socket = self.socket.as_ref()?;
        let error = match socket.accept() {
            Ok(peer) => return peer,
            Err(error) => error,
        };
        tracing::warn!("a reader of qrexec-top is sent away: {error}");
        drop(self.spare.take());
        if socket.accept().is_err() {
            tracing::warn!("qrexec-top is not answered any more");
            self.socket = None;
        }
        self.spare = spare();
        None
    }

    /// What this one may see; `None`: nothing now.
    fn viewer(&mut self, peer: &OwnedFd, now: Instant) -> Option<Viewer> {
        let user = peer_uid(peer).ok()?;
        let own = rustix::process::geteuid().as_raw();
        if self.audience == Audience::WhoeverConnects || user == 0 || user == own {
            return Some(Viewer::Everything);
        }
        self.has_turn(user, now).then_some(Viewer::User(user))
    }

    fn has_turn(&mut self, user: u32, now: Instant) -> bool {
        self.answered.retain(|_, then| now.saturating_duration_since(*then) < PAUSE);
        if self.answered.contains_key(&user) || self.answered.len() >= USERS {
            return false;
        }
        self.answered.insert(user, now);
        true
    }
}

fn spare() -> Option<OwnedFd> {
    rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// An answer is no longer than a fresh socket's buffer; one that does not fit all the same is cut, which its reader sees.
fn tell(peer: &OwnedFd, mut text: &[u8]) {
    while !text.is_empty() {
        match send(peer, text, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => text = text.get(sent..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use wire::top::MAX_ANSWER;

    use super::*;

    #[test]
    fn whoever_connects_gets_the_longest_answer_whole_without_being_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("top");
        let reactor = Reactor::<u64>::new().unwrap();
        let mut socket = TopSocket::open(&path, None, &reactor, 1).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        let mut peers: Vec<UnixStream> = (0..3).map(|_| UnixStream::connect(&path).unwrap()).collect();
        drop(peers.remove(0));
        let text = "x".repeat(MAX_ANSWER);
        socket.answer(Instant::now(), |viewer| {
            assert_eq!(viewer, Viewer::Everything, "the test's user is the socket's");
            text.clone()
        });
        for mut peer in peers {
            let mut heard = String::new();
            peer.read_to_string(&mut heard).unwrap();
            assert_eq!(heard.len(), MAX_ANSWER);
        }
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_user_waits_for_the_next_answer_and_many_users_for_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let reactor = Reactor::<u64>::new().unwrap();
        let mut socket = TopSocket::open(&folder.path().join("top"), None, &reactor, 1).unwrap();
        let now = Instant::now();
        assert!(socket.has_turn(1000, now) && socket.has_turn(1001, now) && !socket.has_turn(1000, now));
        assert!(socket.has_turn(1000, now + PAUSE) && !socket.has_turn(1000, now + PAUSE));
        let later = now + PAUSE * 4;
        let served = (0..1000).filter(|user| socket.has_turn(*user, later)).count();
        assert_eq!(served, USERS);
    }
}
