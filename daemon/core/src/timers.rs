//! Deadlines by owner: one each, the next one found without looking at all of them.

use std::collections::{BTreeMap, BTreeSet};

use super::Now;

/// A set of deadlines, at most one for each `K`.
#[derive(Debug)]
pub(super) struct Timers<K> {
    by_owner: BTreeMap<K, Now>,
    by_time: BTreeSet<(Now, K)>,
}

impl<K: Copy + Ord> Timers<K> {
    pub(super) fn new() -> Self {
        Self { by_owner: BTreeMap::new(), by_time: BTreeSet::new() }
    }

    /// Gives `owner` a deadline in place of the one it may have.
    pub(super) fn set(&mut self, owner: K, at: Now) {
        self.clear(owner);
        self.by_owner.insert(owner, at);
        self.by_time.insert((at, owner));
    }

    /// Gives `owner` a deadline unless it has one: the first cause counts, not the latest.
    pub(super) fn set_once(&mut self, owner: K, at: Now) {
        if !self.by_owner.contains_key(&owner) {
            self.set(owner, at);
        }
    }

    pub(super) fn clear(&mut self, owner: K) {
        if let Some(at) = self.by_owner.remove(&owner) {
            self.by_time.remove(&(at, owner));
        }
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<Now> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes out an owner whose deadline is over at `now`.
    pub(super) fn expired(&mut self, now: Now) -> Option<K> {
        let (at, owner) = *self.by_time.first()?;
        if at > now {
            return None;
        }
        self.clear(owner);
        Some(owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    const fn at(seconds: u64) -> Now {
        Duration::from_secs(seconds)
    }

    #[test]
    fn deadlines_expire_in_order_and_once() {
        let mut timers = Timers::new();
        timers.set('b', at(2));
        timers.set('a', at(9));
        timers.set('a', at(1));
        timers.set_once('b', at(1));
        timers.set('c', at(3));
        timers.clear('c');
        assert_eq!(timers.next(), Some(at(1)));
        assert_eq!(timers.expired(at(0)), None);
        assert_eq!(timers.expired(at(2)), Some('a'));
        assert_eq!(timers.expired(at(2)), Some('b'));
        assert_eq!((timers.expired(at(100)), timers.next()), (None, None));
    }
}
