//! Calls that wait for a user's graphical session.

use std::collections::BTreeMap;
use std::time::Instant;

/// Calls that may wait at once, for all users: what the field's agent has places for. A session that never comes must
/// not gather them for ever.
pub(crate) const MOST: usize = 256;

/// Who waits for whose session, and until when: a caller in a VM gives up at some time.
#[derive(Debug)]
pub(crate) struct Sessions<T> {
    waiting: BTreeMap<String, Vec<(Option<Instant>, T)>>,
}

impl<T> Default for Sessions<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new() }
    }
}

impl<T> Sessions<T> {
    /// Lets `item` wait for the session of `user`. `true`: nobody did, so the waiting itself has to be started.
    ///
    /// # Errors
    /// The item, if [`MOST`] wait already.
    pub(crate) fn wait(&mut self, user: &str, until: Option<Instant>, item: T) -> Result<bool, T> {
        if self.waiting.values().map(Vec::len).sum::<usize>() >= MOST {
            return Err(item);
        }
        let first = !self.waiting.contains_key(user);
        self.waiting.entry(user.to_owned()).or_default().push((until, item));
        Ok(first)
    }

    /// The waiting is over, well or badly: gives all that waited, in their order.
    pub(crate) fn ended(&mut self, user: &str) -> Vec<T> {
        let items = self.waiting.remove(user).unwrap_or_default();
        items.into_iter().map(|(_, item)| item).collect()
    }

    /// When somebody has waited for too long next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.waiting.values().flatten().filter_map(|(until, _)| *until).min()
    }

    /// Gives those who have waited for too long. Whether the session is there is looked at further on.
    pub(crate) fn late(&mut self, now: Instant) -> Vec<T> {
        let is_late = |(until, _): &mut (Option<Instant>, T)| until.is_some_and(|until| until <= now);
        let late = self.waiting.values_mut().flat_map(|items| items.extract_if(.., is_late));
        late.map(|(_, item)| item).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_waiting_is_started_once_for_each_user() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.wait("joan", None, 1), Ok(true));
        assert_eq!(sessions.wait("joan", None, 2), Ok(false));
        assert_eq!(sessions.wait("john", None, 3), Ok(true));
        assert_eq!(sessions.ended("joan"), [1, 2]);
        assert_eq!(sessions.ended("joan"), []);
        assert_eq!(sessions.wait("joan", None, 4), Ok(true));
    }

    #[test]
    fn a_caller_that_has_given_up_is_given_up() {
        let now = Instant::now();
        let later = |seconds| Some(now + Duration::from_secs(seconds));
        let mut sessions = Sessions::default();
        assert_eq!(sessions.wait("joan", later(2), 2), Ok(true));
        assert_eq!(sessions.wait("joan", None, 0), Ok(false));
        assert_eq!(sessions.wait("john", later(1), 1), Ok(true));
        assert_eq!(sessions.deadline(), later(1));
        assert_eq!(sessions.late(now), []);
        assert_eq!(sessions.late(now + Duration::from_secs(1)), [1]);
        assert_eq!(sessions.late(now + Duration::from_secs(3)), [2]);
        assert_eq!(sessions.deadline(), None);
        // The waiting for john's session goes on.
        assert_eq!(sessions.wait("john", None, 3), Ok(false));
        assert_eq!(sessions.ended("joan"), [0]);
    }

    #[test]
    fn a_session_that_never_comes_gathers_no_calls_without_end() {
        let mut sessions = Sessions::default();
        for n in 0..MOST {
            assert!(sessions.wait(["joan", "john"][n % 2], None, n).is_ok());
        }
        assert_eq!(sessions.wait("jane", None, MOST), Err(MOST));
        assert_eq!(sessions.ended("joan").len(), MOST / 2);
        assert_eq!(sessions.wait("jane", None, 0), Ok(true));
    }
}
