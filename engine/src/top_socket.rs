#![forbid(unsafe_code)]
//! The socket on which an agent or a daemon tells `qrexec-top` which calls there are.
//!
//! Each connection gets one answer, at once, and is closed. Nothing is read from it and it is never waited for; only
//! the time of each user's last answer is kept.

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

/// How many connections are answered before other descriptors are handled.
const BATCH: usize = 8;
/// How long a user who sees only a part must wait for the next answer, so that they cannot keep the program busy.
const PAUSE: Duration = Duration::from_millis(100);
/// For how many users that time is kept; further ones have to wait.
const USERS: usize = 64;

/// Who may see which calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Everybody who can connect sees everything: the folder, or the file's group, decides who can.
    WhoeverConnects,
    /// Root and this process's user see everything, others see their own calls.
    EachTheirOwn,
}

/// The listening socket.
#[derive(Debug)]
pub struct TopSocket {
    /// `None` once no connection could be taken even with the spare descriptor.
    socket: Option<Bound>,
    /// Closed to make room for a connection when no descriptor is left, which is then taken and closed: otherwise it
    /// would wake this process for ever.
    spare: Option<OwnedFd>,
    audience: Audience,
    /// When users other than root were last answered.
    answered: BTreeMap<u32, Instant>,
}

impl TopSocket {
    /// Listens at `path`, for everybody on the machine, or for this process's user and this group. `reactor` watches
    /// the socket under `token` for as long as it exists.
    ///
    /// # Errors
    /// The folder does not exist, or may not be written.
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

    /// The next connection. If no descriptor is left for it, it is closed.
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

    /// What this user may see; `None`: nothing at the moment.
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

/// Sends an answer, which is no longer than a new socket's buffer. If it does not fit all the same it is cut, which
/// the reader notices.
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
