//! The agent's side: handing a call over.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;

use rustix::net::SendFlags;
use wire::control::Endpoint;

use super::path;
use super::request::Request;

/// Hands a call over. `command` is the command line without `user:` and without its NUL.
///
/// # Errors
/// There is no fork server, or it does not take the request: run the call without it.
pub(crate) fn hand_over(
    pattern: &OsStr,
    user: &str,
    just: bool,
    endpoint: Endpoint,
    command: Vec<u8>,
) -> io::Result<OwnedFd> {
    let socket = ring::unix::connect_nonblocking(&path(pattern, user))?;
    let request = Request { just, endpoint, command }.encode();
    // The socket's buffer is empty and larger than any request: it goes in one piece or not at all.
    let sent = rustix::net::send(&socket, &request, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
    if sent == request.len() { Ok(socket) } else { Err(io::ErrorKind::WouldBlock.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use wire::names::{DomainId, Port};

    #[test]
    fn the_request_arrives_and_the_connection_stays() {
        let dir = tempfile::tempdir().expect("tempdir");
        let pattern = dir.path().join("%s.sock").into_os_string();
        let endpoint = Endpoint { domain: DomainId(7), port: Port(514) };
        let hand_over = || hand_over(&pattern, "joan", false, endpoint, b"true".to_vec());
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
