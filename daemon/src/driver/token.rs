//! What the daemon's two reactors know their descriptors by.

use daemon_core::{CallId, ClientId};
use engine::reactor;

use crate::policy_source::Readiness;

/// Whose descriptor is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    /// The control link, or the search for it.
    Agent,
    /// SIGTERM or SIGINT.
    Signals,
    /// The reactor of the local socket and its clients.
    LocalClients,
    /// The daemon of a call's target.
    Target(CallId),
    /// A policy program's output or its end.
    Program(CallId, Readiness),
    /// The process of a service in dom0.
    Service(CallId),
    /// What the program that starts a target says.
    HelperOutput(CallId),
    /// The end of that program.
    HelperEnd(CallId),
}

/// The same in the reactor of [`super::local_clients`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LocalToken {
    /// The local socket.
    Listener,
    /// A program on the local socket.
    Client(ClientId),
}

/// The low bits say what, the others which one.
const KIND_BITS: u32 = 4;

/// The ids count events of one process: 2^60 of them do not happen.
const fn number(kind: u64, id: u64) -> u64 {
    (id << KIND_BITS) | kind
}

const fn kind_and_id(number: u64) -> (u64, u64) {
    (number & ((1 << KIND_BITS) - 1), number >> KIND_BITS)
}

impl reactor::Token for Token {
    fn number(self) -> u64 {
        match self {
            Self::Agent => number(0, 0),
            Self::Signals => number(1, 0),
            Self::LocalClients => number(2, 0),
            Self::Target(CallId(id)) => number(3, id),
            Self::Program(CallId(id), Readiness::Output) => number(4, id),
            Self::Program(CallId(id), Readiness::End) => number(5, id),
            Self::Service(CallId(id)) => number(6, id),
            Self::HelperOutput(CallId(id)) => number(7, id),
            Self::HelperEnd(CallId(id)) => number(8, id),
        }
    }

    fn from_number(number: u64) -> Option<Self> {
        let (kind, id) = kind_and_id(number);
        Some(match kind {
            0 => Self::Agent,
            1 => Self::Signals,
            2 => Self::LocalClients,
            3 => Self::Target(CallId(id)),
            4 => Self::Program(CallId(id), Readiness::Output),
            5 => Self::Program(CallId(id), Readiness::End),
            6 => Self::Service(CallId(id)),
            7 => Self::HelperOutput(CallId(id)),
            8 => Self::HelperEnd(CallId(id)),
            _ => return None,
        })
    }
}

impl reactor::Token for LocalToken {
    fn number(self) -> u64 {
        match self {
            Self::Listener => number(0, 0),
            Self::Client(ClientId(id)) => number(1, id),
        }
    }

    fn from_number(number: u64) -> Option<Self> {
        match kind_and_id(number) {
            (0, _) => Some(Self::Listener),
            (1, id) => Some(Self::Client(ClientId(id))),
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
        let call = CallId(u64::MAX >> KIND_BITS);
        for token in [
            Token::Agent,
            Token::Signals,
            Token::LocalClients,
            Token::Target(call),
            Token::Program(call, Readiness::Output),
            Token::Program(call, Readiness::End),
            Token::Service(call),
            Token::HelperOutput(call),
            Token::HelperEnd(call),
        ] {
            assert_eq!(Token::from_number(token.number()), Some(token));
        }
        for token in [LocalToken::Listener, LocalToken::Client(ClientId(u64::MAX >> KIND_BITS))] {
            assert_eq!(LocalToken::from_number(token.number()), Some(token));
        }
        assert_eq!((Token::from_number(15), LocalToken::from_number(2)), (None, None));
    }
}
