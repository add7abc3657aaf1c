#![forbid(unsafe_code)]
//! Whether looking before a sleep pays, found out by doing both in turn.
//!
//! Where a processor is idle, looks make each turn of a conversation three times as fast, since nobody has to be woken
//! on another processor. Where all are busy, whoever lets others run may get the processor back only a time slice
//! later, and sleeping is better: whoever is woken goes first. No counter tells which of the two it is, so it is
//! measured: the waits of one window with looks, those of the next without, and then the better way for a while, until
//! the other is tried again. A trial ends as soon as it has lost.

use std::time::Duration;

/// Waits of one window.
const WINDOW: u32 = 32;

/// Windows between two trials: doubled each time the result is the same.
const PAUSE: u32 = 16;
const LONGEST_PAUSE: u32 = 512;

/// A wait that lasts longer is no turn of a conversation; the time that looks took counts in full up to this.
const LONGEST: Duration = Duration::from_millis(4);

/// The other way has to be this much better: 9 parts of 10.
const BETTER: (u32, u32) = (9, 10);

/// A way that takes this many times as long as when it won is tried against the other at once.
const WORSE: u32 = 2;

/// Which of two ways is taken.
#[derive(Debug)]
pub(super) struct Contest {
    looks: bool,
    /// The other way is being tried, against this sum of a window.
    against: Option<Duration>,
    waits: u32,
    sum: Duration,
    /// The sum of this way's window when it won, once it has.
    won_with: Option<Duration>,
    /// Windows until the next trial.
    pause: u32,
    next_pause: u32,
}

impl Contest {
    pub(super) fn new() -> Contest {
        let (waits, sum) = (0, Duration::ZERO);
        Contest { looks: true, against: None, waits, sum, won_with: None, pause: 0, next_pause: PAUSE }
    }

    /// Whether to look before the sleep that comes now.
    pub(super) fn looks(&self) -> bool {
        self.looks
    }

    /// Counts one wait: looks took `looked`, and a sleep `slept`.
    pub(super) fn waited(&mut self, looked: Duration, slept: Duration) {
        let is_turn = slept <= LONGEST;
        if !is_turn && looked <= LONGEST {
            return;
        }
        self.sum += looked.min(LONGEST) + if is_turn { slept } else { Duration::ZERO };
        self.waits += 1;
        let has_lost = self.against.is_some_and(|against| self.sum > against);
        if self.waits < WINDOW && !has_lost {
            return;
        }
        let sum = std::mem::take(&mut self.sum);
        self.waits = 0;
        match self.against.take() {
            Some(against) => self.judge(sum, against, has_lost),
            None => self.go_on(sum),
        }
    }

    /// A window of the current way is over.
    fn go_on(&mut self, sum: Duration) {
        let is_worse = self.won_with.is_some_and(|won| sum > won * WORSE);
        if is_worse {
            // Once for each time that it gets worse.
            self.won_with = Some(sum);
        }
        if self.pause == 0 || is_worse {
            self.against = Some(sum);
            self.looks = !self.looks;
        } else {
            self.pause -= 1;
        }
    }

    /// The trial of the other way is over.
    fn judge(&mut self, sum: Duration, against: Duration, has_lost: bool) {
        let (parts, of) = BETTER;
        let has_won = !has_lost && sum * of < against * parts;
        self.next_pause = if has_won { PAUSE } else { (self.next_pause * 2).min(LONGEST_PAUSE) };
        self.pause = self.next_pause;
        self.won_with = Some(if has_won { sum } else { against });
        self.looks ^= !has_won;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    /// Makes so many waits: a turn takes `with` with looks, and `without` without. Returns how many had looks.
    fn wait(contest: &mut Contest, waits: u32, with: Duration, without: Duration) -> u32 {
        (0..waits)
            .map(|_| {
                let looks = contest.looks();
                if looks {
                    contest.waited(with, Duration::ZERO)
                } else {
                    contest.waited(Duration::ZERO, without)
                }
                u32::from(looks)
            })
            .sum()
    }

    #[test]
    fn looks_win_where_a_processor_is_idle_and_lose_where_none_is() {
        let mut idle = Contest::new();
        let looked = wait(&mut idle, 10_000, micros(17), micros(54));
        assert!(looked > 9_700, "{looked}");
        let mut busy = Contest::new();
        let looked = wait(&mut busy, 10_000, micros(80), micros(22));
        assert!(looked < 150, "{looked}");
    }

    #[test]
    fn what_changes_is_noticed() {
        let mut contest = Contest::new();
        wait(&mut contest, 20_000, micros(17), micros(54));
        assert!(contest.looks());
        // Now all processors become busy.
        let looked = wait(&mut contest, 1000, micros(200), micros(54));
        assert!(looked < 120, "{looked}");
        // And they become idle: the next trial finds out, however long the last ones found nothing new.
        let until = WINDOW * (LONGEST_PAUSE + 2);
        wait(&mut contest, until, micros(17), micros(54));
        assert!(wait(&mut contest, 1000, micros(17), micros(54)) > 900);
    }

    #[test]
    fn a_trial_that_has_lost_is_over() {
        let mut contest = Contest::new();
        wait(&mut contest, 2 * WINDOW, micros(80), micros(22));
        assert!(!contest.looks());
        wait(&mut contest, WINDOW * PAUSE + WINDOW, micros(80), micros(22));
        assert!(contest.looks(), "a trial");
        // One look during which another program had a time slice.
        contest.waited(LONGEST, Duration::ZERO);
        assert!(!contest.looks());
    }

    #[test]
    fn rest_is_no_turn() {
        let mut contest = Contest::new();
        for _ in 0..1000 {
            contest.waited(micros(10), Duration::from_secs(1));
        }
        assert_eq!((contest.waits, contest.sum), (0, Duration::ZERO));
    }
}
