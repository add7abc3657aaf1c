//! A bound on what a program that runs for months writes to its log, whatever others make it say.
//!
//! One agent and one daemon serve one VM, so the bound is one for each VM: a flood of calls costs a short burst of
//! lines, then a trickle that says how many are missing. Lines for those who search (`debug` and below) are not
//! counted: somebody asked for them.

use std::io::{self, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use engine::process::{be_the_program, is_the_program};
use tracing::Level;

/// Lines that may come at once: hundreds of calls, each with its lines.
const BURST: u32 = 1000;
/// Lines that may come in each second after that.
const PER_SECOND: u32 = 100;
/// Once lines were dropped, the next comes when this many may: a flood makes a paragraph a second, not every
/// tenth line.
const RESUME: u32 = PER_SECOND;

/// What becomes of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// It is written.
    Write,
    /// It is written, after word of so many that were not.
    WriteAfter(u64),
    /// It is not written.
    Drop,
}

/// A token bucket. Time is what its caller says.
#[derive(Debug)]
struct Bucket {
    tokens: u32,
    /// Up to when tokens were handed out.
    filled: Duration,
    dropped: u64,
}

impl Bucket {
    const fn new() -> Self {
        Self { tokens: BURST, filled: Duration::ZERO, dropped: 0 }
    }

    /// Somebody wants to write a line at `now`, a time since the beginning.
    fn line(&mut self, now: Duration) -> Verdict {
        self.fill(now);
        if self.tokens < if self.dropped > 0 { RESUME } else { 1 } {
            self.dropped = self.dropped.saturating_add(1);
            return Verdict::Drop;
        }
        self.tokens = self.tokens.saturating_sub(1);
        match std::mem::take(&mut self.dropped) {
            0 => Verdict::Write,
            dropped => Verdict::WriteAfter(dropped),
        }
    }

    fn fill(&mut self, now: Duration) {
        const INTERVAL: Duration = Duration::from_nanos(1_000_000_000 / PER_SECOND as u64);
        let earned = now.saturating_sub(self.filled).as_nanos() / INTERVAL.as_nanos();
        match u32::try_from(earned) {
            Ok(earned) if earned < BURST => {
                self.tokens = self.tokens.saturating_add(earned).min(BURST);
                self.filled = self.filled.saturating_add(INTERVAL.saturating_mul(earned));
            }
            _ => (self.tokens, self.filled) = (BURST, now),
        }
    }
}

/// Writes lines to stderr, no more than the bucket allows.
#[derive(Debug)]
pub(super) struct Limited {
    start: Instant,
    bucket: Mutex<Bucket>,
    /// Whether lines begin with the journal's priority.
    journal: bool,
}

impl Limited {
    pub(super) fn new(journal: bool) -> Self {
        be_the_program();
        Self { start: Instant::now(), bucket: Mutex::new(Bucket::new()), journal }
    }

    /// Writes a line of this level in one piece, unless there were too many.
    pub(super) fn write(&self, level: Level, line: &str) -> io::Result<()> {
        let verdict = if level > Level::INFO { Verdict::Write } else { self.verdict() };
        let before = match verdict {
            Verdict::Write => String::new(),
            Verdict::WriteAfter(dropped) => self.notice(dropped),
            Verdict::Drop => return Ok(()),
        };
        io::stderr().write_all(format!("{before}{line}").as_bytes())
    }

    fn verdict(&self) -> Verdict {
        // The process of a call has a copy of the bucket, which is not filled any more: what the flood left of it
        // at the call's start is all that it has.
        let now = if is_the_program() { self.start.elapsed() } else { Duration::ZERO };
        self.bucket.lock().map_or(Verdict::Write, |mut bucket| bucket.line(now))
    }

    fn notice(&self, dropped: u64) -> String {
        let beginning = super::beginning(&Level::WARN, self.journal, true);
        format!("{beginning}{dropped} log lines were suppressed: there were too many\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// What becomes of so many lines that come at once.
    fn written(bucket: &mut Bucket, lines: u32, now: Duration) -> u32 {
        (0..lines).map(|_| u32::from(bucket.line(now) != Verdict::Drop)).sum()
    }

    #[test]
    fn a_flood_is_a_burst_and_then_a_trickle_that_counts() {
        let mut bucket = Bucket::new();
        assert_eq!(written(&mut bucket, 5000, SECOND), BURST);
        // Half a second is not enough to begin again, a whole one is.
        assert_eq!(written(&mut bucket, 10, SECOND + SECOND / 2), 0);
        assert_eq!(bucket.line(2 * SECOND), Verdict::WriteAfter(4010));
        assert_eq!(bucket.line(2 * SECOND), Verdict::Write);
        assert_eq!(written(&mut bucket, 5000, 2 * SECOND), PER_SECOND - 2);
        let minute: u32 = (3..63).map(|second| written(&mut bucket, 700, second * SECOND)).sum();
        assert_eq!(minute, 60 * PER_SECOND);
    }

    #[test]
    fn a_steady_stream_within_the_bound_loses_nothing() {
        let mut bucket = Bucket::new();
        for tick in 0..100_000 {
            assert_eq!(bucket.line(tick * SECOND / PER_SECOND), Verdict::Write);
        }
        // And the longest silence earns one burst.
        assert_eq!(written(&mut bucket, 5000, Duration::MAX), BURST);
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_earns_nothing() {
        let mut bucket = Bucket::new();
        assert_eq!(written(&mut bucket, BURST, 9 * SECOND), BURST);
        assert_eq!(written(&mut bucket, 10, 9 * SECOND), 0);
        assert_eq!(written(&mut bucket, 10, Duration::ZERO), 0);
        assert_eq!(bucket.line(10 * SECOND), Verdict::WriteAfter(20));
    }
}
