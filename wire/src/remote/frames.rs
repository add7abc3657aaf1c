//! The streams and the exit code of a call within a session of OpenSSH.
//!
//! A session has two streams of bytes. They carry the messages of a data link: the far side begins with HELLO, then stdin
//! goes one way, stdout and stderr the other, and the exit code comes last. An empty message ends its stream. So a stream
//! can end while others go on, which SSH itself does not offer, and the exit code cannot overtake the data.
//!
//! These messages come from a machine that is not trusted: whatever breaks a rule ends the call.

use core::fmt;

use crate::header::{HEADER_LEN, Header, ty};
use crate::stream::{Kind, Role};

/// The version of these rules, in HELLO.
pub const VERSION: u32 = 1;

/// The most bytes in one message.
pub const MAX_LEN: u32 = 65_536;

/// What the other side has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// The first message of the far side.
    Hello,
    /// Bytes of this stream, at least one.
    Data(Kind, &'a [u8]),
    /// This stream has ended.
    End(Kind),
    /// The exit code; nothing follows it.
    Exit(i32),
}

/// Why the other side cannot be understood any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The first bytes are no HELLO: the far side runs something else.
    #[error("what answers is not qrexec-remote")]
    NoHello,
    /// A far side with another version.
    #[error("the other side speaks version {0} of the frames, this one {VERSION}")]
    Version(u32),
    /// A message over the limit.
    #[error("a frame of {0} bytes, at most {MAX_LEN} are allowed")]
    TooLong(u32),
    /// A message that is never sent to this side.
    #[error("a frame of unknown type {0:#x}")]
    UnknownType(u32),
    /// An exit code that has not four bytes.
    #[error("an exit code of {0} bytes")]
    ExitLength(u32),
    /// A stream continues behind its end.
    #[error("{0} goes on behind its end")]
    BehindEnd(Stream),
    /// Something follows the exit code.
    #[error("bytes behind the exit code")]
    BehindExit,
}

/// A stream by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream(Kind);

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Stdin => "stdin",
            Kind::Stdout => "stdout",
            Kind::Stderr => "stderr",
        })
    }
}

/// What the next bytes belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    Header { bytes: [u8; HEADER_LEN], have: usize },
    Hello { bytes: [u8; 4], have: usize },
    Data { kind: Kind, left: usize },
    Exit { bytes: [u8; 4], have: usize },
    Over,
}

const HEADER: Within = Within::Header { bytes: [0; HEADER_LEN], have: 0 };

/// Decodes the other side's bytes, in whatever pieces they come.
#[derive(Debug)]
pub struct Parser {
    role: Role,
    within: Within,
    greeted: bool,
    main_open: bool,
    stderr_open: bool,
    broken: Option<Violation>,
}

impl Parser {
    /// For the side that has this role in the call.
    #[must_use]
    pub const fn new(role: Role) -> Self {
        Self {
            role,
            within: HEADER,
            greeted: matches!(role, Role::Service),
            main_open: true,
            stderr_open: matches!(role, Role::Client),
            broken: None,
        }
    }

    /// The next piece of `input`, which is shortened by what was used; `None` once it is all used.
    ///
    /// # Errors
    /// The other side broke a rule. Every later call fails likewise.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Piece<'a>>, Violation> {
        if let Some(violation) = self.broken {
            return Err(violation);
        }
        self.step(input).inspect_err(|violation| self.broken = Some(*violation))
    }

    /// Whether the main stream has ended, by an empty message or by the exit code.
    #[must_use]
    pub const fn main_ended(&self) -> bool {
        !self.main_open
    }

    /// Whether the exit code has come.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.within, Within::Over)
    }

    fn step<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Piece<'a>>, Violation> {
        loop {
            if input.is_empty() {
                return Ok(None);
            }
            match &mut self.within {
                Within::Over => return Err(Violation::BehindExit),
                Within::Data { kind, left } => {
                    let piece = take(input, *left);
                    let kind = *kind;
                    *left = left.saturating_sub(piece.len());
                    if *left == 0 {
                        self.within = HEADER;
                    }
                    return Ok(Some(Piece::Data(kind, piece)));
                }
                Within::Header { bytes, have } => {
                    if !fill(bytes, have, input) {
                        return Ok(None);
                    }
                    let header = Header::from_bytes(*bytes);
                    if let Some(piece) = self.on_header(header)? {
                        return Ok(Some(piece));
                    }
                }
                Within::Hello { bytes, have } => {
                    if !fill(bytes, have, input) {
                        return Ok(None);
                    }
                    let version = u32::from_le_bytes(*bytes);
                    if version != VERSION {
                        return Err(Violation::Version(version));
                    }
                    self.greeted = true;
                    self.within = HEADER;
                    return Ok(Some(Piece::Hello));
                }
                Within::Exit { bytes, have } => {
                    if !fill(bytes, have, input) {
                        return Ok(None);
                    }
                    let code = i32::from_le_bytes(*bytes);
                    self.within = Within::Over;
                    self.main_open = false;
                    self.stderr_open = false;
                    return Ok(Some(Piece::Exit(code)));
                }
            }
        }
    }

    fn on_header(&mut self, Header { ty, len }: Header) -> Result<Option<Piece<'static>>, Violation> {
        if !self.greeted {
            if ty != ty::HELLO || len != 4 {
                return Err(Violation::NoHello);
            }
            self.within = Within::Hello { bytes: [0; 4], have: 0 };
            return Ok(None);
        }
        let kind = match (ty, self.role) {
            (ty::DATA_STDIN, Role::Service) => Kind::Stdin,
            (ty::DATA_STDOUT, Role::Client) => Kind::Stdout,
            (ty::DATA_STDERR, Role::Client) => Kind::Stderr,
            (ty::DATA_EXIT_CODE, Role::Client) if len == 4 => {
                self.within = Within::Exit { bytes: [0; 4], have: 0 };
                return Ok(None);
            }
            (ty::DATA_EXIT_CODE, Role::Client) => return Err(Violation::ExitLength(len)),
            _ => return Err(Violation::UnknownType(ty)),
        };
        if len > MAX_LEN {
            return Err(Violation::TooLong(len));
        }
        let open = match kind {
            Kind::Stderr => &mut self.stderr_open,
            Kind::Stdin | Kind::Stdout => &mut self.main_open,
        };
        if !*open {
            return Err(Violation::BehindEnd(Stream(kind)));
        }
        if len == 0 {
            *open = false;
            self.within = HEADER;
            return Ok(Some(Piece::End(kind)));
        }
        self.within = Within::Data { kind, left: usize::try_from(len).unwrap_or(usize::MAX) };
        Ok(None)
    }
}

/// Takes up to `len` bytes off the front.
fn take<'a>(input: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (piece, rest) = input.split_at_checked(len).unwrap_or((input, &[]));
    *input = rest;
    piece
}

/// Fills `bytes` from the front of `input`. Returns whether it is full.
fn fill<const N: usize>(bytes: &mut [u8; N], have: &mut usize, input: &mut &[u8]) -> bool {
    let room = bytes.get_mut(*have..).unwrap_or_default();
    let piece = take(input, room.len());
    for (to, from) in room.iter_mut().zip(piece) {
        *to = *from;
    }
    *have = have.saturating_add(piece.len());
    *have >= N
}

/// The far side's first message.
#[must_use]
pub fn hello() -> [u8; HEADER_LEN + 4] {
    with_number(ty::HELLO, VERSION.to_le_bytes())
}

/// The last message of a call.
#[must_use]
pub fn exit(code: i32) -> [u8; HEADER_LEN + 4] {
    with_number(ty::DATA_EXIT_CODE, code.to_le_bytes())
}

/// What goes before `len` bytes of this stream, at most [`MAX_LEN`]; 0 ends it.
#[must_use]
pub fn header(kind: Kind, len: u32) -> [u8; HEADER_LEN] {
    Header::new(kind.data_type(), len).to_bytes()
}

fn with_number(ty: u32, number: [u8; 4]) -> [u8; HEADER_LEN + 4] {
    let mut message = [0; HEADER_LEN + 4];
    let bytes = Header::new(ty, 4).to_bytes().into_iter().chain(number);
    message.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    message
}
