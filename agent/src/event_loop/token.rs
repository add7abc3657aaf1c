//! The tokens of the agent's reactor.

use engine::reactor;

/// Which descriptor is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    /// The link to the daemon, or the listener for it.
    Control,
    /// The socket on which programs ask.
    Listener,
    /// The signals that end the agent.
    Signals,
    /// The domain monitor.
    DomainMonitor,
    /// The pipe in which processes of calls write to the agent.
    Callers,
    /// The wait for callers of calls that have no process.
    WaitingCalls,
    /// Requests of programs of R1 and R2.
    Fifo,
    /// The socket by which these pass their descriptors.
    PassedDescriptors,
    /// The socket for `qrexec-top`.
    Top,
    /// Everything that was watched later, by its key.
    Watched(u64),
}

/// The first key; smaller numbers are the other tokens'.
pub(super) const FIRST_KEY: u64 = 16;

impl reactor::Token for Token {
    fn number(self) -> u64 {
        match self {
            Self::Control => 0,
            Self::Listener => 1,
            Self::Signals => 2,
            Self::DomainMonitor => 3,
            Self::Callers => 4,
            Self::WaitingCalls => 5,
            Self::Fifo => 6,
            Self::PassedDescriptors => 7,
            Self::Top => 8,
            Self::Watched(key) => key,
        }
    }

    fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Control,
            1 => Self::Listener,
            2 => Self::Signals,
            3 => Self::DomainMonitor,
            4 => Self::Callers,
            5 => Self::WaitingCalls,
            6 => Self::Fifo,
            7 => Self::PassedDescriptors,
            8 => Self::Top,
            key if key >= FIRST_KEY => Self::Watched(key),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reactor::Token as _;

    #[test]
    fn tokens_come_back_as_they_were() {
        for number in (0..9).chain([FIRST_KEY, u64::MAX]) {
            assert_eq!(Token::from_number(number).map(Token::number), Some(number));
        }
        assert_eq!(Token::from_number(FIRST_KEY - 1), None);
    }
}
