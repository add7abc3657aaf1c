//! What the reactor of the daemon of protocol 1 knows its descriptors by.

use engine::reactor;
use wire::r2::ClientKey;

/// Whose descriptor is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    /// The link to the agent, or the search for it.
    Link,
    /// What would end the daemon.
    Signals,
    /// The socket of programs of dom0.
    Listener,
    /// Such a program.
    Client(ClientKey),
    /// A policy program, by its number.
    Policy(u64),
}

/// The low bits say what, the others which one.
const KIND_BITS: u32 = 3;

impl reactor::Token for Token {
    fn number(self) -> u64 {
        let (kind, id) = match self {
            Self::Link => (0, 0),
            Self::Signals => (1, 0),
            Self::Listener => (2, 0),
            Self::Client(ClientKey(key)) => (3, key),
            Self::Policy(number) => (4, number),
        };
        // Keys and numbers count events of one process: 2^61 of them do not happen.
        (id << KIND_BITS) | kind
    }

    fn from_number(number: u64) -> Option<Self> {
        let (kind, id) = (number & ((1 << KIND_BITS) - 1), number >> KIND_BITS);
        match kind {
            0 => Some(Self::Link),
            1 => Some(Self::Signals),
            2 => Some(Self::Listener),
            3 => Some(Self::Client(ClientKey(id))),
            4 => Some(Self::Policy(id)),
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
        let last = u64::MAX >> KIND_BITS;
        for token in [
            Token::Link,
            Token::Signals,
            Token::Listener,
            Token::Client(ClientKey(last)),
            Token::Policy(last),
        ] {
            assert_eq!(Token::from_number(token.number()), Some(token));
        }
        assert_eq!(Token::from_number(7), None);
    }
}
