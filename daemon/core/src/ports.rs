//! Which data ports a daemon's calls use.
//!
//! The daemons of two VMs both hand out ports for calls between them, so they must never hand out
//! the same one: each counts in steps of two, from 513, or from 514 if the other VM's id is larger
//! than its own VM's. Towards dom0 there is no second daemon, and any free port serves.
//!
//! The next port is the lowest free one whose last call was with another domain: the data server of that call was met
//! under another name, so no caller can meet it by mistake. Where all were last used with the same domain, it is the one that is
//! free longest, because its old data server may still listen. Upstream's peers accept 513 to 768 only, so a port
//! above that is given out only when none below is free.

use std::collections::{BTreeMap, BTreeSet};

use wire::names::{DomainId, Port};

/// The last data port handed out if nothing else is configured: 65,536 ports in all.
pub const LAST_BY_DEFAULT: u32 = Port::FIRST_DATA.0 + 0xffff;

/// The ports of one daemon: those in use and the order in which the others come next.
#[derive(Debug)]
pub struct Ports {
    own: DomainId,
    reserved: BTreeMap<u32, DomainId>,
    /// Counts the releases, so that free ports can be compared by age.
    releases: u64,
    /// What upstream's peers accept, then what lies above; the odd and the even half of each.
    bands: [[Pool; 2]; 2],
}

impl Ports {
    /// All ports from 513 to `last` free, for the daemon of VM `own`. A `last` below 513 leaves none.
    #[must_use]
    pub fn new(own: DomainId, last: u32) -> Self {
        let band = |first: u32, last: u32| {
            let odd = first | 1;
            [Pool::new(odd, last), Pool::new(odd ^ 1, last).starting_at(first)]
        };
        let bands = [
            band(Port::FIRST_DATA.0, last.min(Port::LAST_UPSTREAM_DATA.0)),
            band(Port::LAST_UPSTREAM_DATA.0.saturating_add(1), last),
        ];
        Self { own, reserved: BTreeMap::new(), releases: 0, bands }
    }

    /// Reserves a port for a call with `peer`; `None` if all that could serve are in use.
    pub fn reserve(&mut self, peer: DomainId) -> Option<Port> {
        let halves = self.halves_for(peer);
        for band in &mut self.bands {
            let best = halves.iter().filter_map(|&half| Some((band.get(half)?.best(peer)?, half))).min();
            let Some((choice, half)) = best else { continue };
            let port = band.get_mut(half)?.take(choice);
            self.reserved.insert(port, peer);
            return Some(Port(port));
        }
        None
    }

    /// Frees `port` if it is reserved for a call with `peer`; tells whether it was.
    pub fn release(&mut self, peer: DomainId, port: Port) -> bool {
        if self.reserved.get(&port.0) != Some(&peer) {
            return false;
        }
        self.reserved.remove(&port.0);
        self.releases = self.releases.saturating_add(1);
        let band = usize::from(port.0 > Port::LAST_UPSTREAM_DATA.0);
        let half = usize::from(port.0.is_multiple_of(2));
        if let Some(pool) = self.bands.get_mut(band).and_then(|band| band.get_mut(half)) {
            pool.free(peer, port.0, self.releases);
        }
        true
    }

    /// How many ports are in use.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.reserved.len()
    }

    /// The halves (0 odd, 1 even) from which a port for `peer` may come.
    fn halves_for(&self, peer: DomainId) -> &'static [usize] {
        match peer {
            DomainId(0) => &[0, 1],
            peer if peer > self.own => &[1],
            _ => &[0],
        }
    }
}

/// Every second port of a stretch: those never used yet, in order, and those freed, by the domain of their last call.
#[derive(Debug)]
struct Pool {
    fresh: u32,
    last: u32,
    freed: BTreeMap<DomainId, Freed>,
}

/// Ports whose last call was with the same domain.
#[derive(Debug, Default)]
struct Freed {
    /// With the number of its release.
    by_number: BTreeMap<u32, u64>,
    by_age: BTreeSet<(u64, u32)>,
}

/// A port that may come next, the better before the worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Choice {
    /// Never used, or last with that other domain.
    Other { port: u32, last_with: Option<DomainId> },
    /// Last used with the same domain, and free since then.
    Same { since: u64, port: u32, peer: DomainId },
}

impl Pool {
    fn new(first: u32, last: u32) -> Self {
        Self { fresh: first, last, freed: BTreeMap::new() }
    }

    /// Skips what lies below `first`, keeping odd odd and even even.
    fn starting_at(mut self, first: u32) -> Self {
        while self.fresh < first {
            self.fresh = self.fresh.saturating_add(2);
        }
        self
    }

    /// The port that comes next for a call with `peer`.
    fn best(&self, peer: DomainId) -> Option<Choice> {
        let others = self.freed.iter().filter(|(last_with, _)| **last_with != peer);
        let lowest = others.filter_map(|(&last_with, freed)| {
            Some(Choice::Other { port: *freed.by_number.first_key_value()?.0, last_with: Some(last_with) })
        });
        let fresh = (self.fresh <= self.last).then_some(Choice::Other { port: self.fresh, last_with: None });
        lowest.chain(fresh).min().or_else(|| {
            let &(since, port) = self.freed.get(&peer)?.by_age.first()?;
            Some(Choice::Same { since, port, peer })
        })
    }

    fn take(&mut self, choice: Choice) -> u32 {
        let (port, last_with) = match choice {
            Choice::Other { port, last_with: None } => {
                self.fresh = self.fresh.saturating_add(2);
                return port;
            }
            Choice::Other { port, last_with: Some(peer) } | Choice::Same { port, peer, .. } => (port, peer),
        };
        if let Some(freed) = self.freed.get_mut(&last_with) {
            if let Some(since) = freed.by_number.remove(&port) {
                freed.by_age.remove(&(since, port));
            }
            if freed.by_number.is_empty() {
                self.freed.remove(&last_with);
            }
        }
        port
    }

    fn free(&mut self, peer: DomainId, port: u32, since: u64) {
        let freed = self.freed.entry(peer).or_default();
        freed.by_number.insert(port, since);
        freed.by_age.insert((since, port));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const DOM0: DomainId = DomainId(0);
    const OWN: DomainId = DomainId(5);
    const SMALLER: DomainId = DomainId(3);
    const LARGER: DomainId = DomainId(9);

    fn take(ports: &mut Ports, peer: DomainId, count: usize) -> Vec<u32> {
        (0..count).map_while(|_| ports.reserve(peer)).map(|port| port.0).collect()
    }

    #[test]
    fn steps_of_two_between_vms_and_of_one_towards_dom0() {
        let mut ports = Ports::new(OWN, LAST_BY_DEFAULT);
        assert_eq!(take(&mut ports, SMALLER, 3), [513, 515, 517]);
        assert_eq!(take(&mut ports, LARGER, 2), [514, 516]);
        assert_eq!(take(&mut ports, DOM0, 3), [518, 519, 520]);
        assert_eq!(ports.in_use(), 8);
    }

    #[test]
    fn all_that_upstream_accepts_come_before_any_above() {
        let mut ports = Ports::new(OWN, 772);
        let odd = take(&mut ports, SMALLER, 1000);
        assert_eq!((odd.len(), odd[127], odd[128], odd[129]), (130, 767, 769, 771));
        let even = take(&mut ports, DOM0, 1000);
        assert_eq!((even[0], even[127], even[128], even.last()), (514, 768, 770, Some(&772)));
        assert!(ports.reserve(LARGER).is_none() && ports.reserve(DOM0).is_none());
        assert!(ports.release(SMALLER, Port(769)) && ports.release(SMALLER, Port(515)));
        assert_eq!(take(&mut ports, DOM0, 3), [515, 769]);
        // Below it may even be one that was last used with the same domain.
        assert!(ports.release(SMALLER, Port(771)) && ports.release(DOM0, Port(515)));
        assert_eq!(take(&mut ports, DOM0, 3), [515, 771]);
    }

    #[test]
    fn the_lowest_free_port_whose_last_call_was_with_another_domain_comes_first() {
        const OTHER: DomainId = DomainId(10);
        let mut ports = Ports::new(OWN, LAST_BY_DEFAULT);
        assert_eq!(take(&mut ports, LARGER, 3), [514, 516, 518]);
        for port in [518, 514] {
            assert!(ports.release(LARGER, Port(port)));
        }
        // Not the ones that may still be listened on, and lower ones before those never used.
        assert_eq!(take(&mut ports, LARGER, 1), [520]);
        assert_eq!(take(&mut ports, OTHER, 3), [514, 518, 522]);
        // It counts with whom the last call was, not the one before.
        assert!(ports.release(OTHER, Port(514)));
        assert_eq!(take(&mut ports, OTHER, 1), [524]);
        assert_eq!(take(&mut ports, LARGER, 1), [514]);
    }

    #[test]
    fn the_port_freed_longest_ago_comes_first() {
        let mut ports = Ports::new(OWN, 518);
        assert_eq!(take(&mut ports, DOM0, 6), [513, 514, 515, 516, 517, 518]);
        for port in [516, 513, 518, 514] {
            assert!(ports.release(DOM0, Port(port)));
        }
        assert_eq!(take(&mut ports, DOM0, 9), [516, 513, 518, 514]);
    }

    #[test]
    fn only_the_peer_of_a_call_frees_its_port() {
        let mut ports = Ports::new(OWN, LAST_BY_DEFAULT);
        let port = ports.reserve(SMALLER).unwrap();
        assert!(!ports.release(LARGER, port) && !ports.release(DOM0, port));
        assert!(!ports.release(SMALLER, Port(port.0 + 2)) && !ports.release(SMALLER, Port(u32::MAX)));
        assert!(ports.release(SMALLER, port) && !ports.release(SMALLER, port));
    }

    #[test]
    fn a_ceiling_below_the_first_port_leaves_none() {
        assert!(Ports::new(OWN, 0).reserve(DOM0).is_none());
        assert_eq!(Ports::new(OWN, 513).reserve(SMALLER), Some(Port(513)));
    }

    fn step() -> impl Strategy<Value = (u8, usize)> {
        (0..6_u8, any::<usize>())
    }

    proptest! {
        #[test]
        fn never_twice_never_the_wrong_half_and_none_lost(
            last in 512..800_u32, steps in proptest::collection::vec(step(), 0..600),
        ) {
            let mut ports = Ports::new(OWN, last);
            let mut live: Vec<(DomainId, u32)> = Vec::new();
            // With whom a free port was used last, and when.
            let mut past: BTreeMap<u32, (DomainId, usize)> = BTreeMap::new();
            for (now, (action, pick)) in steps.into_iter().enumerate() {
                let peer = [DOM0, SMALLER, LARGER][pick % 3];
                if action < 4 {
                    let right = |port: &u32| match peer {
                        DOM0 => true,
                        SMALLER => !port.is_multiple_of(2),
                        _ => port.is_multiple_of(2),
                    };
                    let used: BTreeSet<u32> = live.iter().map(|(_, port)| *port).collect();
                    let free: Vec<u32> = (513..=last).filter(|p| right(p) && !used.contains(p)).collect();
                    let got = ports.reserve(peer).map(|port| port.0);
                    let best = free.into_iter().min_by_key(|port| {
                        let same = past.get(port).filter(|(last, _)| *last == peer).map(|(_, when)| *when);
                        (*port > Port::LAST_UPSTREAM_DATA.0, same, *port)
                    });
                    prop_assert_eq!(got, best);
                    live.extend(got.map(|port| (peer, port)));
                } else if !live.is_empty() {
                    let (peer, port) = live.swap_remove(pick % live.len());
                    prop_assert!(ports.release(peer, Port(port)));
                    past.insert(port, (peer, now));
                }
                prop_assert_eq!(ports.in_use(), live.len());
            }
        }

        #[test]
        fn two_daemons_never_collide(steps in proptest::collection::vec(any::<bool>(), 0..400)) {
            let (mut ours, mut theirs) = (Ports::new(OWN, 768), Ports::new(LARGER, 768));
            let mut seen = BTreeSet::new();
            for left in steps {
                let port = if left { ours.reserve(LARGER) } else { theirs.reserve(OWN) };
                if let Some(port) = port {
                    prop_assert!(seen.insert(port.0));
                }
            }
        }
    }
}
