//! Calls that wait for a user's graphical session.

use std::time::Instant;

use wire::names::DomainId;
use wire::small_map::SmallMap;

/// Most calls that may wait at once, for all users: as many as upstream's agent has places for. If a session never
/// comes, no more may accumulate.
const MOST: usize = 256;

/// Most calls of one caller, so that none has all places.
const MOST_OF_ONE: usize = MOST / 2;

/// Which calls wait for whose session.
#[derive(Debug)]
pub(crate) struct Sessions<T> {
    waiting: SmallMap<String, Vec<Waiting<T>>>,
}

/// One call that waits.
#[derive(Debug)]
struct Waiting<T> {
    /// The domain of its caller.
    source: DomainId,
    /// When it is given up.
    until: Instant,
    item: T,
}

impl<T> Default for Sessions<T> {
    fn default() -> Self {
        Self { waiting: SmallMap::new() }
    }
}

impl<T> Sessions<T> {
    /// Adds `item` to those that wait for the session of `user`. `true`: it is the first one, so the wait itself has
    /// to be started.
    ///
    /// # Errors
    /// The item, if there is no room for it.
    pub(crate) fn wait(&mut self, user: &str, source: DomainId, until: Instant, item: T) -> Result<bool, T> {
        let waiting = || self.waiting.values().flatten();
        if waiting().count() >= MOST || waiting().filter(|one| one.source == source).count() >= MOST_OF_ONE {
            return Err(item);
        }
        let first = !self.waiting.contains_key(user);
        self.waiting.change(user.to_owned(), |all| all.push(Waiting { source, until, item }));
        Ok(first)
    }

    /// The wait has ended, with or without a session. Returns everything that waited, in order.
    pub(crate) fn ended(&mut self, user: &str) -> Vec<T> {
        let waiting = self.waiting.remove(user).unwrap_or_default();
        waiting.into_iter().map(|one| one.item).collect()
    }

    /// When the next call will have waited for too long.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.waiting.values().flatten().map(|one| one.until).min()
    }

    /// Removes and returns those that have waited for too long. The wait for the session continues.
    pub(crate) fn late(&mut self, now: Instant) -> Vec<T> {
        let late = self.waiting.values_mut().flat_map(|all| all.extract_if(.., |one| one.until <= now));
        late.map(|one| one.item).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const ONE: DomainId = DomainId(7);

    #[test]
    fn the_waiting_is_started_once_for_each_user() {
        let (mut sessions, until) = (Sessions::default(), Instant::now());
        let mut wait = |user, n| sessions.wait(user, ONE, until, n);
        assert_eq!((wait("joan", 1), wait("joan", 2), wait("john", 3)), (Ok(true), Ok(false), Ok(true)));
        assert_eq!(sessions.ended("joan"), [1, 2]);
        assert_eq!(sessions.ended("joan"), []);
        assert_eq!(sessions.wait("joan", ONE, until, 4), Ok(true));
    }

    #[test]
    fn a_caller_that_has_given_up_is_given_up() {
        let now = Instant::now();
        let later = |seconds| now + Duration::from_secs(seconds);
        let mut sessions = Sessions::default();
        assert_eq!(sessions.wait("joan", ONE, later(2), 2), Ok(true));
        assert_eq!(sessions.wait("joan", ONE, later(9), 9), Ok(false));
        assert_eq!(sessions.wait("john", ONE, later(1), 1), Ok(true));
        assert_eq!(sessions.deadline(), Some(later(1)));
        assert_eq!(sessions.late(now), []);
        assert_eq!(sessions.late(later(1)), [1]);
        assert_eq!(sessions.late(later(3)), [2]);
        assert_eq!(sessions.deadline(), Some(later(9)));
        // The wait for john's session continues.
        assert_eq!(sessions.wait("john", ONE, later(9), 3), Ok(false));
        assert_eq!(sessions.ended("joan"), [9]);
    }

    #[test]
    fn a_session_that_never_comes_gathers_no_calls_without_end() {
        let (mut sessions, until) = (Sessions::default(), Instant::now());
        for n in 0..MOST {
            let (user, source) = [("joan", ONE), ("john", DomainId::DOM0)][n % 2];
            assert!(sessions.wait(user, source, until, n).is_ok());
        }
        assert_eq!(sessions.wait("jane", DomainId(8), until, MOST), Err(MOST));
        assert_eq!(sessions.ended("joan").len(), MOST / 2);
        // One caller has no more than half of the places.
        assert_eq!(sessions.wait("jane", DomainId::DOM0, until, 0), Err(0));
        assert_eq!(sessions.wait("jane", ONE, until, 0), Ok(true));
    }
}
