//! The fork server of a user's session: it runs calls for that user, without a separate login for each.
//!
//! The agent hands a call over in one request: `type, domain, port, length`, 32 bits each in the machine's own order,
//! then the command with its NUL. The connection stays open as long as the call runs: it ends with the process of the
//! call, whatever happens to the server.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

mod hand_over;
mod options;
pub(crate) mod request;
mod server;

pub(crate) use hand_over::{await_end, hand_over};
pub use options::Options;
pub(crate) use request::Request;
pub use server::main;

/// Where a user's fork server listens; `%s` is the user's name.
pub(crate) const SOCKET: &str = "/var/run/qubes/qrexec-server.%s.sock";

/// Whether each user has a separate fork server there. Otherwise there is one, and its path does not tell whose it is.
pub(crate) fn is_per_user(pattern: &OsStr) -> bool {
    pattern.as_bytes().windows(2).any(|pair| pair == b"%s")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_put_into_the_path() {
        assert_eq!(path("/run/%s.sock".as_ref(), "joan"), PathBuf::from("/run/joan.sock"));
        assert_eq!(path("/run/%s/%s".as_ref(), "joan"), PathBuf::from("/run/joan/%s"));
        assert_eq!(path("/run/s".as_ref(), "joan"), PathBuf::from("/run/s"));
        assert!(is_per_user("/run/%s.sock".as_ref()) && !is_per_user("/run/s".as_ref()));
    }
}
