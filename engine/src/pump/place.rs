#![forbid(unsafe_code)]
//! When a pump looks for its neighbour: by what it has moved, and how fast.

use std::time::{Duration, Instant};

/// A call that has moved this much is worth looking for who is at its local end.
const FIRST: u64 = 4 << 20;
/// After each of these it looks where that process is now: 5 ms at 3 GiB/s, for some microseconds of looking.
const EVERY: u64 = 16 << 20;
/// A call slower than [`EVERY`] in this time has nothing to gain by its place.
const SLOW: Duration = Duration::from_millis(100);

/// Counts towards the next look.
#[derive(Debug)]
pub(super) struct Place {
    next: u64,
    since: Instant,
}

impl Place {
    pub(super) fn new(now: Instant) -> Place {
        Place { next: FIRST, since: now }
    }

    /// Whether `moved` bytes are enough to ask [`Place::is_due`], which needs to know the time.
    pub(super) fn may_be_due(&self, moved: u64) -> bool {
        moved >= self.next
    }

    /// Whether to look now, after `moved` bytes. Asked when [`Place::may_be_due`].
    pub(super) fn is_due(&mut self, moved: u64, now: Instant) -> bool {
        let fast = now.saturating_duration_since(self.since) < SLOW;
        self.next = moved.saturating_add(EVERY);
        self.since = now;
        fast
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_moves_much_and_fast_looks() {
        let start = Instant::now();
        let mut place = Place::new(start);
        assert!(!place.may_be_due(FIRST - 1));
        assert!(place.may_be_due(FIRST));
        assert!(place.is_due(FIRST, start + Duration::from_millis(2)));
        assert!(!place.may_be_due(FIRST + EVERY - 1));
        assert!(place.may_be_due(FIRST + EVERY));
        assert!(!place.is_due(FIRST + EVERY, start + Duration::from_secs(1)), "slow");
        assert!(place.is_due(FIRST + 2 * EVERY, start + Duration::from_millis(1010)), "fast again");
    }
}
