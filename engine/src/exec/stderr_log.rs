//! Where this machine keeps what its services say on standard error.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

/// Where systemd's journal takes a stream of lines.
const JOURNAL: &str = "/run/systemd/journal/stdout";

/// `LOG_NOTICE` of the `LOG_USER` facility.
const PRIORITY: &str = "13";

/// A descriptor that takes the error output of a service, line by line. Nothing is started for it.
///
/// If this process itself logs into systemd's journal (`JOURNAL_STREAM` says so), the service gets
/// a stream of its own there, under `tag`; else its lines go wherever our own error output goes.
/// The description is shared with others then: its flags must not be changed.
///
/// # Errors
/// No descriptor left.
pub fn stderr_log(tag: &str) -> io::Result<OwnedFd> {
    if std::env::var_os("JOURNAL_STREAM").is_some()
        && let Ok(stream) = journal_stream(tag)
    {
        return Ok(stream);
    }
    rustix::stdio::stderr().as_fd().try_clone_to_owned()
}

/// Opens a stream into the journal: a header of seven lines, then the log's lines.
fn journal_stream(tag: &str) -> Result<OwnedFd, Errno> {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(JOURNAL)?)?;
    // Identifier; no unit; priority; no priority prefixes; forward to neither syslog, kmsg nor
    // console.
    let header = format!("{tag}\n\n{PRIORITY}\n0\n0\n0\n0\n");
    let sent = rustix::net::send(&socket, header.as_bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
    if sent == header.len() { Ok(socket) } else { Err(Errno::AGAIN) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_a_log() {
        let log = stderr_log("test.Service-work").expect("a descriptor");
        assert!(rustix::fs::fstat(&log).is_ok());
        let flags = rustix::io::fcntl_getfd(&log).expect("flags");
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }
}
