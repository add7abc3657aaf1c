//! The HELLO of a link, by which both sides agree on a version.
//!
//! The server of a link sends its HELLO first, but on a data link both sides may send at once and neither may wait for
//! the other. So this machine knows no turns: send [`Handshake::hello`] when the link's rules allow it, and feed it
//! what arrives.

use alloc::vec::Vec;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian::U32};

use crate::error::{Breach, PeerError};
use crate::header::{HEADER_LEN, Header, ty};
use crate::version::Version;

/// Length of the body of a HELLO, in bytes.
pub const PEER_INFO_LEN: usize = 4;
/// Length of a whole HELLO on the wire, in bytes.
pub const HELLO_LEN: usize = HEADER_LEN + PEER_INFO_LEN;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawPeerInfo {
    version: U32,
}

const _: () = assert!(size_of::<RawPeerInfo>() == PEER_INFO_LEN);

/// The body of a HELLO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerInfo {
    /// The newest protocol version that the sender speaks.
    pub version: u32,
}

impl PeerInfo {
    /// The body as it goes over the wire.
    pub fn to_bytes(self) -> [u8; PEER_INFO_LEN] {
        zerocopy::transmute!(RawPeerInfo { version: self.version.into() })
    }

    /// Reads the body of a HELLO.
    pub fn decode(body: &[u8]) -> Result<Self, PeerError> {
        let raw = RawPeerInfo::read_from_bytes(body)
            .map_err(|_| Breach::BodyLength { ty: ty::HELLO, len: body.len() })?;
        Ok(Self { version: raw.version.get() })
    }
}

/// A HELLO that offers `version`, header and body in one piece.
pub fn hello(version: Version) -> [u8; HELLO_LEN] {
    hello_of(version.number())
}

/// A HELLO with a number that may be none of this crate's versions.
pub(crate) fn hello_of(version: u32) -> [u8; HELLO_LEN] {
    let mut bytes = [0; HELLO_LEN];
    let header = Header::new(ty::HELLO, PEER_INFO_LEN as u32).to_bytes();
    let body = PeerInfo { version }.to_bytes();
    for (to, from) in bytes.iter_mut().zip(header.into_iter().chain(body)) {
        *to = from;
    }
    bytes
}

/// One side of a handshake.
#[derive(Debug)]
pub struct Handshake {
    ours: Version,
    least: Version,
    received: Vec<u8>,
    surplus: Vec<u8>,
    agreed: Option<Version>,
}

impl Handshake {
    /// A handshake that offers `ours` and accepts any version from [`Version::LEAST`] on.
    pub const fn new(ours: Version) -> Self {
        Self::with_least(ours, Version::LEAST)
    }

    /// A handshake that offers `ours` and refuses anything under `least`.
    pub const fn with_least(ours: Version, least: Version) -> Self {
        Self { ours, least, received: Vec::new(), surplus: Vec::new(), agreed: None }
    }

    /// This side's HELLO, to be sent once.
    pub fn hello(&self) -> [u8; HELLO_LEN] {
        hello(self.ours)
    }

    /// How many more bytes belong to the peer's HELLO. Read no more than these and
    /// [`Handshake::surplus`] stays empty.
    pub fn wanted(&self) -> usize {
        HELLO_LEN.saturating_sub(self.received.len())
    }

    /// Takes bytes as they arrived; gives the version once the peer's HELLO is whole. A first message
    /// that is no HELLO is an error as soon as its first bytes show it.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<Version>, PeerError> {
        let (ours, rest) = bytes.split_at_checked(self.wanted()).unwrap_or((bytes, &[]));
        self.received.extend_from_slice(ours);
        self.surplus.extend_from_slice(rest);
        self.check()
    }

    /// Bytes that arrived together with the HELLO, behind it: the beginning of the link's data.
    pub fn surplus(&self) -> &[u8] {
        &self.surplus
    }

    fn check(&mut self) -> Result<Option<Version>, PeerError> {
        let Some((header, body)) = self.received.split_first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let Header { ty, len } = Header::from_bytes(*header);
        if ty != ty::HELLO {
            return Err(Breach::UnexpectedType(ty).into());
        }
        if usize::try_from(len) != Ok(PEER_INFO_LEN) {
            return Err(Breach::BodyLength { ty, len: usize::try_from(len).unwrap_or(usize::MAX) }.into());
        }
        if body.len() == PEER_INFO_LEN && self.agreed.is_none() {
            let theirs = PeerInfo::decode(body)?.version;
            self.agreed = Some(Version::negotiate_between(self.ours, self.least, theirs)?);
        }
        Ok(self.agreed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_by_byte_with_data_behind() {
        let mut side = Handshake::new(Version::V4);
        let mut wire = hello(Version::V3).to_vec();
        let last = wire.pop().into_iter().collect::<Vec<_>>();
        for byte in wire {
            assert_eq!(side.feed(&[byte]), Ok(None));
        }
        assert_eq!(side.wanted(), 1);
        assert_eq!(side.feed(&[last.as_slice(), b"data"].concat()), Ok(Some(Version::V3)));
        assert_eq!(side.surplus(), b"data");
        assert_eq!(side.feed(b"more"), Ok(Some(Version::V3)));
        assert_eq!(side.surplus(), b"datamore");
    }

    #[test]
    fn both_sides_agree_on_the_lower() {
        use Version::{V2, V3, V4};
        for a in [V2, V3, V4] {
            for b in [V2, V3, V4] {
                let (mut left, mut right) = (Handshake::new(a), Handshake::new(b));
                let (from_left, from_right) = (left.hello(), right.hello());
                assert_eq!(left.feed(&from_right), Ok(Some(a.min(b))));
                assert_eq!(right.feed(&from_left), Ok(Some(a.min(b))));
            }
        }
    }

    #[test]
    fn not_a_hello_is_seen_at_its_header() {
        let mut side = Handshake::new(Version::OURS);
        let data = Header::new(ty::DATA_STDIN, 4).to_bytes();
        assert_eq!(side.feed(&data), Err(Breach::UnexpectedType(ty::DATA_STDIN).into()));
        let mut side = Handshake::new(Version::OURS);
        let long = Header::new(ty::HELLO, 5).to_bytes();
        assert_eq!(side.feed(&long), Err(Breach::BodyLength { ty: ty::HELLO, len: 5 }.into()));
    }

    #[test]
    fn too_old_is_incompatible_not_misbehaved() {
        let mut side = Handshake::with_least(Version::LOCAL_DAEMON, Version::LOCAL_DAEMON);
        let answer = side.feed(&hello(Version::V2));
        assert_eq!(answer, Err(PeerError::Incompatible { theirs: 2, least: 3 }));
    }
}
