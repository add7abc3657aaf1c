//! What the reactor's tokens mean.

use crate::policy_source::Readiness;
use daemon_core::{CallId, ClientId};

/// Whose descriptor is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    /// The control link, or the search for it.
    Agent,
    /// SIGTERM or SIGINT.
    Signals,
    /// The reactor of the local socket and its clients.
    LocalClients,
    /// The local socket.
    Listener,
    /// A program on the local socket.
    Client(ClientId),
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
    /// Somebody wants to know what goes on.
    Top,
}

/// The low bits say what, the others which one.
const KIND_BITS: u32 = 4;

impl Token {
    pub(super) fn encode(self) -> u64 {
        let (kind, id) = match self {
            Self::Agent => (0, 0),
            Self::Signals => (1, 0),
            Self::LocalClients => (2, 0),
            Self::Listener => (3, 0),
            Self::Client(ClientId(id)) => (4, id),
            Self::Target(CallId(id)) => (5, id),
            Self::Program(CallId(id), Readiness::Output) => (6, id),
            Self::Program(CallId(id), Readiness::End) => (7, id),
            Self::Service(CallId(id)) => (8, id),
            Self::HelperOutput(CallId(id)) => (9, id),
            Self::HelperEnd(CallId(id)) => (10, id),
            Self::Top => (11, 0),
        };
        // The ids count events of one process: 2^60 of them do not happen.
        (id << KIND_BITS) | kind
    }

    pub(super) fn decode(token: u64) -> Option<Self> {
        let id = token >> KIND_BITS;
        Some(match token & ((1 << KIND_BITS) - 1) {
            0 => Self::Agent,
            1 => Self::Signals,
            2 => Self::LocalClients,
            3 => Self::Listener,
            4 => Self::Client(ClientId(id)),
            5 => Self::Target(CallId(id)),
            6 => Self::Program(CallId(id), Readiness::Output),
            7 => Self::Program(CallId(id), Readiness::End),
            8 => Self::Service(CallId(id)),
            9 => Self::HelperOutput(CallId(id)),
            10 => Self::HelperEnd(CallId(id)),
            11 => Self::Top,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_they_were() {
        let call = CallId(77);
        for token in [
            Token::Agent,
            Token::Signals,
            Token::LocalClients,
            Token::Listener,
            Token::Client(ClientId(u64::MAX >> KIND_BITS)),
            Token::Target(call),
            Token::Program(call, Readiness::Output),
            Token::Program(call, Readiness::End),
            Token::Service(call),
            Token::HelperOutput(call),
            Token::HelperEnd(call),
            Token::Top,
        ] {
            assert_eq!(Token::decode(token.encode()), Some(token));
        }
        assert_eq!(Token::decode(15), None);
    }
}
