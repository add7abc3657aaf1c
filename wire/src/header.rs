//! The eight bytes in front of every message.

use alloc::vec::Vec;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian::U32};

use crate::error::TooLong;

/// Longest body of a message on a local socket, in bytes.
pub const MAX_LOCAL_BODY: usize = 65_535;
/// Length of a header on the wire, in bytes.
pub const HEADER_LEN: usize = 8;

/// Message types, as `qrexec.h` of upstream numbers them.
pub mod ty {
    /// Client to service: bytes for the service's stdin; empty means end of file.
    pub const DATA_STDIN: u32 = 0x190;
    /// Service to client: bytes of the service's stdout; empty means end of file.
    pub const DATA_STDOUT: u32 = 0x191;
    /// Service to client: bytes of the service's stderr; empty means end of file.
    pub const DATA_STDERR: u32 = 0x192;
    /// Service to client: the exit code, an `i32`.
    pub const DATA_EXIT_CODE: u32 = 0x193;
    /// Start a command or service and connect its stdio: exec parameters.
    pub const EXEC_CMDLINE: u32 = 0x200;
    /// Start a command or service with its stdio on `/dev/null`: exec parameters.
    pub const JUST_EXEC: u32 = 0x201;
    /// The call is allowed, meet the service there: exec parameters with the request id.
    pub const SERVICE_CONNECT: u32 = 0x202;
    /// The call is refused: the request id.
    pub const SERVICE_REFUSED: u32 = 0x203;
    /// A call, protocol 2 form.
    pub const TRIGGER_SERVICE: u32 = 0x210;
    /// A data link has ended, its port is free: domain and port.
    pub const CONNECTION_TERMINATED: u32 = 0x211;
    /// A call, protocol 3 form.
    pub const TRIGGER_SERVICE3: u32 = 0x212;
    /// A call, protocol 4 form.
    pub const TRIGGER_SERVICE4: u32 = 0x213;
    /// The first message of each side: the protocol version.
    pub const HELLO: u32 = 0x300;
}

/// A message header: the type and the length of the body that follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Message type, see [`ty`].
    pub ty: u32,
    /// Length of the body in bytes.
    pub len: u32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    ty: U32,
    len: U32,
}

const _: () = assert!(size_of::<Raw>() == HEADER_LEN);

impl Header {
    /// A header for a body of `len` bytes.
    pub const fn new(ty: u32, len: u32) -> Self {
        Self { ty, len }
    }

    /// The header as it goes over the wire.
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        zerocopy::transmute!(Raw { ty: self.ty.into(), len: self.len.into() })
    }

    /// The header in these bytes. Any eight bytes are a header; the link decides whether it makes sense.
    pub fn from_bytes(bytes: [u8; HEADER_LEN]) -> Self {
        let raw: Raw = zerocopy::transmute!(bytes);
        Self { ty: raw.ty.get(), len: raw.len.get() }
    }
}

/// A body with its header in front.
pub(crate) fn framed(ty: u32, body: &[u8]) -> Result<Vec<u8>, TooLong> {
    let too_long = TooLong { len: body.len(), max: MAX_LOCAL_BODY };
    if body.len() > MAX_LOCAL_BODY {
        return Err(too_long);
    }
    let len = u32::try_from(body.len()).map_err(|_| too_long)?;
    let mut bytes = Vec::with_capacity(HEADER_LEN.saturating_add(body.len()));
    bytes.extend_from_slice(&Header::new(ty, len).to_bytes());
    bytes.extend_from_slice(body);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_endian_on_the_wire() {
        let header = Header::new(ty::TRIGGER_SERVICE4, 0x0102_0304);
        assert_eq!(header.to_bytes(), [0x13, 0x02, 0, 0, 4, 3, 2, 1]);
        assert_eq!(Header::from_bytes(header.to_bytes()), header);
    }
}
