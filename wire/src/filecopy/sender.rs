//! The sending half: entries in order, with bodies of exactly the announced length.

use alloc::vec::Vec;

use super::header::{ENTRY_LEN, EntryHeader, NAME_MAX};
use super::{Kind, Time};

/// A wrong use of a [`Sender`] by this project's own programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Misused {
    /// An entry, or the end, before the last body is complete.
    #[error("{0} bytes of the body before are missing")]
    BodyMissing(u64),
    /// More body than was announced.
    #[error("a body with more bytes than were announced")]
    BodyTooLong,
    /// Anything after the end.
    #[error("the stream has already ended")]
    Ended,
    /// An empty name, one with a NUL, or one that is too long for the wire.
    #[error("the name cannot be sent")]
    Name,
    /// A mode whose type cannot be expressed on the wire.
    #[error("neither a file, nor a folder, nor a link")]
    Kind,
}

/// Encodes the bytes of a copy.
#[derive(Debug, Default)]
pub struct Sender {
    body_left: u64,
    ended: bool,
}

impl Sender {
    /// Appends an entry's header and name to `out`. `body_len` bytes have to follow through [`Sender::handle_body`],
    /// none for a folder.
    ///
    /// # Errors
    /// The entry cannot be sent now, or not at all; `out` is as it was.
    pub fn handle_entry(
        &mut self,
        name: &[u8],
        mode: u32,
        body_len: u64,
        times: [Time; 2],
        out: &mut Vec<u8>,
    ) -> Result<(), Misused> {
        self.between_entries()?;
        let kind = Kind::of(mode).ok_or(Misused::Kind)?;
        let name_len = u32::try_from(name.len()).ok().and_then(|len| len.checked_add(1));
        let name_len = name_len.filter(|len| *len <= NAME_MAX).ok_or(Misused::Name)?;
        if name.is_empty() || name.contains(&0) {
            return Err(Misused::Name);
        }
        let body_len = if kind == Kind::Folder { 0 } else { body_len };
        let [accessed, modified] = times;
        let header = EntryHeader { name_len, mode, body_len, accessed, modified };
        out.reserve(ENTRY_LEN.saturating_add(name.len()).saturating_add(1));
        out.extend_from_slice(&header.to_bytes());
        out.extend_from_slice(name);
        out.push(0);
        self.body_left = body_len;
        Ok(())
    }

    /// Counts `bytes` bytes of a body, which the caller sends itself.
    ///
    /// # Errors
    /// More than was announced.
    pub fn handle_body(&mut self, bytes: u64) -> Result<(), Misused> {
        self.body_left = self.body_left.checked_sub(bytes).ok_or(Misused::BodyTooLong)?;
        Ok(())
    }

    /// Appends the end of the stream.
    ///
    /// # Errors
    /// A body is incomplete, or the stream has ended before.
    pub fn handle_end(&mut self, out: &mut Vec<u8>) -> Result<(), Misused> {
        self.between_entries()?;
        out.extend_from_slice(&EntryHeader::END.to_bytes());
        self.ended = true;
        Ok(())
    }

    /// Bytes of the body that are still to be sent.
    pub const fn body_left(&self) -> u64 {
        self.body_left
    }

    /// Whether the end has been sent.
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    const fn between_entries(&self) -> Result<(), Misused> {
        match (self.ended, self.body_left) {
            (true, _) => Err(Misused::Ended),
            (false, 0) => Ok(()),
            (false, left) => Err(Misused::BodyMissing(left)),
        }
    }
}
