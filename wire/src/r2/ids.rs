//! Numbers of clients: which one the next client gets.
//!
//! CLIENT_END is not acknowledged, so what the agent has sent for a client that is gone may still arrive, and must not
//! be taken for the next client's. A number is clean once the agent has sent EXIT_CODE for it. It is clean, too, once
//! the agent has sent anything about a client that was begun after the CLIENT_END: messages keep their order, so it
//! has received the CLIENT_END before. Only if no number is clean, the one that was given up first is used again.

use alloc::collections::VecDeque;

/// How many numbers there are.
pub const IDS: usize = 256;

/// A point in the stream of messages to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp(u64);

/// A number in use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    pub(super) id: u8,
    begun: Stamp,
    /// Messages with this number can only be about this client.
    sure: bool,
}

/// All numbers that are not in use.
#[derive(Debug)]
pub(super) struct Ids {
    now: u64,
    /// Clean numbers, the one that has been free longest first.
    clean: VecDeque<u8>,
    /// Numbers that were given up and are not clean yet, in this order.
    dirty: VecDeque<(u8, Stamp)>,
}

impl Default for Ids {
    fn default() -> Self {
        Self { now: 0, clean: (0..=u8::MAX).collect(), dirty: VecDeque::new() }
    }
}

impl Ids {
    /// A number for a new client; `None`: all are in use.
    pub(super) fn take(&mut self) -> Option<Lease> {
        let clean = self.clean.pop_front();
        let id = clean.or_else(|| self.dirty.pop_front().map(|(id, _)| id))?;
        Some(Lease { id, begun: self.tick(), sure: clean.is_some() })
    }

    /// For a number of which no message can be on the way any more.
    pub(super) fn give_back(&mut self, lease: Lease) {
        self.clean.push_back(lease.id);
    }

    /// CLIENT_END was sent, and the agent's EXIT_CODE has not arrived.
    pub(super) fn give_up(&mut self, lease: Lease) {
        let now = self.tick();
        self.dirty.push_back((lease.id, now));
    }

    /// The agent has sent something about this client.
    pub(super) fn heard(&mut self, lease: Lease) {
        while let Some((id, given_up)) = self.dirty.front().copied() {
            if !lease.sure || given_up >= lease.begun {
                return;
            }
            self.dirty.pop_front();
            self.clean.push_back(id);
        }
    }

    /// The agent has sent EXIT_CODE for a number that is not in use.
    pub(super) fn ended(&mut self, id: u8) {
        if let Some(at) = self.dirty.iter().position(|(dirty, _)| *dirty == id) {
            self.dirty.remove(at);
            self.clean.push_back(id);
        }
    }

    fn tick(&mut self) -> Stamp {
        self.now = self.now.wrapping_add(1);
        Stamp(self.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_may_still_be_spoken_of_comes_last() {
        let mut ids = Ids::default();
        let first = ids.take().expect("free");
        assert_eq!(first.id, 0);
        ids.give_up(first);
        // All others are used before it.
        for id in 1..=255 {
            let lease = ids.take().expect("free");
            assert_eq!(lease.id, id);
            ids.give_back(lease);
        }
        let second = ids.take().expect("free");
        assert_eq!(second.id, 1);
        // It was begun after the first one was given up.
        ids.heard(second);
        let order: alloc::vec::Vec<u8> = (0..255).filter_map(|_| ids.take()).map(|lease| lease.id).collect();
        assert_eq!((order.first(), order.last(), order.len()), (Some(&2), Some(&0), 255));
        assert!(ids.take().is_none());
    }

    #[test]
    fn what_is_said_about_an_older_client_proves_nothing() {
        let mut ids = Ids::default();
        let (old, gone) = (ids.take().expect("free"), ids.take().expect("free"));
        ids.give_up(gone);
        ids.heard(old);
        assert_eq!(ids.dirty.len(), 1);
        ids.ended(7);
        assert_eq!(ids.dirty.len(), 1);
        ids.ended(gone.id);
        assert!(ids.dirty.is_empty());
        // Nor is a message about a client whose number was used before it was clean.
        let all: alloc::vec::Vec<Lease> = (0..255).filter_map(|_| ids.take()).collect();
        ids.give_up(all[0]);
        let unsure = ids.take().expect("a dirty one");
        assert_eq!(unsure.id, all[0].id);
        ids.give_up(all[1]);
        ids.give_up(unsure);
        let unsure = ids.take().expect("a dirty one");
        ids.heard(unsure);
        assert_eq!(ids.dirty.len(), 1);
    }
}
