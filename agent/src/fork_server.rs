//! Handing a call to the fork server of a user's session.
//!
//! The request is `type, domain, port, length`, 32 bits each in the machine's own order, then the
//! command with its NUL. The connection stays open as long as the call runs.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rustix::net::SendFlags;
use wire::control::Endpoint;
use wire::header::ty;

/// Hands a call over. `command` is the command line without `user:` and without its NUL.
///
/// # Errors
/// There is no fork server, or it does not take the request: run the call without it.
pub(crate) fn hand_over(
    pattern: &OsStr,
    user: &str,
    just: bool,
    endpoint: Endpoint,
    command: &[u8],
) -> io::Result<OwnedFd> {
    let socket = ring::unix::connect_nonblocking(&path(pattern, user))?;
    let request = request(just, endpoint, command)?;
    // The socket's buffer is empty and larger than any request: it goes in one piece or not at all.
    let sent = rustix::net::send(&socket, &request, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
    if sent == request.len() { Ok(socket) } else { Err(io::ErrorKind::WouldBlock.into()) }
}

/// The pattern with the user's name for its first `%s`.
fn path(pattern: &OsStr, user: &str) -> PathBuf {
    let bytes = pattern.as_bytes();
    let place = bytes.windows(2).position(|pair| pair == b"%s");
    let (before, after) = match place.and_then(|place| bytes.split_at_checked(place)) {
        Some((before, rest)) => (before, rest.get(2..).unwrap_or_default()),
        None => (bytes, &[][..]),
    };
    let user = if place.is_some() { user.as_bytes() } else { &[] };
    OsString::from_vec([before, user, after].concat()).into()
}

fn request(just: bool, endpoint: Endpoint, command: &[u8]) -> io::Result<Vec<u8>> {
    let ty = if just { ty::JUST_EXEC } else { ty::EXEC_CMDLINE };
    let length = u32::try_from(command.len().saturating_add(1)).map_err(io::Error::other)?;
    let mut request = Vec::with_capacity(command.len().saturating_add(17));
    for word in [ty, endpoint.domain.0, endpoint.port.0, length] {
        request.extend_from_slice(&word.to_ne_bytes());
    }
    request.extend_from_slice(command);
    request.push(0);
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use wire::names::{DomainId, Port};

    const ENDPOINT: Endpoint = Endpoint { domain: DomainId(7), port: Port(514) };

    #[test]
    fn the_user_is_put_into_the_path() {
        assert_eq!(path("/run/%s.sock".as_ref(), "joan"), PathBuf::from("/run/joan.sock"));
        assert_eq!(path("/run/%s/%s".as_ref(), "joan"), PathBuf::from("/run/joan/%s"));
        assert_eq!(path("/run/s".as_ref(), "joan"), PathBuf::from("/run/s"));
    }

    #[test]
    fn the_request_arrives_and_the_connection_stays() {
        let dir = tempfile::tempdir().expect("tempdir");
        let pattern = dir.path().join("%s.sock").into_os_string();
        let hand_over = || hand_over(&pattern, "joan", false, ENDPOINT, b"true");
        assert_eq!(hand_over().expect_err("nobody").kind(), io::ErrorKind::NotFound);
        let listener = std::os::unix::net::UnixListener::bind(dir.path().join("joan.sock")).expect("bind");
        let ours = hand_over().expect("somebody");
        let (mut server, _) = listener.accept().expect("accept");
        drop(ours);
        let mut request = Vec::new();
        server.read_to_end(&mut request).expect("read");
        let words: Vec<u8> = [0x200_u32, 7, 514, 5].iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(request, [words.as_slice(), b"true\0"].concat());
    }
}
