//! The log of this machine for the error output of its services.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::net::SendFlags;
use wire::command::ServiceCall;

use crate::Installation;

/// The socket on which systemd's journal accepts a stream of lines.
const JOURNAL: &str = "/run/systemd/journal/stdout";

/// `LOG_NOTICE` of the `LOG_USER` facility, as from logger(1).
const PRIORITY: &str = "13";

/// Whether this process's stderr is the stream that systemd has connected to its journal. The variable
/// `JOURNAL_STREAM` alone does not tell: the parent may have inherited it and log to another place.
#[must_use]
pub fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(rustix::stdio::stderr())
        .is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Longest name in the journal. If a line of a stream's header is longer, the journal closes the stream, and a service
/// that writes to it is ended by `SIGPIPE`.
const MAX_TAG: usize = 254;

/// The log for the error output of one service, line by line. No process is started for it.
#[derive(Debug, Clone)]
pub struct StderrLog {
    /// The name before each line: `SERVICE+ARG-SOURCE`.
    tag: String,
    /// Whether it goes to the journal, if this machine has one.
    journal: bool,
}

impl StderrLog {
    /// The log of this call's service. In a qube it goes to the journal, however the agent was started; in a lab it
    /// goes to the journal of the system around it only if the lab's own log goes there too.
    #[must_use]
    pub fn new(call: &ServiceCall, installation: Installation) -> Self {
        let mut tag = format!("{}-{}", call.service.with_plus(), call.source);
        let end = (0..=MAX_TAG).rev().find(|end| tag.is_char_boundary(*end)).unwrap_or_default();
        tag.truncate(end);
        Self { tag, journal: !installation.is_lab() || stderr_is_journal() }
    }

    /// Opens it: a stream of the journal under the service's own name, or, without a journal, this process's stderr.
    /// Others share that one's description, so its flags must not be changed.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn open(&self) -> io::Result<OwnedFd> {
        if self.journal
            && let Ok(stream) = self.journal_stream()
        {
            return Ok(stream);
        }
        rustix::stdio::stderr().as_fd().try_clone_to_owned()
    }

    /// Opens a stream to the journal: a header of seven lines, then the log's lines. A journal that accepts no
    /// connection now counts as none.
    fn journal_stream(&self) -> io::Result<OwnedFd> {
        let socket = crate::unix::connect_nonblocking(Path::new(JOURNAL))?;
        // Identifier; no unit; priority; lines without priority prefixes; forwarded to neither syslog, kmsg nor
        // console.
        let header = format!("{}\n\n{PRIORITY}\n0\n0\n0\n0\n", self.tag);
        let sent = rustix::net::send(&socket, header.as_bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
        if sent != header.len() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        // A service that gets this stream as its stderr expects it to be blocking.
        rustix::io::ioctl_fionbio(&socket, false)?;
        Ok(socket)
    }
}

#[cfg(test)]
mod tests {
    use wire::command::{Command, CommandKind};

    use super::*;

    #[test]
    fn a_name_fits_a_line_of_the_journal() {
        for length in [1, 253, 254, 255, 3000] {
            let line = format!("QUBESRPC s+{} work", "x".repeat(length));
            let command = Command::parse_without_user(line.as_bytes()).expect("a call");
            let CommandKind::Service(call) = command.kind else { unreachable!() };
            let tag = StderrLog::new(&call, Installation::System).tag;
            assert_eq!(tag.len(), (length + 7).min(254));
            assert!(tag.starts_with("s+x"));
        }
    }

    #[test]
    fn there_is_always_a_log() {
        let command = Command::parse_without_user(b"QUBESRPC test.Service work").expect("a call");
        let CommandKind::Service(call) = command.kind else { unreachable!() };
        for installation in [Installation::System, Installation::Lab] {
            let log = StderrLog::new(&call, installation).open().expect("a descriptor");
            assert!(rustix::fs::fstat(&log).is_ok());
            let flags = rustix::io::fcntl_getfd(&log).expect("flags");
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        }
    }
}
