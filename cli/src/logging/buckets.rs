//! One bucket of lines for each source that a program speaks about, in memory that it shares with all of its forks.
//!
//! The processes of calls are forks of the program and write into its log, so they take from its buckets. A bucket is
//! three words without a lock: which source it belongs to, when it will be full again, and how many lines were dropped.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use engine::process::words_for_all_forks;

/// Lines that may come at once: hundreds of calls, each with its lines.
pub(super) const BURST: u64 = 1000;
/// Lines that may come in each second after that.
pub(super) const PER_SECOND: u64 = 100;
/// Once lines were dropped, the next comes when this many may: a flood makes a paragraph a second, not every
/// tenth line.
const RESUME: u64 = PER_SECOND;
/// The time in which a line is earned, in nanoseconds.
const INTERVAL: u64 = 1_000_000_000 / PER_SECOND;

/// Sources at a time. What has been quiet for as long as its bucket takes to fill makes room; further ones share one.
const SOURCES: usize = 256;
/// Words of a bucket.
const WORDS: usize = 3;
/// Words of all of them, and of the one that is left for those who find no other.
const ALL: usize = (SOURCES + 1) * WORDS;

/// What becomes of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It is written.
    Write,
    /// It is written, after word of so many that were not.
    WriteAfter(u64),
    /// It is not written.
    Drop,
}

/// The buckets.
#[derive(Debug)]
pub(super) struct Buckets {
    words: &'static [AtomicU64; ALL],
    /// Nobody outside can choose names that fall together.
    hasher: RandomState,
}

impl Buckets {
    pub(super) fn new() -> Self {
        Self { words: words_for_all_forks(), hasher: RandomState::new() }
    }

    /// Somebody wants to write a line about `source` at `now`, a time since the beginning.
    pub(super) fn line(&self, source: &str, now: Duration) -> Verdict {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        // 0 is nobody's.
        let key = self.hasher.hash_one(source) | 1;
        self.bucket(key, now).map_or(Verdict::Write, |bucket| bucket.line(now))
    }

    /// The bucket of a source: its own, else one that nobody needs now, else the one for all others.
    fn bucket(&self, key: u64, now: u64) -> Option<Bucket<'_>> {
        let all = || self.words.chunks_exact(WORDS).filter_map(Bucket::of);
        let mut own = all().take(SOURCES);
        own.find(|bucket| bucket.key.load(Relaxed) == key)
            .or_else(|| all().take(SOURCES).find(|bucket| bucket.becomes(key, now)))
            .or_else(|| all().nth(SOURCES))
    }
}

/// Nanoseconds after which a source that owes a word, and whose bucket is full, is taken for gone: an hour.
const FORGOTTEN: u64 = 3600 * 1_000_000_000;

/// One of them.
struct Bucket<'a> {
    key: &'a AtomicU64,
    full_at: &'a AtomicU64,
    dropped: &'a AtomicU64,
}

impl<'a> Bucket<'a> {
    fn of(words: &'a [AtomicU64]) -> Option<Self> {
        let [key, full_at, dropped] = words else { return None };
        Some(Self { key, full_at, dropped })
    }

    /// Gives it to another source, if it is full and owes nobody a word: then it is as good as new. A source that has said
    /// nothing for [`FORGOTTEN`] is gone, and with it the word that is owed.
    fn becomes(&self, key: u64, now: u64) -> bool {
        let old = self.key.load(Relaxed);
        let full_at = self.full_at.load(Relaxed);
        let owes = self.dropped.load(Relaxed) > 0;
        let idle = full_at <= now && (!owes || full_at.saturating_add(FORGOTTEN) <= now);
        let taken = (old == 0 || idle) && self.key.compare_exchange(old, key, Relaxed, Relaxed).is_ok();
        if taken {
            self.dropped.store(0, Relaxed);
        }
        taken
    }

    fn line(&self, now: u64) -> Verdict {
        let needed = if self.dropped.load(Relaxed) > 0 { RESUME } else { 1 };
        let taken = self.full_at.fetch_update(Relaxed, Relaxed, |full_at| {
            let used = full_at.saturating_sub(now).div_ceil(INTERVAL);
            (BURST.saturating_sub(used) >= needed).then(|| full_at.max(now).saturating_add(INTERVAL))
        });
        if taken.is_err() {
            self.dropped.fetch_add(1, Relaxed);
            return Verdict::Drop;
        }
        match self.dropped.swap(0, Relaxed) {
            0 => Verdict::Write,
            dropped => Verdict::WriteAfter(dropped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// How many of so many lines that come at once are written.
    fn written(buckets: &Buckets, source: &str, lines: u64, now: Duration) -> u64 {
        (0..lines).map(|_| u64::from(buckets.line(source, now) != Verdict::Drop)).sum()
    }

    #[test]
    fn a_flood_is_a_burst_and_then_a_trickle_that_counts() {
        let buckets = Buckets::new();
        assert_eq!(written(&buckets, "work", 5000, SECOND), BURST);
        // Half a second is not enough to begin again, a whole one is.
        assert_eq!(written(&buckets, "work", 10, SECOND + SECOND / 2), 0);
        assert_eq!(buckets.line("work", 2 * SECOND), Verdict::WriteAfter(4010));
        assert_eq!(buckets.line("work", 2 * SECOND), Verdict::Write);
        assert_eq!(written(&buckets, "work", 5000, 2 * SECOND), PER_SECOND - 2);
        let minute: u64 = (3..63).map(|second| written(&buckets, "work", 700, second * SECOND)).sum();
        assert_eq!(minute, 60 * PER_SECOND);
    }

    #[test]
    fn a_flood_of_one_source_takes_no_line_of_another() {
        let buckets = Buckets::new();
        written(&buckets, "flood", 5000, SECOND);
        for source in ["work", ""] {
            assert_eq!(written(&buckets, source, 31, SECOND), 31, "{source:?}");
        }
        assert_eq!(written(&buckets, "flood", 31, SECOND), 0);
    }

    #[test]
    fn more_sources_than_there_are_buckets_share_one_until_others_are_quiet() {
        let buckets = Buckets::new();
        for n in 0..SOURCES {
            assert_eq!(written(&buckets, &format!("vm{n}"), 2000, SECOND), BURST);
        }
        let late = ["late", "later"].map(|source| written(&buckets, source, 700, SECOND));
        assert_eq!(late, [700, BURST - 700]);
        // A bucket that still owes a word is kept, one that said it and is full again is not.
        assert_eq!(buckets.line("vm0", 20 * SECOND), Verdict::WriteAfter(1000));
        assert_eq!(written(&buckets, "vm0", 1, 30 * SECOND), 1);
        assert_eq!(written(&buckets, "third", 1000, 60 * SECOND), BURST);
        assert_eq!(written(&buckets, "fourth", 2000, 60 * SECOND), BURST);
    }

    #[test]
    fn a_source_that_has_gone_for_good_keeps_no_bucket() {
        let buckets = Buckets::new();
        for n in 0..SOURCES {
            assert_eq!(written(&buckets, &format!("vm{n}"), 2000, SECOND), BURST);
        }
        // Within an hour they may come back, and are owed a word.
        let soon = ["late", "later"].map(|source| written(&buckets, source, BURST, 3000 * SECOND));
        assert_eq!(soon, [BURST, 0]);
        let hours = 3 * 3600 * SECOND;
        for source in ["new", "newer"] {
            assert_eq!(
                buckets.line(source, hours),
                Verdict::Write,
                "what others lost is not told to {source}"
            );
            assert_eq!(written(&buckets, source, BURST, hours), BURST - 1);
        }
    }

    #[test]
    fn a_steady_stream_within_the_bound_loses_nothing() {
        let buckets = Buckets::new();
        for tick in 0..100_000 {
            let now = tick * SECOND / u32::try_from(PER_SECOND).unwrap();
            assert_eq!(buckets.line("work", now), Verdict::Write);
        }
        // And the longest silence earns one burst.
        assert_eq!(written(&buckets, "work", 5000, 1_000_000 * SECOND), BURST);
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_earns_nothing() {
        let buckets = Buckets::new();
        assert_eq!(written(&buckets, "work", BURST, 9 * SECOND), BURST);
        assert_eq!(written(&buckets, "work", 10, 9 * SECOND), 0);
        assert_eq!(written(&buckets, "work", 10, Duration::ZERO), 0);
        assert_eq!(buckets.line("work", 10 * SECOND), Verdict::WriteAfter(20));
    }
}
