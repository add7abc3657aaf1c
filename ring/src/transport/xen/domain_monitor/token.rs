#![forbid(unsafe_code)]
//! The tokens of the domain monitor's reactor.

use sys::reactor;

/// Which descriptor is ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Token {
    Listener,
    Timer,
    Store,
    Clock,
    Member(MemberId),
}

/// A member's number, which is never used again: an event that is still queued for one that has gone finds nobody.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct MemberId(u64);

impl MemberId {
    /// Smaller numbers are the other tokens'.
    pub(super) const FIRST: MemberId = MemberId(4);

    pub(super) fn following(self) -> MemberId {
        MemberId(self.0 + 1)
    }
}

impl reactor::Token for Token {
    fn number(self) -> u64 {
        match self {
            Token::Listener => 0,
            Token::Timer => 1,
            Token::Store => 2,
            Token::Clock => 3,
            Token::Member(MemberId(number)) => number,
        }
    }

    fn from_number(number: u64) -> Option<Token> {
        Some(match number {
            0 => Token::Listener,
            1 => Token::Timer,
            2 => Token::Store,
            3 => Token::Clock,
            _ => Token::Member(MemberId(number)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reactor::Token as _;

    #[test]
    fn each_token_has_a_number_of_its_own() {
        let first = Token::Member(MemberId::FIRST);
        let tokens = [Token::Listener, Token::Timer, Token::Store, Token::Clock, first];
        let numbers = tokens.map(Token::number);
        assert_eq!(numbers, [0, 1, 2, 3, 4]);
        assert_eq!(numbers.map(Token::from_number), tokens.map(Some));
        assert_eq!(Token::Member(MemberId::FIRST.following()).number(), 5);
    }
}
