//! Talking to a qube's daemon over its local socket.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use wire::control::{EXEC_LEN, Endpoint, ExecParams, MAX_CONTROL_BODY, Message, ServiceParams};
use wire::handshake::Handshake;
use wire::header::{HEADER_LEN, Header, ty};
use wire::names::{DomainId, Ident, Port};
use wire::version::Version;

/// How long the daemon may take to greet and to answer. It waits itself while its agent does not read, which is no
/// reason to give up quickly.
const PATIENCE: Duration = ::daemon_core::ANSWER_LIMIT;

/// Why a daemon was of no help.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// There is no daemon, so the qube does not run, or we may not reach it.
    #[error("cannot reach its daemon: {0}")]
    Connect(io::Error),
    /// It hung up.
    #[error("its daemon hung up")]
    Closed,
    /// It took too long.
    #[error("its daemon did not answer within {} seconds", PATIENCE.as_secs())]
    Silent,
    /// Another error of the connection.
    #[error("talking to its daemon: {0}")]
    Io(io::Error),
    /// It does not keep the protocol, or an old one.
    #[error("its daemon: {0}")]
    Peer(#[from] wire::PeerError),
    /// It answered something else than was asked for.
    #[error("its daemon gave an answer of type {0:#x} that was not asked for")]
    Answer(u32),
    /// It does not take what we have to say.
    #[error(transparent)]
    TooLong(#[from] wire::error::TooLong),
    /// The command is longer than an agent takes.
    #[error("the command has {len} bytes, and a qube takes {MAX_COMMAND} at most{}", named(*.with_default))]
    LongCommand {
        /// Its length in bytes.
        len: usize,
        /// `DEFAULT` counts as the qube's user, whose name is longer.
        with_default: bool,
    },
}

const fn named(with_default: bool) -> &'static str {
    if with_default { ", with its default user's name in place of DEFAULT" } else { "" }
}

/// What becomes of an error while a command was asked for: a daemon cannot say that the command is too long once the
/// default user's name is in it, it hangs up.
fn explained(error: Error, cmdline: &[u8]) -> Error {
    let longest = cmdline.len().saturating_add(MAX_USER_NAME);
    match error {
        Error::Closed if cmdline.starts_with(DEFAULT_USER) && longest > MAX_COMMAND => {
            Error::LongCommand { len: cmdline.len(), with_default: true }
        }
        error => error,
    }
}

/// Longest command line that an agent takes, in bytes, without its NUL.
const MAX_COMMAND: usize = MAX_CONTROL_BODY - EXEC_LEN - 1;
/// What stands for the qube's default user.
const DEFAULT_USER: &[u8] = b"DEFAULT:";
/// Longest name that may come in its place.
const MAX_USER_NAME: usize = 255;

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::Silent,
            ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

/// A greeted daemon.
#[derive(Debug)]
pub(super) struct Daemon {
    socket: UnixStream,
    version: Version,
}

impl AsFd for Daemon {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Daemon {
    /// Connects to the daemon of `qube`, which is a name, an id or `uuid:UUID`, and exchanges HELLOs:
    /// the daemon begins, and nothing under protocol 3 is spoken.
    pub(super) fn connect(socket_dir: &Path, qube: impl std::fmt::Display) -> Result<Self, Error> {
        let path = socket_dir.join(format!("qrexec.{qube}"));
        let mut socket = UnixStream::from(ring::unix::connect(&path).map_err(Error::Connect)?);
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let mut handshake = Handshake::with_least(Version::LOCAL_DAEMON, Version::LOCAL_DAEMON);
        let version = loop {
            let mut bytes = [0; 16];
            let room = bytes.get_mut(..handshake.wanted()).unwrap_or_default();
            let count = socket.read(room)?;
            if count == 0 {
                return Err(Error::Closed);
            }
            if let Some(version) = handshake.feed(room.get(..count).unwrap_or_default())? {
                break version;
            }
        };
        socket.write_all(&handshake.hello())?;
        Ok(Self { socket, version })
    }

    /// Asks for a command line to be run for the domain `for_domain` (0 for us); the answer says where
    /// its data link will be.
    pub(super) fn exec(
        &mut self,
        just: bool,
        for_domain: DomainId,
        cmdline: &[u8],
    ) -> Result<Endpoint, Error> {
        let with_default = cmdline.starts_with(DEFAULT_USER);
        // The name that comes in place of DEFAULT has one letter at least.
        let least = cmdline.len().saturating_sub(if with_default { "DEFAULT".len() - 1 } else { 0 });
        if least > MAX_COMMAND {
            return Err(Error::LongCommand { len: cmdline.len(), with_default });
        }
        let params =
            ExecParams { connect_domain: for_domain, connect_port: Port(0), cmdline: cmdline.to_vec() };
        let asked = self.send(&Message::Exec { just, params });
        let answer = asked.and_then(|()| self.answer(if just { ty::JUST_EXEC } else { ty::EXEC_CMDLINE }));
        answer.map_err(|error| explained(error, cmdline))
    }

    /// Tells the request `ident`, which waits in this daemon's qube, where its service will be met. With
    /// domain 0 and port 0 the daemon chooses the port and answers it.
    pub(super) fn service_connect(&mut self, ident: Ident, endpoint: Endpoint) -> Result<(), Error> {
        self.send(&Message::ServiceConnect(ServiceParams { endpoint, ident }))
    }

    /// The daemon's answer to a message of type `asked`.
    pub(super) fn answer(&mut self, asked: u32) -> Result<Endpoint, Error> {
        let mut bytes = [0; HEADER_LEN];
        self.socket.read_exact(&mut bytes)?;
        let header = Header::from_bytes(bytes);
        if header.ty != asked || usize::try_from(header.len) != Ok(EXEC_LEN) {
            return Err(Error::Answer(header.ty));
        }
        let mut bytes = [0; EXEC_LEN];
        self.socket.read_exact(&mut bytes)?;
        let endpoint = Endpoint::from_bytes(bytes);
        // Daemons of other makes may hand out other ports than ours; only these two mean something else.
        if matches!(endpoint.port, Port(0) | Port::CONTROL) {
            Err(Error::Answer(header.ty))
        } else {
            Ok(endpoint)
        }
    }

    /// Waits until the daemon says by hanging up that the call has ended.
    pub(super) fn wait_for_end(mut self) -> Result<(), Error> {
        self.socket.set_read_timeout(None)?;
        let mut bytes = [0; 64];
        loop {
            match self.socket.read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn send(&mut self, message: &Message) -> Result<(), Error> {
        Ok(self.socket.write_all(&message.encode(self.version)?)?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// A daemon that greets with `version` and answers one request for `command` with these bytes.
    fn asked_for(command: &[u8], version: Version, answer: Vec<u8>) -> Result<Endpoint, Error> {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("qrexec.work")).unwrap();
        let expected = [&[0; 8][..], command, b"\0"].concat();
        let daemon = thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            client.write_all(&wire::handshake::hello(version)).unwrap();
            let mut hello = [0; 12];
            if client.read_exact(&mut hello).is_ok() {
                assert_eq!(hello, wire::handshake::hello(Version::V3));
                let mut request = vec![0; 8 + expected.len()];
                if client.read_exact(&mut request).is_err() {
                    return;
                }
                let header = Header::new(ty::EXEC_CMDLINE, u32::try_from(expected.len()).unwrap());
                assert_eq!(request, [&header.to_bytes()[..], &expected].concat());
                client.write_all(&answer).unwrap();
            }
        });
        let answer =
            Daemon::connect(folder.path(), "work").and_then(|mut d| d.exec(false, DomainId::DOM0, command));
        daemon.join().unwrap();
        answer
    }

    fn asked(version: Version, answer: Vec<u8>) -> Result<Endpoint, Error> {
        asked_for(b"user:ls", version, answer)
    }

    /// The longest command has 4087 bytes; only the daemon knows which name stands for DEFAULT, and all that it can say
    /// is to hang up.
    #[test]
    fn a_command_that_is_too_long_is_refused_with_the_limit() {
        let command =
            |user: &str, len: usize| format!("{user}:{}", "x".repeat(len - user.len() - 1)).into_bytes();
        let told = |command: &[u8], answer| {
            asked_for(command, Version::V3, answer).map_err(|error| error.to_string())
        };
        let port = || reply(ty::EXEC_CMDLINE, 8, 515);
        assert!(told(&command("user", 4087), port()).is_ok());
        assert!(told(&command("DEFAULT", 4093), port()).is_ok());
        for (command, named) in [(command("user", 4088), false), (command("DEFAULT", 4094), true)] {
            let error = told(&command, Vec::new()).unwrap_err();
            assert!(error.contains("4087") && error.contains("DEFAULT") == named, "{error}");
        }
        let error = told(&command("DEFAULT", 4080), Vec::new()).unwrap_err();
        assert!(error.contains("4080") && error.contains("in place of DEFAULT"), "{error}");
        for short in [command("user", 4087), command("DEFAULT", 3000)] {
            assert_eq!(told(&short, Vec::new()).unwrap_err(), "its daemon hung up");
        }
    }

    fn reply(ty: u32, len: u32, port: u32) -> Vec<u8> {
        let endpoint = Endpoint { domain: DomainId(4), port: Port(port) };
        [Header::new(ty, len).to_bytes(), endpoint.to_bytes()].concat()
    }

    #[test]
    fn a_daemon_says_where_to_listen() {
        for version in [Version::V3, Version::V4] {
            for port in [515, 42, 1, 511, 100_000, u32::MAX] {
                let endpoint = asked(version, reply(ty::EXEC_CMDLINE, 8, port)).unwrap();
                assert_eq!((endpoint.domain, endpoint.port), (DomainId(4), Port(port)));
            }
        }
    }

    #[test]
    fn odd_daemons_are_errors() {
        assert!(matches!(asked(Version::V2, Vec::new()), Err(Error::Peer(_))));
        assert!(matches!(asked(Version::V3, Vec::new()), Err(Error::Closed)));
        for answer in [
            reply(ty::JUST_EXEC, 8, 515),
            reply(ty::EXEC_CMDLINE, 9, 515),
            reply(ty::EXEC_CMDLINE, u32::MAX, 515),
            reply(ty::EXEC_CMDLINE, 8, 512),
            reply(ty::EXEC_CMDLINE, 8, 0),
        ] {
            assert!(matches!(asked(Version::V3, answer), Err(Error::Answer(_))));
        }
    }

    #[test]
    fn a_qube_that_does_not_run_has_no_daemon() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Daemon::connect(folder.path(), "work"), Err(Error::Connect(_))));
    }
}
