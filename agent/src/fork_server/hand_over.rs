//! The agent's side: handing a call over.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;

use engine::exec::Account;
use rustix::net::SendFlags;
use wire::control::Endpoint;

use super::path;
use super::request::Request;

/// Hands a call over. `command` is the command line without `user:` and without its NUL.
///
/// Whoever listens must be root or the user that the call is for: the folder of the sockets may be open to others, and
/// a call would be theirs then. An `embedded` agent trusts whoever runs as itself.
///
/// # Errors
/// There is no fork server, it is somebody else's, or it does not take the request: run the call without it.
pub(crate) fn hand_over(
    pattern: &OsStr,
    user: &str,
    embedded: bool,
    just: bool,
    endpoint: Endpoint,
    command: Vec<u8>,
) -> io::Result<OwnedFd> {
    let socket = ring::unix::connect_nonblocking(&path(pattern, user))?;
    let peer = ring::unix::peer_uid(&socket)?;
    let account = || Account::by_name(user).map(|account| account.uid.as_raw());
    let own = embedded.then(|| rustix::process::geteuid().as_raw());
    if !may_serve(peer, account, own) {
        let why = format!("it belongs to the user with the number {peer}");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    let request = Request { just, endpoint, command }.encode();
    // The socket's buffer is empty and larger than any request: it goes in one piece or not at all.
    let sent = rustix::net::send(&socket, &request, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
    if sent == request.len() { Ok(socket) } else { Err(io::ErrorKind::WouldBlock.into()) }
}

/// Whether a fork server of this user may have a call for the user `account`; `own` is trusted as well, if given.
fn may_serve(peer: u32, account: impl FnOnce() -> Option<u32>, own: Option<u32>) -> bool {
    peer == 0 || own == Some(peer) || account() == Some(peer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use wire::names::{DomainId, Port};

    #[test]
    fn only_root_and_the_user_himself_get_calls() {
        let joan = || Some(1000);
        assert!(may_serve(0, joan, None) && may_serve(1000, joan, None));
        assert!(!may_serve(1001, joan, None) && !may_serve(1001, || None, None));
        // An embedded agent has one user for everything, who need not have an account.
        assert!(may_serve(1001, || None, Some(1001)) && !may_serve(1002, || None, Some(1001)));
        if !rustix::process::geteuid().is_root() {
            let dir = tempfile::tempdir().expect("tempdir");
            let _listener = std::os::unix::net::UnixListener::bind(dir.path().join("root")).expect("bind");
            let endpoint = Endpoint { domain: DomainId(7), port: Port(514) };
            let pattern = dir.path().join("%s").into_os_string();
            let refused = hand_over(&pattern, "root", false, false, endpoint, Vec::new());
            assert_eq!(refused.expect_err("not root").kind(), io::ErrorKind::PermissionDenied);
        }
    }

    #[test]
    fn the_request_arrives_and_the_connection_stays() {
        let dir = tempfile::tempdir().expect("tempdir");
        let pattern = dir.path().join("%s.sock").into_os_string();
        let endpoint = Endpoint { domain: DomainId(7), port: Port(514) };
        let hand_over = || hand_over(&pattern, "joan", true, false, endpoint, b"true".to_vec());
        assert_eq!(hand_over().expect_err("nobody").kind(), io::ErrorKind::NotFound);
        let listener = std::os::unix::net::UnixListener::bind(dir.path().join("joan.sock")).expect("bind");
        let ours = hand_over().expect("somebody");
        let (mut server, _) = listener.accept().expect("accept");
        drop(ours);
        let mut request = Vec::new();
        server.read_to_end(&mut request).expect("read");
        let expected = Request { just: false, endpoint, command: b"true".to_vec() };
        assert_eq!(request, expected.encode());
    }
}
