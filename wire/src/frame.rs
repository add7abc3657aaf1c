//! Cutting a byte stream into messages.

use alloc::vec::Vec;

use crate::control::MAX_LOCAL_BODY;
use crate::error::{Breach, PeerError};
use crate::header::{HEADER_LEN, Header, ty};
use crate::trigger::{BadTrigger, TRIGGER2_LEN, Trigger};

/// One whole message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The type from the header.
    pub ty: u32,
    /// The body, as long as the header said.
    pub body: Vec<u8>,
}

/// Collects bytes and gives out whole messages.
///
/// Memory is bounded by what is pushed: a header that announces more than `max_body` is an error at
/// once, and nothing is set aside for bytes that have only been announced. A caller that drains
/// [`Decoder::next`] after every push never holds more than one message and one push.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// How much of `buffer` has been given out already.
    taken: usize,
    max_body: usize,
    /// Once the stream is broken there is no way to find the next message.
    broken: Option<PeerError>,
}

impl Decoder {
    /// A decoder for a link on which bodies have at most `max_body` bytes.
    pub const fn new(max_body: usize) -> Self {
        Self { buffer: Vec::new(), taken: 0, max_body, broken: None }
    }

    /// Takes bytes as they arrived. After an error they are dropped.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.broken.is_none() {
            self.buffer.drain(..self.taken.min(self.buffer.len()));
            self.taken = 0;
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The next whole message, `None` if more bytes are needed for it. An error stays: every later
    /// call returns it again.
    #[expect(clippy::should_implement_trait, reason = "an iterator would end at None, this goes on")]
    pub fn next(&mut self) -> Result<Option<Frame>, PeerError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let Some((header, rest)) = self.pending().split_first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let Header { ty, len } = Header::from_bytes(*header);
        // A length that no usize holds is over every limit.
        let wanted = usize::try_from(len).unwrap_or(usize::MAX);
        if wanted > self.max_body {
            let max = u32::try_from(self.max_body).unwrap_or(u32::MAX);
            let error = PeerError::from(Breach::BodyTooLong { len, max });
            self.buffer = Vec::new();
            self.taken = 0;
            self.broken = Some(error.clone());
            return Err(error);
        }
        let Some(body) = rest.get(..wanted) else {
            return Ok(None);
        };
        let frame = Frame { ty, body: body.to_vec() };
        self.taken = self.taken.saturating_add(HEADER_LEN).saturating_add(wanted);
        Ok(Some(frame))
    }

    /// Whether a message has begun and not ended: the end of the stream here would cut it, and a peer
    /// that stops here holds a message half sent. Ask after [`Decoder::next`] gave `None`.
    pub fn is_mid_message(&self) -> bool {
        !self.pending().is_empty()
    }

    /// Bytes that are held, for the bound that the fuzz targets prove.
    #[cfg(fuzzing)]
    pub fn held(&self) -> usize {
        self.buffer.len()
    }

    fn pending(&self) -> &[u8] {
        self.buffer.get(self.taken..).unwrap_or_default()
    }
}

/// Reads the one request that a `qrexec-client-vm` of any age writes to its agent: a bare 128-byte
/// structure (R3 to R4.0), or a header and the protocol 3 (R4.1, R4.2) or 4 form (R4.3).
#[derive(Debug, Default)]
pub struct LocalTriggerDecoder {
    buffer: Vec<u8>,
}

/// What the first bytes of a local request say.
enum Form {
    Bare,
    Framed,
}

impl LocalTriggerDecoder {
    /// A decoder for one connection.
    pub const fn new() -> Self {
        Self { buffer: Vec::new() }
    }

    /// Takes bytes as they arrived and gives the request once it is whole, `None` before. Bytes
    /// beyond the one request are an error, so is any further call that brings some.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<Result<Trigger, BadTrigger>>, PeerError> {
        self.buffer.extend_from_slice(bytes);
        let Some((first, _)) = self.buffer.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let (ty, body, wanted) = match form(u32::from_le_bytes(*first))? {
            Form::Bare => (ty::TRIGGER_SERVICE, self.buffer.as_slice(), TRIGGER2_LEN),
            Form::Framed => {
                let Some((header, body)) = self.buffer.split_first_chunk::<HEADER_LEN>() else {
                    return Ok(None);
                };
                let Header { ty, len } = Header::from_bytes(*header);
                let wanted = usize::try_from(len).unwrap_or(usize::MAX);
                if wanted > MAX_LOCAL_BODY {
                    return Err(Breach::BodyTooLong { len, max: MAX_LOCAL_BODY as u32 }.into());
                }
                (ty, body, wanted)
            }
        };
        match body.len().cmp(&wanted) {
            core::cmp::Ordering::Less => Ok(None),
            core::cmp::Ordering::Equal => Trigger::decode(ty, body).map(Some),
            core::cmp::Ordering::Greater => Err(Breach::Trailing.into()),
        }
    }

    /// Whether a request has begun.
    pub fn has_begun(&self) -> bool {
        !self.buffer.is_empty()
    }
}

/// A header begins with a message type, which as text would be two control characters and two NULs;
/// a bare structure begins with a service name.
fn form(first: u32) -> Result<Form, PeerError> {
    match first {
        ty::TRIGGER_SERVICE | ty::TRIGGER_SERVICE3 | ty::TRIGGER_SERVICE4 => Ok(Form::Framed),
        // Another message, now or in a version to come: waiting for 128 bytes of it leads nowhere.
        0x100..0x1000 => Err(Breach::UnexpectedType(first).into()),
        _ => Ok(Form::Bare),
    }
}

#[cfg(test)]
mod tests;
