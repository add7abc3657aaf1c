//! The agent's side: handing a call over.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use engine::exec::Account;
use rustix::net::SendFlags;

use super::path;
use super::request::Request;

/// Hands a call over, waiting at most this long for a place in the server's queue; without a limit a full queue is
/// `WouldBlock` at once.
///
/// The listening process must be root's or that of the user for whom the call is: others may be able to write in the
/// sockets' folder, and could otherwise take the call. For a user who `is_own`, in a lab, a process of this process's
/// user is trusted.
///
/// # Errors
/// There is no fork server, it is another user's, or it does not accept the request: run the call without it.
pub(crate) fn hand_over(
    pattern: &OsStr,
    user: &str,
    is_own: bool,
    request: &Request,
    wait: Option<Duration>,
) -> io::Result<OwnedFd> {
    let path = path(pattern, user);
    let socket = match wait {
        None => engine::unix::connect_nonblocking(&path)?,
        Some(limit) => engine::unix::connect_within(&path, limit)?,
    };
    let peer = engine::unix::peer_uid(&socket)?;
    let account = || Account::by_name(user).map(|account| account.uid.as_raw());
    let own = is_own.then(|| rustix::process::geteuid().as_raw());
    if !may_serve(peer, account, own) {
        let why = format!("it belongs to the user with the number {peer}");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    let request = request.encode();
    // The socket's buffer is empty and larger than any request, so the request is sent in one piece or not at all.
    let sent = rustix::net::send(&socket, &request, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
    if sent == request.len() { Ok(socket) } else { Err(io::ErrorKind::WouldBlock.into()) }
}

/// Waits for the end of a call that was handed over: any event on the connection means that. Returns the exit status
/// of the process that waited.
pub(crate) fn await_end(socket: &OwnedFd) -> i32 {
    let _ = rustix::io::retry_on_intr(|| rustix::io::read(socket, &mut [0_u8; 1]));
    0
}

/// Whether a fork server of the user `peer` may get a call for the user `account`; `own` is trusted as well, if given.
fn may_serve(peer: u32, account: impl FnOnce() -> Option<u32>, own: Option<u32>) -> bool {
    peer == 0 || own == Some(peer) || account() == Some(peer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixListener;
    use wire::control::Endpoint;
    use wire::names::{DomainId, Port};

    /// The place of `joan`'s server, and a call for it.
    struct Place {
        dir: tempfile::TempDir,
        request: Request,
    }

    impl Place {
        fn new() -> Self {
            let endpoint = Endpoint { domain: DomainId(7), port: Port(514) };
            let request = Request { just: false, endpoint, command: b"true".to_vec() };
            Self { dir: tempfile::tempdir().expect("tempdir"), request }
        }

        fn listener(&self) -> UnixListener {
            UnixListener::bind(self.dir.path().join("joan.sock")).expect("bind")
        }

        fn hand_over(&self, is_own: bool, wait: Option<Duration>) -> io::Result<OwnedFd> {
            let pattern = self.dir.path().join("%s.sock").into_os_string();
            hand_over(&pattern, "joan", is_own, &self.request, wait)
        }
    }

    #[test]
    fn only_root_and_the_user_himself_get_calls() {
        let joan = || Some(1000);
        assert!(may_serve(0, joan, None) && may_serve(1000, joan, None));
        assert!(!may_serve(1001, joan, None) && !may_serve(1001, || None, None));
        // The agent of a lab has one user for everything, who need not have an account.
        assert!(may_serve(1001, || None, Some(1001)) && !may_serve(1002, || None, Some(1001)));
        if !rustix::process::geteuid().is_root() {
            let place = Place::new();
            let _listener = place.listener();
            let refused = place.hand_over(false, None).expect_err("neither root's nor joan's");
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        }
    }

    #[test]
    fn the_request_arrives_and_the_connection_stays() {
        let place = Place::new();
        assert_eq!(place.hand_over(true, None).expect_err("nobody").kind(), io::ErrorKind::NotFound);
        let listener = place.listener();
        let ours = place.hand_over(true, None).expect("somebody");
        let (mut server, _) = listener.accept().expect("accept");
        drop(ours);
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).expect("read");
        assert_eq!(heard, place.request.encode());
    }

    /// A server with a short queue that accepts no connection for a while.
    #[test]
    fn a_full_queue_is_waited_for_where_there_is_time() {
        let place = Place::new();
        let listener = place.listener();
        rustix::net::listen(&listener, 0).expect("the shortest queue");
        let _queued = place.hand_over(true, None).expect("the only place");
        for wait in [None, Some(Duration::from_millis(10))] {
            assert_eq!(place.hand_over(true, wait).expect_err("full").kind(), io::ErrorKind::WouldBlock);
        }
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| place.hand_over(true, Some(Duration::from_secs(60))));
            let _first = listener.accept().expect("the queued one");
            waiting.join().expect("no panic").expect("its place");
        });
    }
}
