//! The tokens of the reactor of the agent of protocol 1.

use engine::reactor;
use wire::r2::{CallKey, Stream};

/// Which descriptor is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    /// The link to the daemon, or the listener for it.
    Link,
    /// The signals that end the agent.
    Signals,
    /// Requests of programs of this VM.
    Fifo,
    /// The socket by which these pass their descriptors.
    Socket,
    /// One of a call's descriptors.
    Call(CallKey, Part),
    /// Input that is still to be written for a call that has ended.
    Rest(u64),
    /// A process whose call has ended.
    Stray(u64),
}

/// The descriptors of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Stdin,
    Output(Stream),
    Child,
}

/// The low bits are the kind, the others the number.
const KIND_BITS: u32 = 4;

impl reactor::Token for Token {
    fn number(self) -> u64 {
        let (kind, number) = match self {
            Self::Link => (0, 0),
            Self::Signals => (1, 0),
            Self::Fifo => (2, 0),
            Self::Socket => (3, 0),
            Self::Call(CallKey(key), Part::Stdin) => (4, key),
            Self::Call(CallKey(key), Part::Output(Stream::Stdout)) => (5, key),
            Self::Call(CallKey(key), Part::Output(Stream::Stderr)) => (6, key),
            Self::Call(CallKey(key), Part::Child) => (7, key),
            Self::Rest(number) => (8, number),
            Self::Stray(number) => (9, number),
        };
        // Keys and numbers count events of one process, which cannot be 2^60.
        (number << KIND_BITS) | kind
    }

    fn from_number(number: u64) -> Option<Self> {
        let (kind, number) = (number & ((1 << KIND_BITS) - 1), number >> KIND_BITS);
        let part = |part| Some(Self::Call(CallKey(number), part));
        match kind {
            0 => Some(Self::Link),
            1 => Some(Self::Signals),
            2 => Some(Self::Fifo),
            3 => Some(Self::Socket),
            4 => part(Part::Stdin),
            5 => part(Part::Output(Stream::Stdout)),
            6 => part(Part::Output(Stream::Stderr)),
            7 => part(Part::Child),
            8 => Some(Self::Rest(number)),
            9 => Some(Self::Stray(number)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reactor::Token as _;

    #[test]
    fn tokens_come_back_as_they_were() {
        for number in (0..4).chain((4..10).map(|kind| (77 << KIND_BITS) | kind)) {
            assert_eq!(Token::from_number(number).map(Token::number), Some(number));
        }
        assert_eq!(Token::from_number(15), None);
    }
}
