//! Headers, and cutting the link's bytes into messages.

use alloc::vec::Vec;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian::U32};

use super::{BLOB_LEN, Breach, MAX_COMMAND, MAX_DATA, ty};

/// Length of a header on the link, in bytes. On local sockets it is [`crate::header::HEADER_LEN`], without the client.
pub const HEADER_LEN: usize = 12;

/// The header of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Message type, see [`ty`].
    pub ty: u32,
    /// The client that it is about.
    pub client: u32,
    /// Length of the body in bytes.
    pub len: u32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    ty: U32,
    client: U32,
    len: U32,
}

const _: () = assert!(size_of::<Raw>() == HEADER_LEN);

impl Header {
    /// The header as it goes over the link.
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        zerocopy::transmute!(Raw { ty: self.ty.into(), client: self.client.into(), len: self.len.into() })
    }

    /// The header in these bytes.
    pub fn from_bytes(bytes: [u8; HEADER_LEN]) -> Self {
        let raw: Raw = zerocopy::transmute!(bytes);
        Self { ty: raw.ty.get(), client: raw.client.get(), len: raw.len.get() }
    }
}

/// One whole message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its type.
    pub ty: u32,
    /// The client that it is about.
    pub client: u8,
    /// What follows the header.
    pub body: Vec<u8>,
}

/// Appends a message to `out`. The body must be shorter than 4 GiB.
pub(super) fn put(out: &mut Vec<u8>, ty: u32, client: u8, body: &[u8]) {
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&Header { ty, client: client.into(), len }.to_bytes());
    out.extend_from_slice(body);
}

/// Collects the link's bytes and gives out whole messages; memory is used only for bytes that have arrived.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    taken: usize,
}

impl Decoder {
    /// Takes bytes as they arrived. To be drained with [`Decoder::next`] after that.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken.min(self.buffer.len()));
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, `None` if more bytes are needed for it.
    ///
    /// A header that no message can have: the rest of the link cannot be understood.
    /// A header that no message has: the link is of no use any more.
    #[expect(clippy::should_implement_trait, reason = "an iterator would end at None, this goes on")]
    pub fn next(&mut self) -> Result<Option<Message>, Breach> {
        let pending = self.buffer.get(self.taken..).unwrap_or_default();
        let Some((header, rest)) = pending.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let header = Header::from_bytes(*header);
        let wanted = body_len(header)?;
        let client = u8::try_from(header.client).map_err(|_| Breach::Client(header.client))?;
        let Some(body) = rest.get(..wanted) else { return Ok(None) };
        let message = Message { ty: header.ty, client, body: body.to_vec() };
        self.taken = self.taken.saturating_add(HEADER_LEN).saturating_add(wanted);
        Ok(Some(message))
    }

    /// Whether a message has begun and not ended.
    pub fn is_mid_message(&self) -> bool {
        self.taken < self.buffer.len()
    }

    /// Bytes that are held.
    pub fn held(&self) -> usize {
        self.buffer.len()
    }
}

/// How many bytes follow this header. A request has 128, whatever its header says: agents of Linux say 0.
fn body_len(header: Header) -> Result<usize, Breach> {
    let Header { ty, len, .. } = header;
    let max = match ty {
        ty::TRIGGER => return Ok(BLOB_LEN),
        ty::EXEC | ty::JUST_EXEC => MAX_COMMAND,
        ty::CONNECT_EXISTING | ty::INPUT | ty::STDOUT | ty::STDERR => MAX_DATA,
        ty::CLIENT_END | ty::XOFF | ty::XON => 0,
        ty::EXIT_CODE if len != 4 => return Err(Breach::Length { ty, len }),
        ty::EXIT_CODE => 4,
        _ => return Err(Breach::Type(ty)),
    };
    match usize::try_from(len) {
        Ok(len) if len <= max => Ok(len),
        _ => Err(Breach::TooLong { ty, len, max: u32::try_from(max).unwrap_or(u32::MAX) }),
    }
}

/// The text of a body, which its only NUL ends.
pub(super) fn text(ty: u32, body: &[u8]) -> Result<&[u8], Breach> {
    match body.split_last() {
        Some((0, text)) if !text.contains(&0) => Ok(text),
        _ => Err(Breach::Text(ty)),
    }
}
