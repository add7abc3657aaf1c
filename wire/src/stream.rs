//! The data link of one call, as two halves without I/O.
//!
//! [`Incoming`] checks the headers that arrive and says what to do with the bytes behind each; [`Outgoing`] makes the
//! headers to send and keeps their order. Payload never passes through here.
//!
//! The rules, from upstream's public documentation and behaviour:
//!
//! - The client sends `DATA_STDIN`; the service sends `DATA_STDOUT`, `DATA_STDERR` and at last
//!   `DATA_EXIT_CODE`. A chunk of length 0 ends its stream.
//! - Upstream accepts `DATA_STDIN` and `DATA_STDOUT` for one another, so both mean "the other side's main stream"
//!   here, see [`Incoming::crossed`].
//! - A service ignores `DATA_STDERR` and `DATA_EXIT_CODE` from a client.
//! - No chunk is longer than the link's version allows, whatever its type. Unknown types end the link.
//! - What comes after the end of its stream or after the exit code is skipped.

use crate::error::{Breach, Misuse, PeerError};
use crate::header::{HEADER_LEN, Header, ty};
use crate::version::Version;

/// Which side of a data link this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The side that asked for the service.
    Client,
    /// The side that runs it.
    Service,
}

/// The streams of a data link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Client to service.
    Stdin,
    /// Service to client.
    Stdout,
    /// Service to client: messages for people and logs.
    Stderr,
}

impl Kind {
    /// The message type that carries this stream.
    pub const fn data_type(self) -> u32 {
        match self {
            Self::Stdin => ty::DATA_STDIN,
            Self::Stdout => ty::DATA_STDOUT,
            Self::Stderr => ty::DATA_STDERR,
        }
    }
}

impl Role {
    /// The main stream that this side sends.
    pub const fn sends(self) -> Kind {
        match self {
            Self::Client => Kind::Stdin,
            Self::Service => Kind::Stdout,
        }
    }

    /// The main stream that this side receives.
    pub const fn receives(self) -> Kind {
        match self {
            Self::Client => Kind::Stdout,
            Self::Service => Kind::Stdin,
        }
    }
}

/// The exit code that is assumed if the message was too short to hold one.
pub const UNREADABLE_EXIT_CODE: i32 = 255;

/// What to do with the bytes behind a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// `len` bytes (at least 1) for this stream.
    Payload {
        /// The stream.
        kind: Kind,
        /// How many bytes.
        len: u32,
    },
    /// This stream has ended; nothing follows the header.
    Eof(Kind),
    /// The exit code: read `len` bytes and give them to [`Incoming::on_exit_code`].
    ExitCode {
        /// How many bytes, 0 included.
        len: u32,
    },
    /// Skip `len` bytes, which may be none.
    Ignore {
        /// How many bytes.
        len: u32,
    },
}

/// Which of the receiving side's streams are still open.
#[derive(Debug)]
pub struct Incoming {
    role: Role,
    max_chunk: u32,
    main_open: bool,
    stderr_open: bool,
    exit: Exit,
    crossed: bool,
}

/// How far the exit code has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    Running,
    Announced,
    Known(i32),
}

impl Incoming {
    /// The receiving half of a link of this version, in this role.
    pub const fn new(role: Role, version: Version) -> Self {
        Self {
            role,
            max_chunk: version.max_chunk(),
            main_open: true,
            stderr_open: matches!(role, Role::Client),
            exit: Exit::Running,
            crossed: false,
        }
    }

    /// Checks a header. An error ends the link: the chunk is over the limit, or the type is not one of a data link.
    pub fn on_header(&mut self, header: Header) -> Result<Next, PeerError> {
        let Header { ty, len } = header;
        if len > self.max_chunk {
            return Err(Breach::ChunkTooLong { len, max: self.max_chunk }.into());
        }
        match ty {
            ty::DATA_STDIN | ty::DATA_STDOUT => {
                let kind = self.role.receives();
                self.crossed |= ty != kind.data_type();
                Ok(self.on_data(kind, len))
            }
            ty::DATA_STDERR => Ok(self.on_data(Kind::Stderr, len)),
            ty::DATA_EXIT_CODE => {
                if self.role == Role::Client && self.exit == Exit::Running {
                    self.exit = Exit::Announced;
                    Ok(Next::ExitCode { len })
                } else {
                    Ok(Next::Ignore { len })
                }
            }
            ty::EXEC_CMDLINE..=ty::SERVICE_REFUSED
            | ty::TRIGGER_SERVICE..=ty::TRIGGER_SERVICE4
            | ty::HELLO => Err(Breach::UnexpectedType(ty).into()),
            _ => Err(Breach::UnknownType(ty).into()),
        }
    }

    fn on_data(&mut self, kind: Kind, len: u32) -> Next {
        if !self.is_open(kind) {
            return Next::Ignore { len };
        }
        if len > 0 {
            return Next::Payload { kind, len };
        }
        match kind {
            Kind::Stderr => self.stderr_open = false,
            Kind::Stdin | Kind::Stdout => self.main_open = false,
        }
        Next::Eof(kind)
    }

    /// Takes the body of the exit code message, however long it was: fewer than four bytes count as 255, bytes after
    /// the fourth are ignored. All streams have ended then.
    pub fn on_exit_code(&mut self, body: &[u8]) -> i32 {
        let code = body.first_chunk::<4>().map_or(UNREADABLE_EXIT_CODE, |bytes| i32::from_le_bytes(*bytes));
        self.exit = Exit::Known(code);
        code
    }

    /// Whether the peer may still send bytes of this stream. False for streams that this role never receives.
    pub fn is_open(&self, kind: Kind) -> bool {
        let open = match kind {
            Kind::Stderr => self.stderr_open,
            Kind::Stdin | Kind::Stdout => self.main_open && kind == self.role.receives(),
        };
        open && self.exit == Exit::Running
    }

    /// The exit code, once it is there.
    pub const fn exit_code(&self) -> Option<i32> {
        match self.exit {
            Exit::Known(code) => Some(code),
            Exit::Running | Exit::Announced => None,
        }
    }

    /// Whether the peer has confused `DATA_STDIN` and `DATA_STDOUT`, which is to be logged once.
    pub const fn crossed(&self) -> bool {
        self.crossed
    }
}

/// What the sending side has sent so far.
#[derive(Debug)]
pub struct Outgoing {
    role: Role,
    max_chunk: u32,
    main_open: bool,
    stderr_open: bool,
    exit_sent: bool,
}

impl Outgoing {
    /// The sending half of a link of this version, in this role.
    pub const fn new(role: Role, version: Version) -> Self {
        Self {
            role,
            max_chunk: version.max_chunk(),
            main_open: true,
            stderr_open: matches!(role, Role::Service),
            exit_sent: false,
        }
    }

    /// The sending half of a service after `JUST_EXEC`: no streams, not even their ends, only the exit
    /// code.
    pub const fn just_exec(version: Version) -> Self {
        Self {
            role: Role::Service,
            max_chunk: version.max_chunk(),
            main_open: false,
            stderr_open: false,
            exit_sent: false,
        }
    }

    /// The message type that carries this stream.
    pub const fn data_type(&self, kind: Kind) -> u32 {
        kind.data_type()
    }

    /// The longest chunk that may be sent, in bytes.
    pub const fn max_chunk(&self) -> u32 {
        self.max_chunk
    }

    /// The header of a chunk of `len` bytes, which must be 1 to [`Outgoing::max_chunk`].
    pub fn header(&self, kind: Kind, len: u32) -> Result<Header, Misuse> {
        self.check_open(kind)?;
        if len == 0 || len > self.max_chunk {
            return Err(Misuse::ChunkLength(len));
        }
        Ok(Header::new(kind.data_type(), len))
    }

    /// The header that ends this stream.
    pub fn eof(&mut self, kind: Kind) -> Result<Header, Misuse> {
        self.check_open(kind)?;
        match kind {
            Kind::Stderr => self.stderr_open = false,
            Kind::Stdin | Kind::Stdout => self.main_open = false,
        }
        Ok(Header::new(kind.data_type(), 0))
    }

    /// The exit code message, header and body. A service sends it once, last, after the ends of its
    /// streams.
    pub fn exit_code(&mut self, code: i32) -> Result<[u8; HEADER_LEN + 4], Misuse> {
        if self.role != Role::Service {
            return Err(Misuse::WrongKind);
        }
        if self.exit_sent {
            return Err(Misuse::ExitSent);
        }
        if self.main_open || self.stderr_open {
            return Err(Misuse::StreamOpen);
        }
        self.exit_sent = true;
        let mut message = [0; HEADER_LEN + 4];
        let header = Header::new(ty::DATA_EXIT_CODE, 4).to_bytes();
        for (to, from) in message.iter_mut().zip(header.into_iter().chain(code.to_le_bytes())) {
            *to = from;
        }
        Ok(message)
    }

    /// Whether bytes of this stream may still be sent. False for streams that this role never sends.
    pub fn is_open(&self, kind: Kind) -> bool {
        self.check_open(kind).is_ok()
    }

    /// Whether [`Outgoing::exit_code`] has returned the message.
    pub const fn exit_sent(&self) -> bool {
        self.exit_sent
    }

    fn check_open(&self, kind: Kind) -> Result<(), Misuse> {
        let open = match kind {
            Kind::Stderr if self.role == Role::Service => self.stderr_open,
            main if main == self.role.sends() => self.main_open,
            _ => return Err(Misuse::WrongKind),
        };
        match open {
            _ if self.exit_sent => Err(Misuse::ExitSent),
            true => Ok(()),
            false => Err(Misuse::StreamEnded),
        }
    }
}

#[cfg(test)]
mod tests;
