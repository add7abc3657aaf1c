#![forbid(unsafe_code)]
//! Looking a few times more before going to sleep.
//!
//! To sleep and be woken on another processor costs tens of microseconds, more than most waits last while a call is
//! busy; the peer has to make a system call for it too. So a pump that has nothing to do lets other programs on its
//! processor run, looks again, and sleeps only after a number of looks. That number is learnt: it becomes the largest
//! after a wait that so many looks would have covered, and is halved after each longer one, so that a quiet call looks
//! once. No looks follow the transfer of a large piece, since sleeps are rare then.
//!
//! Waits are counted in looks and not in microseconds, because what a look costs and what a sleep costs grow together
//! from machine to machine.
//!
//! A peer in another domain runs on processors of its own, and to put a virtual processor to sleep and wake it costs
//! more than to do so with a process. There, this side looks longer (`Channel::is_coming`) and before every sleep.
//!
//! In a call that carries the conversation of two kernels ([`Spin::takes_turns`]) large pieces are answered too, so
//! this side looks after them as well, but only while that is quicker than sleeping: see `contest`.

mod contest;

use std::time::Duration;

use contest::Contest;

/// Looks before a sleep, at most: some 20 µs where a system call takes half a microsecond.
const MOST: u32 = 16;

/// After more bytes than this, sleeps are rare: looks would cost more than they save.
const LITTLE: u64 = 64 << 10;

/// Looks would have been worth their cost if the sleep lasted no longer than this many full numbers of looks.
const REACH: u32 = 3;

/// If looks take this long, another program had the processor meanwhile. To let a program that never rests go first
/// costs more than a sleep, since whoever is woken from a sleep goes first.
const TAKEN: Duration = Duration::from_millis(1);

/// How many sleeps have no looks before them after that; doubled each time, up to [`LONGEST_REST`].
const REST: u32 = 32;
const LONGEST_REST: u32 = 4096;

/// [`MOST`] for a peer in another domain.
const MOST_FAR: u32 = 32;
/// [`TAKEN`] for a peer in another domain: a look there ends with a system call or two, which Xen may take part in.
const TAKEN_FAR: Duration = Duration::from_millis(10);

/// How many looks the next sleep is worth.
#[derive(Debug)]
pub struct Spin {
    far: bool,
    looks: u32,
    /// Bytes that had been moved before the last sleep.
    moved: u64,
    /// The last wait ended in a sleep.
    has_slept: bool,
    /// How many of the next sleeps have no looks before them.
    resting: u32,
    next_rest: u32,
    contest: Option<Contest>,
}

impl Default for Spin {
    fn default() -> Spin {
        Spin::new(false)
    }
}

impl Spin {
    /// `far`: the peer runs on processors of its own.
    pub fn new(far: bool) -> Spin {
        let fresh =
            Spin { far, looks: 0, moved: 0, has_slept: false, resting: 0, next_rest: REST, contest: None };
        Spin { looks: fresh.most(), ..fresh }
    }

    /// To be called if the two sides of the call answer each other piece by piece.
    pub fn takes_turns(&mut self) {
        self.contest.get_or_insert_with(Contest::new);
    }

    /// For a call that begins: its first wait is for a program to start, which no number of looks covers. One is
    /// enough.
    #[must_use]
    pub fn before_a_start(self) -> Spin {
        Spin { looks: if self.far { self.looks } else { 1 }, ..self }
    }

    fn most(&self) -> u32 {
        if self.far { MOST_FAR } else { MOST }
    }

    fn is_taken(&self, looked: Duration) -> bool {
        looked > if self.far { TAKEN_FAR } else { TAKEN }
    }

    /// How many looks to make before the sleep that comes now, `moved` bytes after the call's start.
    pub fn looks(&mut self, moved: u64) -> u32 {
        let since = moved - std::mem::replace(&mut self.moved, moved);
        if self.contest.as_ref().map_or(since > LITTLE && !self.far, |contest| !contest.looks()) {
            return 0;
        }
        // Woken although nothing was moved: a peer that only rings must not make this side spend processor time.
        if since == 0 && self.has_slept {
            self.looks = 1;
        }
        self.has_slept = false;
        if self.resting > 0 {
            self.resting -= 1;
            return 0;
        }
        self.looks
    }

    /// What was waited for came during the looks, which took `looked` together.
    pub fn found(&mut self, looked: Duration) {
        if let Some(contest) = &mut self.contest {
            contest.waited(looked, Duration::ZERO);
        }
        if self.is_taken(looked) {
            self.rest();
        } else {
            self.looks = self.most();
        }
    }

    /// What was waited for did not come during `looks` looks, which took `looked` together; the sleep then took
    /// `slept`.
    pub fn slept(&mut self, looks: u32, looked: Duration, slept: Duration) {
        self.has_slept = true;
        if let Some(contest) = &mut self.contest {
            contest.waited(looked, slept);
        }
        if looks == 0 {
            return;
        }
        if self.is_taken(looked) {
            self.rest();
            return;
        }
        let full = looked.saturating_mul(self.most()) / looks;
        self.looks = if slept <= full.saturating_mul(REACH) { self.most() } else { (looks / 2).max(1) };
    }

    fn rest(&mut self) {
        self.resting = self.next_rest;
        self.next_rest = (self.next_rest * 2).min(LONGEST_REST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Duration = Duration::from_micros(1);

    /// Looks after something was moved.
    fn next(spin: &mut Spin) -> u32 {
        spin.looks(spin.moved + 1)
    }

    fn miss(spin: &mut Spin, slept: Duration) -> u32 {
        let looks = next(spin);
        spin.slept(looks, LOOK * looks, slept);
        looks
    }

    #[test]
    fn who_takes_turns_looks_after_a_large_piece_until_looks_have_lost() {
        let mut spin = Spin::default();
        spin.takes_turns();
        assert_eq!(spin.looks(3 * LITTLE), MOST);
        assert_eq!(spin.looks(9 * LITTLE), MOST);
        let mut looked = 0;
        for round in 0..1000 {
            let looks = spin.looks(round * 4096 + 10 * LITTLE);
            looked += u32::from(looks > 0);
            let slept = Duration::from_micros(if looks > 0 { 100 } else { 20 });
            spin.slept(looks, LOOK * looks, slept);
        }
        assert!(looked < 100, "{looked}");
    }

    #[test]
    fn a_peer_that_only_rings_costs_one_look_a_ring() {
        let mut spin = Spin::default();
        let looks: Vec<u32> = (0..6)
            .map(|_| {
                let looks = spin.looks(0);
                spin.slept(looks, LOOK * looks, LOOK);
                looks
            })
            .collect();
        assert_eq!(looks, [16, 1, 1, 1, 1, 1]);
    }

    #[test]
    fn a_transfer_that_is_under_way_sleeps_at_once() {
        let mut spin = Spin::default();
        assert_eq!(spin.looks(LITTLE), MOST);
        assert_eq!(spin.looks(3 * LITTLE), 0);
        assert_eq!(spin.looks(3 * LITTLE), MOST, "the answer to its end is waited for");
    }

    #[test]
    fn another_domain_is_looked_for_before_every_sleep() {
        let mut spin = Spin::new(true);
        assert_eq!(spin.looks(3 * LITTLE), MOST_FAR);
        assert_eq!(spin.looks(9 * LITTLE), MOST_FAR);
        spin.found(3 * TAKEN);
        assert_eq!(spin.looks(9 * LITTLE), MOST_FAR, "a look there may take longer");
        spin.found(2 * TAKEN_FAR);
        assert_eq!(spin.looks(9 * LITTLE), 0);
    }

    #[test]
    fn long_waits_cost_fewer_and_fewer_looks() {
        let mut spin = Spin::default();
        let looks: Vec<u32> = (0..7).map(|_| miss(&mut spin, Duration::from_secs(1))).collect();
        assert_eq!(looks, [16, 8, 4, 2, 1, 1, 1]);
    }

    #[test]
    fn a_call_that_begins_looks_once_and_learns() {
        let mut spin = Spin::default().before_a_start();
        assert_eq!(miss(&mut spin, Duration::from_millis(1)), 1);
        assert_eq!(miss(&mut spin, LOOK), 1);
        assert_eq!(next(&mut spin), MOST);
        assert_eq!(Spin::new(true).before_a_start().looks(0), MOST_FAR);
    }

    #[test]
    fn a_wait_that_looks_would_have_covered_brings_them_back() {
        let mut spin = Spin::default();
        for _ in 0..7 {
            miss(&mut spin, Duration::from_secs(1));
        }
        assert_eq!(miss(&mut spin, Duration::from_micros(40)), 1);
        assert_eq!(next(&mut spin), MOST);
    }

    #[test]
    fn a_processor_that_others_want_is_not_looked_on() {
        let mut spin = Spin::default();
        let looks = next(&mut spin);
        spin.slept(looks, Duration::from_millis(3), Duration::from_micros(10));
        assert_eq!((0..REST).map(|_| next(&mut spin)).max(), Some(0));
        assert_eq!(next(&mut spin), MOST);
        spin.found(Duration::from_millis(3));
        assert_eq!((0..2 * REST).map(|_| next(&mut spin)).max(), Some(0), "twice as long the second time");
    }
}
