//! How a running `ssh` that has a connection (a master) is asked for a session in it: OpenSSH's multiplexing protocol,
//! version 4, as `PROTOCOL.mux` of its source describes it.
//!
//! Every packet is a length and that many bytes; all numbers are big-endian. The client sends HELLO and receives one,
//! asks for a session, passes its three descriptors each with a byte, and is told that the session is open. The exit
//! status of the command comes on the same connection, perhaps before the command's last bytes have come through the
//! descriptors.

use alloc::vec::Vec;

/// The version of the protocol.
const VERSION: u32 = 4;

/// The most bytes that a packet of the master may have. Its longest is a reason for a refusal, one line of text.
pub const MAX_PACKET: u32 = 16_384;

mod ty {
    pub(super) const HELLO: u32 = 0x0000_0001;
    pub(super) const NEW_SESSION: u32 = 0x1000_0002;
    pub(super) const PERMISSION_DENIED: u32 = 0x8000_0002;
    pub(super) const FAILURE: u32 = 0x8000_0003;
    pub(super) const EXIT: u32 = 0x8000_0004;
    pub(super) const SESSION_OPENED: u32 = 0x8000_0006;
}

/// No character of the session is an escape.
const NO_ESCAPE: u32 = 0xffff_ffff;
/// The only request of a connection.
const REQUEST: u32 = 0;

/// Why a master cannot be understood any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A packet over the limit.
    #[error("a packet of {0} bytes from ssh, at most {MAX_PACKET} are allowed")]
    TooLong(u32),
    /// A packet that ends too early.
    #[error("a packet from ssh is cut short")]
    Short,
    /// Another version of the protocol.
    #[error("ssh speaks version {0} of the multiplexing protocol, {VERSION} is needed")]
    Version(u32),
    /// A packet that may not come now.
    #[error("an unexpected packet {0:#x} from ssh")]
    Unexpected(u32),
}

/// What a master has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It speaks this version: ask for the session and pass the descriptors.
    Ready,
    /// The session is open, the command runs.
    Opened,
    /// There is no session; the reason is the master's text, to be escaped before anybody reads it.
    Refused(Vec<u8>),
    /// The command has ended with this code.
    Exited(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Hello,
    Asked,
    Open { session: u32 },
    Over,
}

/// One connection to a master, for one session.
#[derive(Debug)]
pub struct Session {
    stage: Stage,
    buffer: Vec<u8>,
    broken: Option<Violation>,
}

impl Default for Session {
    fn default() -> Self {
        Self { stage: Stage::Hello, buffer: Vec::new(), broken: None }
    }
}

impl Session {
    /// Takes bytes of the master as they arrived.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        if self.broken.is_none() {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// What the master has sent next; `None` until more bytes are there. To be called until then after every
    /// [`Session::handle_bytes`], so that no more than a packet is held.
    ///
    /// # Errors
    /// The master broke the protocol. Every later call fails likewise.
    pub fn poll_event(&mut self) -> Result<Option<Event>, Violation> {
        if let Some(violation) = self.broken {
            return Err(violation);
        }
        self.step().inspect_err(|violation| {
            self.broken = Some(*violation);
            self.buffer = Vec::new();
        })
    }

    fn step(&mut self) -> Result<Option<Event>, Violation> {
        loop {
            let Some((len, rest)) = self.buffer.split_first_chunk::<4>() else {
                return Ok(None);
            };
            let len = u32::from_be_bytes(*len);
            if len > MAX_PACKET {
                return Err(Violation::TooLong(len));
            }
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            let Some(packet) = rest.get(..len) else {
                return Ok(None);
            };
            let (stage, event) = on_packet(self.stage, packet)?;
            self.stage = stage;
            self.buffer.drain(..len.saturating_add(4));
            if event.is_some() {
                return Ok(event);
            }
        }
    }
}

fn on_packet(stage: Stage, packet: &[u8]) -> Result<(Stage, Option<Event>), Violation> {
    let mut rest = packet;
    let ty = number(&mut rest)?;
    match (stage, ty) {
        (Stage::Hello, ty::HELLO) => match number(&mut rest)? {
            VERSION => Ok((Stage::Asked, Some(Event::Ready))),
            other => Err(Violation::Version(other)),
        },
        (Stage::Asked, ty::SESSION_OPENED) => {
            request(&mut rest)?;
            Ok((Stage::Open { session: number(&mut rest)? }, Some(Event::Opened)))
        }
        (Stage::Asked, ty::FAILURE | ty::PERMISSION_DENIED) => {
            request(&mut rest)?;
            Ok((Stage::Over, Some(Event::Refused(string(&mut rest)?.to_vec()))))
        }
        (Stage::Open { session }, ty::EXIT) if number(&mut rest)? == session => {
            Ok((Stage::Over, Some(Event::Exited(number(&mut rest)?))))
        }
        // Any other packet about an open session changes nothing for it.
        (Stage::Open { .. } | Stage::Over, _) => Ok((stage, None)),
        _ => Err(Violation::Unexpected(ty)),
    }
}

/// Checks that an answer is one to the only request.
fn request(rest: &mut &[u8]) -> Result<(), Violation> {
    match number(rest)? {
        REQUEST => Ok(()),
        other => Err(Violation::Unexpected(other)),
    }
}

fn number(rest: &mut &[u8]) -> Result<u32, Violation> {
    let (bytes, later) = rest.split_first_chunk::<4>().ok_or(Violation::Short)?;
    *rest = later;
    Ok(u32::from_be_bytes(*bytes))
}

fn string<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Violation> {
    let len = usize::try_from(number(rest)?).unwrap_or(usize::MAX);
    let (bytes, later) = rest.split_at_checked(len).ok_or(Violation::Short)?;
    *rest = later;
    Ok(bytes)
}

/// The first packet of a client.
#[must_use]
pub fn hello() -> Vec<u8> {
    packet(&[&ty::HELLO.to_be_bytes(), &VERSION.to_be_bytes()])
}

/// Asks for a session that runs `command`, without a terminal, forwarded agent or display. Its three descriptors are
/// passed behind it.
#[must_use]
pub fn new_session(command: &[u8]) -> Vec<u8> {
    let no = 0_u32.to_be_bytes();
    let len = u32::try_from(command.len()).unwrap_or(u32::MAX).to_be_bytes();
    packet(&[
        &ty::NEW_SESSION.to_be_bytes(),
        &REQUEST.to_be_bytes(),
        &no, // a reserved string, empty
        &no, // no terminal
        &no, // no X11
        &no, // no agent
        &no, // not a subsystem
        &NO_ESCAPE.to_be_bytes(),
        &no, // the terminal's type, empty
        &len,
        command,
    ])
}

fn packet(parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    [len.to_be_bytes().as_slice(), &body].concat()
}
