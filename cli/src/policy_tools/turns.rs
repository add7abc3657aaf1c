//! A queue in which sources take turns: who puts in much waits behind its own.

use std::collections::{BTreeMap, VecDeque};

/// Things of several sources that wait.
#[derive(Debug)]
pub(super) struct Turns<T> {
    waiting: BTreeMap<String, VecDeque<T>>,
    /// Every source that has something waiting, once; the next one first.
    order: VecDeque<String>,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), order: VecDeque::new() }
    }
}

impl<T> Turns<T> {
    /// Puts something of this source behind what that source has there already.
    pub(super) fn push(&mut self, source: &str, item: T) {
        if let Some(theirs) = self.waiting.get_mut(source) {
            return theirs.push_back(item);
        }
        self.waiting.insert(source.to_owned(), VecDeque::from([item]));
        self.order.push_back(source.to_owned());
    }

    /// What comes next, and whose it is; that source is last then.
    pub(super) fn pop(&mut self) -> Option<(String, T)> {
        let source = self.order.pop_front()?;
        let theirs = self.waiting.get_mut(&source)?;
        let item = theirs.pop_front()?;
        if theirs.is_empty() {
            self.waiting.remove(&source);
        } else {
            self.order.push_back(source.clone());
        }
        Some((source, item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_puts_in_much_waits_behind_its_own() {
        let mut turns = Turns::default();
        (0..3).for_each(|n| turns.push("flood", n));
        turns.push("work", 10);
        turns.push("vault", 20);
        turns.push("work", 11);
        assert_eq!(turns.pop(), Some(("flood".to_owned(), 0)));
        turns.push("late", 30);
        let rest: Vec<u32> = std::iter::from_fn(|| turns.pop()).map(|(_, item)| item).collect();
        assert_eq!(rest, [10, 20, 1, 30, 11, 2]);
        assert!(turns.order.is_empty() && turns.waiting.is_empty());
    }
}
