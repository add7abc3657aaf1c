//! The 32 bytes before every entry.

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of an entry's header.
pub const ENTRY_LEN: usize = 32;

/// Longest name on the wire, its final NUL included.
pub const NAME_MAX: u32 = 16_383;

/// A point in time as the wire has it: seconds modulo 2³², and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Time {
    /// Seconds, the low 32 bits.
    pub seconds: u32,
    /// Nanoseconds; a valid time has less than 10⁹.
    pub nanoseconds: u32,
}

impl Time {
    /// Whether the nanoseconds are less than a second. What the system takes for "now" or "unchanged" is not.
    pub const fn is_valid(self) -> bool {
        self.nanoseconds < 1_000_000_000
    }
}

/// What stands before an entry's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EntryHeader {
    /// Bytes of the name that follows; 0 ends the stream.
    pub name_len: u32,
    /// Type and permission bits.
    pub mode: u32,
    /// Bytes of the body.
    pub body_len: u64,
    /// Last access.
    pub accessed: Time,
    /// Last change of the content.
    pub modified: Time,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    name_len: U32,
    mode: U32,
    body_len: U64,
    times: [U32; 4],
}

impl EntryHeader {
    /// The header that ends the stream.
    pub const END: Self = {
        let none = Time { seconds: 0, nanoseconds: 0 };
        Self { name_len: 0, mode: 0, body_len: 0, accessed: none, modified: none }
    };

    /// Reads the 32 bytes.
    pub fn from_bytes(bytes: [u8; ENTRY_LEN]) -> Self {
        let raw: Raw = zerocopy::transmute!(bytes);
        let [a, an, m, mn] = raw.times.map(U32::get);
        Self {
            name_len: raw.name_len.get(),
            mode: raw.mode.get(),
            body_len: raw.body_len.get(),
            accessed: Time { seconds: a, nanoseconds: an },
            modified: Time { seconds: m, nanoseconds: mn },
        }
    }

    /// The 32 bytes.
    pub fn to_bytes(self) -> [u8; ENTRY_LEN] {
        let times = [
            self.accessed.seconds,
            self.accessed.nanoseconds,
            self.modified.seconds,
            self.modified.nanoseconds,
        ];
        let raw = Raw {
            name_len: self.name_len.into(),
            mode: self.mode.into(),
            body_len: self.body_len.into(),
            times: times.map(U32::new),
        };
        zerocopy::transmute!(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_wire_has_them() {
        let mut bytes = [0; ENTRY_LEN];
        for (index, byte) in (0u8..).zip(&mut bytes) {
            *byte = index;
        }
        let header = EntryHeader::from_bytes(bytes);
        assert_eq!(header.name_len, 0x0302_0100);
        assert_eq!(header.mode, 0x0706_0504);
        assert_eq!(header.body_len, 0x0f0e_0d0c_0b0a_0908);
        assert_eq!(header.accessed, Time { seconds: 0x1312_1110, nanoseconds: 0x1716_1514 });
        assert_eq!(header.modified, Time { seconds: 0x1b1a_1918, nanoseconds: 0x1f1e_1d1c });
        assert_eq!(header.to_bytes(), bytes);
        assert_eq!(EntryHeader::END.to_bytes(), [0; ENTRY_LEN]);
    }
}
