#![forbid(unsafe_code)]
//! Ring pages that are lent to the local pipe instead of copied: only on request, for readers that are known to copy.
//!
//! A lent page is given back to the sender once the pipe's reader has taken it, which is known from how much the pipe
//! still holds. The pipe is kept well below the ring's size: a full pipe stops the sender before the ring is full, so
//! lent pages never make the sender wait.

use std::collections::VecDeque;

/// A ring must be this large for lending: otherwise a pipe of a quarter of its size holds too few pages.
const SMALLEST_RING: usize = 256 << 10;

/// The size of the pipe for a ring of `ring` bytes; `None` if the ring is too small.
pub(super) fn pipe_size(ring: usize) -> Option<usize> {
    (ring >= SMALLEST_RING).then_some(ring / 4)
}

/// How much of the ring was used, and how much of that is still lent. Totals, in bytes since the call began.
#[derive(Debug, Default)]
pub(super) struct Loans {
    /// Payload lent.
    lent: u64,
    /// Ring bytes used, headers included.
    used: u64,
    /// Ring bytes given back.
    given: u64,
    /// For each loan: the payload lent with it, and the ring bytes used with it.
    open: VecDeque<(u64, u64)>,
}

impl Loans {
    /// Whether bytes are lent, as far as is known.
    pub(super) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Ring bytes that were used and cannot be given back yet.
    pub(super) fn outstanding(&self) -> u64 {
        self.used - self.given
    }

    /// `ring` bytes were used, of which `payload` are in the pipe now.
    pub(super) fn lend(&mut self, payload: usize, ring: usize) {
        self.lent += payload as u64;
        self.used += ring as u64;
        self.open.push_back((self.lent, self.used));
    }

    /// `ring` bytes were used and are needed no more; they are given back after everything that is lent before them.
    pub(super) fn used(&mut self, ring: usize) {
        self.used += ring as u64;
    }

    /// The pipe still holds `held` bytes. Returns how many ring bytes may be given back now.
    ///
    /// Bytes of other writers in the same pipe are counted too, so that at worst some ring bytes are given back late.
    pub(super) fn settle(&mut self, held: usize) -> usize {
        let taken = self.lent.saturating_sub(held as u64);
        let mut until = self.given;
        while let Some((lent, used)) = self.open.front().copied().filter(|(lent, _)| *lent <= taken) {
            debug_assert!(lent <= self.lent);
            until = used;
            self.open.pop_front();
        }
        if self.open.is_empty() {
            until = self.used;
        }
        let free = until - self.given;
        self.given = until;
        usize::try_from(free).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_the_pipe_holds_is_not_given_back() {
        let mut loans = Loans::default();
        loans.lend(100, 108);
        loans.lend(50, 58);
        assert_eq!(loans.settle(150), 0);
        assert_eq!(loans.settle(51), 0);
        assert_eq!(loans.settle(50), 108);
        loans.used(8);
        assert_eq!(loans.settle(1), 0, "what came later waits for what is lent before it");
        assert_eq!(loans.settle(0), 66);
        assert!(!loans.is_open());
        loans.used(20);
        assert_eq!(loans.settle(0), 20);
    }

    #[test]
    fn a_pipe_is_a_quarter_of_its_ring() {
        assert_eq!(pipe_size(1 << 20), Some(256 << 10));
        assert_eq!(pipe_size(64 << 10), None);
    }

    proptest! {
        #[test]
        fn every_byte_is_given_back_once_and_never_early(steps in prop::collection::vec((1usize..5000, 0usize..100, 0.0f64..=1.0), 1..60)) {
            let mut loans = Loans::default();
            let (mut queue, mut used, mut given) = (0usize, 0usize, 0usize);
            for (payload, header, read) in steps {
                loans.lend(payload, payload + header);
                queue += payload;
                used += payload + header;
                queue -= (queue as f64 * read) as usize;
                given += loans.settle(queue);
                prop_assert!(used - given >= queue);
            }
            given += loans.settle(0);
            prop_assert_eq!(given, used);
        }
    }
}
