//! Where this machine keeps what its services say on standard error.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::net::SendFlags;
use wire::command::ServiceCall;

use crate::Installation;

/// Where systemd's journal takes a stream of lines.
const JOURNAL: &str = "/run/systemd/journal/stdout";

/// `LOG_NOTICE` of the `LOG_USER` facility, as from logger(1).
const PRIORITY: &str = "13";

/// Whether our standard error is the stream that systemd has connected to its journal. `JOURNAL_STREAM` alone says
/// nothing: whoever starts us may have inherited it and log elsewhere.
#[must_use]
pub fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(rustix::stdio::stderr())
        .is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Longest name in the journal: at a longer line of a stream's header it closes the stream, and a service that writes
/// there is ended by `SIGPIPE`.
const MAX_TAG: usize = 254;

/// The log that keeps the error output of one service, line by line. No process is started for it.
#[derive(Debug, Clone)]
pub struct StderrLog {
    /// Who says it: `SERVICE+ARG-SOURCE`.
    tag: String,
    /// Whether it belongs into the journal, if this machine has one.
    journal: bool,
}

impl StderrLog {
    /// The log of this call's service. A qube's journal takes what its services say, whoever started the agent; a
    /// lab only writes into the journal of the system around it if its own log is there.
    #[must_use]
    pub fn new(call: &ServiceCall, installation: Installation) -> Self {
        let mut tag = format!("{}-{}", call.service.with_plus(), call.source);
        let end = (0..=MAX_TAG).rev().find(|end| tag.is_char_boundary(*end)).unwrap_or_default();
        tag.truncate(end);
        Self { tag, journal: !installation.is_lab() || stderr_is_journal() }
    }

    /// Opens it: a stream of the journal under the service's own name, or, without a journal, wherever our own error
    /// output goes. The description is shared with others then: its flags must not be changed.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn open(&self) -> io::Result<OwnedFd> {
        if self.journal
            && let Ok(stream) = self.journal_stream()
        {
            return Ok(stream);
        }
        rustix::stdio::stderr().as_fd().try_clone_to_owned()
    }

    /// Opens a stream into the journal: a header of seven lines, then the log's lines. A journal that takes nobody at
    /// the moment is none.
    fn journal_stream(&self) -> io::Result<OwnedFd> {
        let socket = crate::unix::connect_nonblocking(Path::new(JOURNAL))?;
        // Identifier; no unit; priority; no priority prefixes; forward to neither syslog, kmsg nor
        // console.
        let header = format!("{}\n\n{PRIORITY}\n0\n0\n0\n0\n", self.tag);
        let sent = rustix::net::send(&socket, header.as_bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
        if sent != header.len() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        // A service that writes into it itself expects an ordinary stream.
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
