//! Request ids.

use alloc::format;
use core::fmt;

use super::{padded, unpadded};
use crate::error::Breach;

/// Length of a request id on the wire, in bytes.
pub const IDENT_LEN: usize = 32;

/// A request id, by which an agent recognises the answer to a call. At most 31 characters of `[0-9A-Za-z_. -]`, padded
/// with NUL to 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ident([u8; IDENT_LEN]);

impl Ident {
    /// What `qrexec-client-vm` writes, to be replaced by the agent's own number.
    pub const SOCKET: &'static str = "SOCKET";

    /// The first number that cannot be a descriptor's.
    pub const FIRST_LOOKED_UP: u64 = 1 << 31;

    /// Accepts a text that is a request id.
    pub fn new(text: &str) -> Result<Self, Breach> {
        padded(text).ok_or(Breach::Ident).and_then(Self::from_bytes)
    }

    /// Accepts a 32-byte field that is a request id: allowed characters, then nothing but NULs, and
    /// at least one of them.
    pub fn from_bytes(bytes: [u8; IDENT_LEN]) -> Result<Self, Breach> {
        let text = unpadded(&bytes);
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b' ');
        let padding = bytes.get(text.len()..).unwrap_or_default();
        if text.iter().all(allowed) && padding.iter().all(|&b| b == 0) {
            Ok(Self(bytes))
        } else {
            Err(Breach::Ident)
        }
    }

    /// The id `SOCKET<n>`, which agents number their calls with.
    pub fn numbered(n: u64) -> Self {
        // Six letters and at most twenty digits always fit.
        let mut bytes = [0; IDENT_LEN];
        let text = format!("{}{n}", Self::SOCKET);
        for (to, from) in bytes.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        Self(bytes)
    }

    /// The number of an id `SOCKET<n>`, if it is one in the form that [`Ident::numbered`] gives.
    pub fn number(&self) -> Option<u64> {
        let digits = self.as_str().strip_prefix(Self::SOCKET)?;
        let number = digits.parse().ok()?;
        (Self::numbered(number) == *self).then_some(number)
    }

    /// Whether this is the id of an agent that looks its requests up by id, as this project's does: such ids begin at
    /// [`Ident::FIRST_LOOKED_UP`]. Upstream's agent takes the number for one of its descriptors, which are never so
    /// large, and closes that descriptor when the id is refused, whatever the descriptor is used for by then.
    pub fn is_looked_up(&self) -> bool {
        self.number().is_some_and(|number| number >= Self::FIRST_LOOKED_UP)
    }

    /// The id as text, without its padding.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(unpadded(&self.0)).unwrap_or_default()
    }

    /// The id as it goes over the wire.
    pub const fn to_bytes(&self) -> [u8; IDENT_LEN] {
        self.0
    }
}

impl fmt::Display for Ident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Ident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ident({:?})", self.as_str())
    }
}
