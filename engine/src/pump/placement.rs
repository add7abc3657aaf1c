#![forbid(unsafe_code)]
//! When a pump looks where its neighbour runs: depends on how much it has moved, how often it was woken, and how fast.

use std::time::{Duration, Instant};

/// A call that has moved this much looks who is at its local end.
const FIRST: u64 = 4 << 20;
/// After each of these it looks where that process runs now: every 5 ms at 3 GiB/s, which takes some microseconds.
const EVERY: u64 = 16 << 20;
/// A conversation of small messages consists of wake-ups; after so many sleeps it looks too.
const SLEEPS: u64 = 128;
/// If a call takes longer than this for [`EVERY`] or [`SLEEPS`], its place does not matter.
const SLOW: Duration = Duration::from_millis(100);

/// An environment variable: `off` leaves every process where the scheduler puts it, for comparisons.
const VARIABLE: &str = "QREXEC_PLACEMENT";

/// Whether pumps move to the processors of their neighbours.
pub(super) fn is_wanted() -> bool {
    std::env::var_os(VARIABLE).is_none_or(|value| value != "off")
}

/// Counts until the next look.
#[derive(Debug)]
pub(super) struct Place {
    next_moved: u64,
    next_sleeps: u64,
    since: Instant,
}

impl Place {
    pub(super) fn new(now: Instant) -> Place {
        Place { next_moved: FIRST, next_sleeps: SLEEPS, since: now }
    }

    /// Whether `moved` bytes or `sleeps` are enough to call [`Place::is_due`], which needs the time.
    pub(super) fn may_be_due(&self, moved: u64, sleeps: u64) -> bool {
        moved >= self.next_moved || sleeps >= self.next_sleeps
    }

    /// Whether to look now, after `moved` bytes and `sleeps`. To be called only if [`Place::may_be_due`].
    pub(super) fn is_due(&mut self, moved: u64, sleeps: u64, now: Instant) -> bool {
        let fast = now.saturating_duration_since(self.since) < SLOW;
        self.next_moved = moved.saturating_add(EVERY);
        self.next_sleeps = sleeps.saturating_add(SLEEPS);
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
        assert!(!place.may_be_due(FIRST - 1, 0));
        assert!(place.may_be_due(FIRST, 0));
        assert!(place.is_due(FIRST, 0, start + Duration::from_millis(2)));
        assert!(!place.may_be_due(FIRST + EVERY - 1, 0));
        assert!(place.may_be_due(FIRST + EVERY, 0));
        assert!(!place.is_due(FIRST + EVERY, 0, start + Duration::from_secs(1)), "slow");
        assert!(place.is_due(FIRST + 2 * EVERY, 0, start + Duration::from_millis(1010)), "fast again");
    }

    #[test]
    fn so_does_a_lively_conversation() {
        let start = Instant::now();
        let mut place = Place::new(start);
        assert!(!place.may_be_due(100, SLEEPS - 1));
        assert!(place.may_be_due(100, SLEEPS));
        assert!(place.is_due(100, SLEEPS, start + Duration::from_millis(12)));
        assert!(!place.may_be_due(200, SLEEPS + 1));
        assert!(!place.is_due(300, 2 * SLEEPS, start + Duration::from_secs(60)), "a person types");
    }
}
