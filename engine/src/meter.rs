#![forbid(unsafe_code)]
//! Byte counts of calls, written by the processes that move the bytes and read by the process that forked them,
//! without a system call on either side: they are words of memory that all of them share.
//!
//! Nothing is decided by these numbers. If a hostile peer takes over a call's process, that process can write any
//! numbers into its own meter and into those of other calls, and can read those: it sees how much other calls of the
//! same agent or daemon move.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use wire::top::Moved;

use crate::process::words_for_all_forks;

/// Calls that are counted at the same time; for further calls the bytes are unknown.
const METERS: usize = 1024;
/// Words from one meter to the next: a cache line, so that two calls do not slow each other down.
const APART: usize = 8;
const WORDS: usize = METERS * APART;
/// The call has shown nothing yet: no call moves as much as this.
const NOTHING: u64 = u64::MAX;

/// The meters of one agent or daemon.
#[derive(Debug)]
pub struct Meters {
    words: &'static [AtomicU64; WORDS],
    /// The first meter that was never taken; all after it were not either.
    fresh: usize,
    /// Meters that were given back; the last one is used first, so that few pages are ever touched.
    free: Vec<usize>,
}

/// The two numbers of one call.
#[derive(Debug, Clone, Copy)]
pub struct Meter {
    at: usize,
    words: &'static [AtomicU64; WORDS],
}

impl Default for Meters {
    /// To be called before the first of the processes is forked.
    fn default() -> Self {
        Self { words: words_for_all_forks(), fresh: 0, free: Vec::new() }
    }
}

impl Meters {
    /// Takes a meter that shows nothing. It is to be given back when no process writes to it any more. `None`: all are
    /// taken.
    pub fn take(&mut self) -> Option<Meter> {
        let at = self.free.pop().or_else(|| {
            let at = self.fresh;
            self.fresh = at.checked_add(1).filter(|_| at < METERS)?;
            Some(at)
        })?;
        let meter = Meter { at, words: self.words };
        meter.show(NOTHING, NOTHING);
        Some(meter)
    }

    /// Gives a meter back to which no process writes any more.
    pub fn give_back(&mut self, meter: Meter) {
        self.free.push(meter.at);
    }
}

impl Meter {
    /// Shows how much a service's side has moved so far: bytes from its caller, and bytes for it.
    #[inline]
    pub fn show(self, bytes_in: u64, bytes_out: u64) {
        let at = self.at * APART;
        if let Some([to_service, to_caller, ..]) = self.words.get(at..at + APART) {
            to_service.store(bytes_in, Relaxed);
            to_caller.store(bytes_out, Relaxed);
        }
    }

    /// The numbers that are shown; `None`: none yet. Both are correct, but may not be of the same moment.
    #[must_use]
    pub fn read(self) -> Option<Moved> {
        let at = self.at * APART;
        let Some([to_service, to_caller, ..]) = self.words.get(at..at + APART) else { return None };
        let moved = Moved { to_service: to_service.load(Relaxed), to_caller: to_caller.load(Relaxed) };
        (moved.to_service != NOTHING && moved.to_caller != NOTHING).then_some(moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_has_its_own_and_one_that_is_taken_again_shows_nothing() {
        let mut meters = Meters::default();
        let (one, other) = (meters.take().unwrap(), meters.take().unwrap());
        one.show(1, 2);
        other.show(3, 4);
        assert_eq!(one.read(), Some(Moved { to_service: 1, to_caller: 2 }));
        assert_eq!(other.read(), Some(Moved { to_service: 3, to_caller: 4 }));
        meters.give_back(one);
        assert_eq!(meters.take().unwrap().read(), None);
    }

    #[test]
    fn one_call_more_than_there_are_meters_for_has_none() {
        let mut meters = Meters::default();
        let all: Vec<Meter> = std::iter::from_fn(|| meters.take()).collect();
        assert_eq!(all.len(), METERS);
        all.iter().for_each(|meter| meter.show(u64::MAX, 1));
        meters.give_back(all[METERS - 1]);
        assert!(meters.take().is_some() && meters.take().is_none());
    }
}
