#![forbid(unsafe_code)]
//! Free-running `u32` indices, masked only when they become an address.

use crate::error::BadIndex;

/// Bytes between two free-running indices.
pub fn distance(from: u32, to: u32) -> u32 {
    to.wrapping_sub(from)
}

/// The two contiguous pieces of `len` bytes that begin at index `start`: `(offset, len)` each, the
/// second empty unless the ring's end lies inside.
///
/// `size` is a power of two and `len <= size`.
pub fn pieces(start: u32, len: usize, size: u32) -> [(usize, usize); 2] {
    debug_assert!(size.is_power_of_two() && len <= size as usize);
    let offset = (start & (size - 1)) as usize;
    let first = len.min(size as usize - offset);
    [(offset, first), (0, len - first)]
}

/// What a producer learns from the shared `cons`: bytes still in use.
///
/// `seen` is the last accepted value. An honest `cons` lies between `seen` and `prod`.
pub fn check_cons(prod: u32, seen: u32, cons: u32, size: u32) -> Result<u32, BadIndex> {
    let used = distance(cons, prod);
    if used > distance(seen, prod) { Err(BadIndex::Cons { cons, prod, size }) } else { Ok(used) }
}

/// What a consumer learns from the shared `prod`: bytes ready.
///
/// `seen` is the last accepted value. An honest `prod` does not go back and stays within one ring of `cons`.
pub fn check_prod(cons: u32, seen: u32, prod: u32, size: u32) -> Result<u32, BadIndex> {
    let ready = distance(cons, prod);
    if ready > size || ready < distance(cons, seen) {
        Err(BadIndex::Prod { prod, cons, size })
    } else {
        Ok(ready)
    }
}

/// How many bytes were committed, or given back, in all, and how many of them the peer was told about.
#[derive(Debug, Default)]
pub(crate) struct Mark {
    total: u64,
    told: u64,
}

impl Mark {
    pub(crate) fn add(&mut self, n: usize) {
        self.total += n as u64;
    }

    pub(crate) fn pending(&self) -> u64 {
        self.total - self.told
    }

    /// Notes that the peer is told now. Returns whether there was anything to tell.
    pub(crate) fn reach(&mut self) -> bool {
        let any = self.pending() > 0;
        self.told = self.total;
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_cover_the_bytes_in_order(start: u32, order in 10u32..=20, frac in 0.0f64..=1.0) {
            let size = 1u32 << order;
            let len = (f64::from(size) * frac) as usize;
            let [a, b] = pieces(start, len, size);
            prop_assert_eq!(a.1 + b.1, len);
            prop_assert!(a.0 + a.1 <= size as usize && b.0 + b.1 <= a.0.max(b.1));
            for i in [0, len / 2, len.saturating_sub(1)] {
                if i < len {
                    let at = if i < a.1 { a.0 + i } else { b.0 + i - a.1 };
                    prop_assert_eq!(at as u32, start.wrapping_add(i as u32) & (size - 1));
                }
            }
        }

        #[test]
        fn honest_indices_pass(cons: u32, size_order in 10u32..=20, ready in 0u32..=1 << 20, more in 0u32..=1 << 20) {
            let size = 1u32 << size_order;
            let ready = ready % (size + 1);
            let now = (ready + more).min(size);
            let (seen, prod) = (cons.wrapping_add(ready), cons.wrapping_add(now));
            prop_assert_eq!(check_prod(cons, seen, prod, size), Ok(now));
            prop_assert_eq!(check_cons(prod, cons, cons.wrapping_add(ready), size), Ok(now - ready));
        }

        #[test]
        fn a_lie_never_yields_more_than_the_ring(cons: u32, seen_ahead in 0u32..=4096, prod: u32) {
            let seen = cons.wrapping_add(seen_ahead);
            if let Ok(ready) = check_prod(cons, seen, prod, 4096) {
                prop_assert!(ready <= 4096 && ready >= seen_ahead);
            }
            if let Ok(used) = check_cons(seen, cons, prod, 4096) {
                prop_assert!(used <= seen_ahead);
            }
        }
    }
}
