//! The descriptors behind an isochronous message.

use zerocopy::byteorder::big_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::header::status;
use super::{Field, Violation};

/// Bytes of a descriptor.
pub const PACKET_LEN: usize = 16;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    offset: U32,
    length: U32,
    actual: U32,
    status: U32,
}

/// One packet of an isochronous request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Packet {
    /// Where it lies in the request's buffer.
    pub offset: u32,
    /// Its bytes.
    pub length: u32,
    /// How many were moved; 0 in a request.
    pub actual: u32,
    /// 0 or a negated errno; 0 in a request.
    pub status: i32,
}

impl Packet {
    /// Reads a descriptor of a request. It must lie behind `end`, the end of the packet before it, and within the
    /// buffer. Its outcome is left from an earlier request and is ignored.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn of_command(bytes: [u8; PACKET_LEN], end: u32, buffer: u32) -> Result<Self, Violation> {
        let raw: Raw = zerocopy::transmute!(bytes);
        let (offset, length) = (raw.offset.get(), raw.length.get());
        if offset < end || offset > buffer {
            return Err(Violation::Field(Field::PacketOffset));
        }
        if length > buffer - offset {
            return Err(Violation::Field(Field::PacketLength));
        }
        Ok(Self { offset, length, actual: 0, status: 0 })
    }

    /// Reads the descriptor of the answer to the packet `asked`. Its place in the buffer is the one in the request,
    /// whatever the answer says.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn of_answer(bytes: [u8; PACKET_LEN], asked: Self) -> Result<Self, Violation> {
        let raw: Raw = zerocopy::transmute!(bytes);
        let actual = raw.actual.get();
        if actual > asked.length {
            return Err(Violation::Field(Field::PacketActualLength));
        }
        Ok(Self { actual, status: status(raw.status.get(), Field::PacketStatus)?, ..asked })
    }

    /// The descriptor.
    pub fn to_bytes(self) -> [u8; PACKET_LEN] {
        let words = [self.offset, self.length, self.actual, self.status.cast_unsigned()];
        zerocopy::transmute!(words.map(U32::new))
    }

    /// Where it ends in the buffer.
    pub const fn end(self) -> u32 {
        self.offset.saturating_add(self.length)
    }
}
