//! Which connection a call gets, and when there shall be one more.
//!
//! A connection's cipher runs on one processor at each end, and what a bulk call has sent waits in front of everybody
//! else's bytes. So a call goes where the fewest bulk calls are, and where all connections have one, there shall be another.

use std::collections::BTreeMap;

/// The most connections for the sake of bulk calls: four of them, and one for what is small.
pub(super) const MOST: u8 = 5;

/// What is under way on a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Load {
    pub(super) bulk: usize,
    pub(super) calls: usize,
}

/// What is under way, by the numbers of the connections that are there.
#[derive(Debug, Default)]
pub(super) struct Loads(BTreeMap<u8, Load>);

impl Loads {
    /// The connection is there.
    pub(super) fn know(&mut self, master: u8) -> &mut Load {
        self.0.entry(master).or_default()
    }

    /// A call is on it.
    pub(super) fn add(&mut self, master: u8, bulk: bool) {
        let load = self.know(master);
        load.calls = load.calls.saturating_add(1);
        load.bulk = load.bulk.saturating_add(usize::from(bulk));
    }

    pub(super) fn of(&self, master: u8) -> Load {
        self.0.get(&master).copied().unwrap_or_default()
    }

    /// Where the next call goes.
    pub(super) fn best(&self) -> u8 {
        self.0.iter().min_by_key(|(number, load)| (**load, **number)).map_or(0, |(number, _)| *number)
    }

    /// The connection that there shall be, too.
    pub(super) fn further(&self) -> Option<u8> {
        let crowded = !self.0.is_empty() && self.0.values().all(|load| load.bulk > 0);
        (0..MOST).find(|number| !self.0.contains_key(number)).filter(|_| crowded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_calls_keep_away_from_bulk_and_bulk_from_bulk() {
        let mut loads = Loads::default();
        assert_eq!((loads.best(), loads.further()), (0, None));
        loads.add(0, false);
        assert_eq!((loads.best(), loads.further()), (0, None));
        loads.add(0, true);
        assert_eq!((loads.best(), loads.further()), (0, Some(1)));
        loads.know(1);
        assert_eq!((loads.best(), loads.further()), (1, None));
        loads.add(1, true);
        assert_eq!((loads.best(), loads.further()), (1, Some(2)));
        for master in 2..5 {
            loads.add(master, true);
        }
        assert_eq!((loads.best(), loads.further()), (1, None));
        assert_eq!(loads.of(0), Load { bulk: 1, calls: 2 });
    }

    #[test]
    fn a_gap_is_filled_first() {
        let mut loads = Loads::default();
        loads.add(2, true);
        assert_eq!((loads.best(), loads.further()), (2, Some(0)));
    }
}
