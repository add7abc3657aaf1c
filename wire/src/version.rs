//! Protocol versions and what depends on them.

use core::fmt;

use crate::error::PeerError;

/// A protocol version that is spoken here. Version 1 (R2) has no HELLO and other messages; it is in [`crate::r2`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// R3.0 to R4.0: chunks of at most 4096 bytes.
    V2,
    /// R4.1 and R4.2: chunks of at most 65,536 bytes, the longer trigger.
    V3,
    /// R4.3: the trigger also names a source.
    V4,
}

impl Version {
    /// The newest version, which is offered on vchan links.
    pub const OURS: Self = Self::V4;
    /// The version spoken on the daemon's local socket, where nothing older is accepted.
    pub const LOCAL_DAEMON: Self = Self::V3;
    /// The oldest version accepted on vchan links.
    pub const LEAST: Self = Self::V2;

    /// The number that stands for this version in a HELLO.
    pub const fn number(self) -> u32 {
        match self {
            Self::V2 => 2,
            Self::V3 => 3,
            Self::V4 => 4,
        }
    }

    /// The version that is used on a link where this side offers [`Version::OURS`] and the peer offers `theirs`: the
    /// lower of the two.
    pub fn negotiate(theirs: u32) -> Result<Self, PeerError> {
        Self::negotiate_between(Self::OURS, Self::LEAST, theirs)
    }

    /// As [`Version::negotiate`], on a link where this side offers `ours` and refuses anything under `least`.
    pub fn negotiate_between(ours: Self, least: Self, theirs: u32) -> Result<Self, PeerError> {
        let agreed = match theirs {
            0 | 1 => return Err(PeerError::Incompatible { theirs, least: least.number() }),
            2 => Self::V2,
            3 => Self::V3,
            _ => Self::V4,
        }
        .min(ours);
        if agreed < least {
            return Err(PeerError::Incompatible { theirs, least: least.number() });
        }
        Ok(agreed)
    }

    /// The longest data chunk on a link of this version, in bytes. It may be longer than the ring.
    pub const fn max_chunk(self) -> u32 {
        match self {
            Self::V2 => 4096,
            Self::V3 | Self::V4 => 65_536,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_version_holds() {
        assert_eq!(Version::negotiate(2), Ok(Version::V2));
        assert_eq!(Version::negotiate(3), Ok(Version::V3));
        assert_eq!(Version::negotiate(4), Ok(Version::V4));
        assert_eq!(Version::negotiate(u32::MAX), Ok(Version::V4));
        for theirs in [0, 1] {
            assert_eq!(Version::negotiate(theirs), Err(PeerError::Incompatible { theirs, least: 2 }));
        }
    }

    #[test]
    fn the_local_socket_wants_three() {
        let local = |theirs| Version::negotiate_between(Version::V3, Version::V3, theirs);
        assert_eq!(local(2), Err(PeerError::Incompatible { theirs: 2, least: 3 }));
        assert_eq!(local(3), Ok(Version::V3));
        assert_eq!(local(9), Ok(Version::V3));
    }
}
