//! How many calls from outside a VM accepts from each source.
//!
//! A source may have half of what the others have left, so that whatever it does, something remains for the next
//! source. A part is reserved for dom0, from where a VM that is being flooded with calls is inspected and ended.

use core::fmt;

use crate::names::DomainId;
use crate::small_map::SmallMap;

/// One in so many is for dom0 alone.
const FOR_DOM0: usize = 8;

/// How many calls there may be, and who has how many.
#[derive(Debug)]
pub struct Shares {
    max: usize,
    taken: SmallMap<DomainId, usize>,
    total: usize,
}

/// Why a source gets no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyCalls {
    /// The source of the calls.
    source: DomainId,
    theirs: usize,
    total: usize,
}

impl fmt::Display for TooManyCalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, theirs, total } = self;
        write!(f, "domain {source} has {theirs} calls here, of {total} in all: more are refused")
    }
}

impl core::error::Error for TooManyCalls {}

impl Shares {
    /// With so many calls in all; even if that is fewer than two, dom0 and one other source may have one each.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { max: max.max(2), taken: SmallMap::new(), total: 0 }
    }

    /// Counts one more call of `source`.
    ///
    /// # Errors
    /// The source has as many as it may have.
    pub fn take(&mut self, source: DomainId) -> Result<(), TooManyCalls> {
        let theirs = self.of(source);
        let dom0 = self.of(DomainId::DOM0);
        let fits = if source == DomainId::DOM0 {
            self.total < self.max
        } else {
            let kept = self.max.div_ceil(FOR_DOM0).saturating_sub(dom0);
            theirs < self.max.saturating_sub(kept).saturating_sub(self.total)
        };
        if !fits {
            return Err(TooManyCalls { source, theirs, total: self.total });
        }
        self.taken.insert(source, theirs.saturating_add(1));
        self.total = self.total.saturating_add(1);
        Ok(())
    }

    /// A call of `source` has ended.
    pub fn give_back(&mut self, source: DomainId) {
        let Some(theirs) = self.taken.get_mut(&source) else { return };
        *theirs = theirs.saturating_sub(1);
        if *theirs == 0 {
            self.taken.remove(&source);
        }
        self.total = self.total.saturating_sub(1);
    }

    /// All calls have ended.
    pub fn clear(&mut self) {
        self.taken.clear();
        self.total = 0;
    }

    /// How many calls a source has.
    fn of(&self, source: DomainId) -> usize {
        self.taken.get(&source).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    fn fill(shares: &mut Shares, source: u32) -> usize {
        (0..1000).filter(|_| shares.take(DomainId(source)).is_ok()).count()
    }

    #[test]
    fn each_has_half_of_what_the_others_leave_and_dom0_what_is_its_own() {
        let mut shares = Shares::new(80);
        // 10 are reserved for dom0.
        assert_eq!([1, 2, 3, 4, 5, 6, 7].map(|source| fill(&mut shares, source)), [35, 18, 9, 4, 2, 1, 1]);
        assert_eq!((fill(&mut shares, 8), fill(&mut shares, 0)), (0, 10));
        let too_many = shares.take(DomainId(1)).unwrap_err();
        assert_eq!(too_many.to_string(), "domain 1 has 35 calls here, of 80 in all: more are refused");
        // When one source's calls end, others may have more.
        (0..20).for_each(|_| shares.give_back(DomainId(1)));
        assert_eq!((fill(&mut shares, 8), fill(&mut shares, 1)), (10, 0));
    }

    #[test]
    fn dom0_may_have_all_and_nobody_has_what_is_left_of_its_part() {
        let mut shares = Shares::new(16);
        assert_eq!(fill(&mut shares, 0), 16);
        assert_eq!(fill(&mut shares, 1), 0);
        (0..15).for_each(|_| shares.give_back(DomainId::DOM0));
        assert_eq!(fill(&mut shares, 1), 7);
        shares.give_back(DomainId(9));
        shares.clear();
        assert_eq!((fill(&mut shares, 1), shares.total), (7, 7));
        let mut few = Shares::new(0);
        assert_eq!((fill(&mut few, 1), fill(&mut few, 2), fill(&mut few, 0)), (1, 0, 1));
    }
}
