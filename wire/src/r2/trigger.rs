//! A request for a service: 128 bytes, on the FIFO of an agent and on the link.

use alloc::format;
use alloc::string::String;
use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::names::unpadded;

/// Length of a request in bytes.
pub const BLOB_LEN: usize = 128;

/// A request as it goes over FIFO and link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Blob {
    service: [u8; 64],
    target: [u8; 32],
    ident: [u8; 32],
}

const _: () = assert!(size_of::<Blob>() == BLOB_LEN);

/// Why a request on the FIFO is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    /// Its length is not 128.
    #[error("a request of {0} bytes: 128 are needed")]
    Length(usize),
    /// A field whose last byte is no NUL.
    #[error("a request whose {0} has no end")]
    NoEnd(&'static str),
    /// No service name.
    #[error("a request for a service without a name")]
    NoService,
    /// An ident that is not three numbers.
    #[error("a request whose ident is not three numbers")]
    Ident,
}

/// The numbers of three sockets: what the caller writes, what it reads, its error output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handles(pub [u32; 3]);

impl Handles {
    /// Reads an ident: three decimal numbers with one blank between them.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut words = core::str::from_utf8(text).ok()?.split(' ');
        let mut number =
            || words.next().filter(|word| word.bytes().all(|b| b.is_ascii_digit()))?.parse().ok();
        let handles = Self([number()?, number()?, number()?]);
        words.next().is_none().then_some(handles)
    }
}

impl fmt::Display for Handles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [one, two, three] = self.0;
        write!(f, "{one} {two} {three}")
    }
}

impl Blob {
    /// A request; `None` if a name is too long.
    pub fn new(service: &str, target: &str, ident: &str) -> Option<Self> {
        use crate::names::padded;
        Some(Self { service: padded(service)?, target: padded(target)?, ident: padded(ident)? })
    }

    /// Reads what a program has written to the FIFO, and the numbers of its sockets.
    ///
    /// # Errors
    /// It is not what the clients of R1 and R2 write.
    pub fn checked(bytes: &[u8]) -> Result<(Self, Handles), BlobError> {
        let blob = Self::read_from_bytes(bytes).map_err(|_| BlobError::Length(bytes.len()))?;
        for (field, name) in
            [(&blob.service[..], "service"), (&blob.target[..], "target"), (&blob.ident[..], "ident")]
        {
            if field.last() != Some(&0) {
                return Err(BlobError::NoEnd(name));
            }
        }
        if blob.service.first() == Some(&0) {
            return Err(BlobError::NoService);
        }
        let handles = Handles::parse(unpadded(&blob.ident)).ok_or(BlobError::Ident)?;
        Ok((blob, handles))
    }

    /// Any 128 bytes; see [`Blob::words`].
    pub fn from_bytes(bytes: [u8; BLOB_LEN]) -> Self {
        zerocopy::transmute!(bytes)
    }

    /// As it goes over the link.
    pub fn to_bytes(self) -> [u8; BLOB_LEN] {
        zerocopy::transmute!(self)
    }

    /// Service, target and ident as a policy program may see them: cut to fit their fields, and with `_` for every
    /// byte that a name cannot have.
    pub fn words(&self) -> [String; 3] {
        [&self.service[..], &self.target[..], &self.ident[..]].map(|field| harmless(unpadded(field)))
    }

    /// The service as it was written.
    pub fn service(&self) -> &[u8] {
        unpadded(&self.service)
    }

    /// The target as it was written.
    pub fn target(&self) -> &[u8] {
        unpadded(&self.target)
    }

    /// For a log.
    pub fn shown(&self) -> String {
        let [service, target, _] = self.words();
        format!("{service} of {target}")
    }
}

fn harmless(bytes: &[u8]) -> String {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'$' | b'_' | b'.' | b'-' | b' ');
    bytes.iter().map(|&b| if allowed(b) { char::from(b) } else { '_' }).collect()
}
