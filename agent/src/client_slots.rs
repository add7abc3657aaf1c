//! How many programs of this VM may be connected, and who has how many connections.

use wire::small_map::SmallMap;

/// Connections in all, and a part of them that one user may have, so that there is room for the other users.
#[derive(Debug)]
pub(crate) struct ClientSlots {
    max: usize,
    share: usize,
    /// Users without a limit of their own: root, and the agent's user, who could do anything to the agent in any case.
    own: u32,
    taken: usize,
    by_user: SmallMap<u32, usize>,
    /// A refusal was logged already: only the first one is.
    refusing: bool,
}

impl ClientSlots {
    /// At most `max`, of which a user may have half; root and `own`, the agent's user, may have all.
    pub(crate) fn new(max: usize, own: u32) -> Self {
        Self { max, share: max.div_ceil(2), own, taken: 0, by_user: SmallMap::new(), refusing: false }
    }

    /// Whether this user may have another connection.
    pub(crate) fn are_free(&mut self, user: u32) -> bool {
        let theirs = self.by_user.get(&user).copied().unwrap_or_default();
        let full = self.taken >= self.max;
        let refused = full || (theirs >= self.share && user != 0 && user != self.own);
        if refused && !self.refusing {
            let taken = self.taken;
            match full {
                true => tracing::warn!("{taken} calls at once: further requests are refused"),
                false => {
                    tracing::warn!(
                        "{theirs} calls of user {user} at once: further ones of theirs are refused"
                    )
                }
            }
        }
        self.refusing = refused;
        !refused
    }

    /// A program of this user has connected.
    pub(crate) fn take(&mut self, user: u32) {
        self.taken = self.taken.saturating_add(1);
        self.by_user.change(user, |theirs| *theirs = theirs.saturating_add(1));
    }

    /// A program of this user is gone.
    pub(crate) fn give_back(&mut self, user: u32) {
        self.taken = self.taken.saturating_sub(1);
        if let Some(theirs) = self.by_user.get_mut(&user) {
            *theirs = theirs.saturating_sub(1);
            if *theirs == 0 {
                self.by_user.remove(&user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(slots: &mut ClientSlots, user: u32) -> usize {
        (0..100)
            .filter(|_| {
                slots.are_free(user) && {
                    slots.take(user);
                    true
                }
            })
            .count()
    }

    #[test]
    fn one_user_has_half_and_the_others_the_rest() {
        let mut slots = ClientSlots::new(9, 77);
        assert_eq!((fill(&mut slots, 1000), fill(&mut slots, 1001)), (5, 4));
        assert!(!slots.are_free(0) && !slots.are_free(77));
        slots.give_back(1000);
        assert!(slots.are_free(1000) && slots.are_free(1001));
        slots.give_back(1001);
        slots.give_back(1001);
        assert_eq!((fill(&mut slots, 1000), fill(&mut slots, 77)), (1, 2));
        for (user, count) in [(1000, 5), (1001, 2), (77, 2)] {
            (0..count).for_each(|_| slots.give_back(user));
        }
        assert!(slots.by_user.is_empty() && slots.taken == 0);
        assert_eq!(fill(&mut slots, 0), 9);
    }
}
