//! Calls that wait for a user's graphical session.

use std::collections::BTreeMap;

/// Who waits for whose session.
#[derive(Debug)]
pub(crate) struct Sessions<T> {
    waiting: BTreeMap<String, Vec<T>>,
}

impl<T> Default for Sessions<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new() }
    }
}

impl<T> Sessions<T> {
    /// Lets `item` wait for the session of `user`. `true`: it is the first, so the waiting itself has
    /// to be started.
    pub(crate) fn wait(&mut self, user: &str, item: T) -> bool {
        let items = self.waiting.entry(user.to_owned()).or_default();
        items.push(item);
        items.len() == 1
    }

    /// The waiting is over, well or badly: gives all that waited, in their order.
    pub(crate) fn ended(&mut self, user: &str) -> Vec<T> {
        self.waiting.remove(user).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_waiting_is_started_once_for_each_user() {
        let mut sessions = Sessions::default();
        assert!(sessions.wait("joan", 1));
        assert!(!sessions.wait("joan", 2));
        assert!(sessions.wait("john", 3));
        assert_eq!(sessions.ended("joan"), [1, 2]);
        assert_eq!(sessions.ended("joan"), []);
        assert!(sessions.wait("joan", 4));
    }
}
