//! A map for few entries: a sorted list.
//!
//! The standard library's tree takes some 8 KiB of code for each pair of types, which is much in a program that every
//! call forks; a list takes a tenth of that. An insertion or a removal moves all entries behind it, so this is for
//! maps that some limit keeps short.

use alloc::vec::Vec;
use core::borrow::Borrow;

/// A sorted map with at most one value of each key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmallMap<K, V> {
    entries: Vec<(K, V)>,
}

impl<K, V> Default for SmallMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> SmallMap<K, V> {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.entries.iter().map(|(key, _)| key)
    }

    /// All values, in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.iter().map(|(_, value)| value)
    }

    /// All values, in the order of their keys, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.iter_mut().map(|(_, value)| value)
    }

    /// Keeps the entries that the function wants.
    pub fn retain(&mut self, mut wanted: impl FnMut(&K, &mut V) -> bool) {
        self.entries.retain_mut(|(key, value)| wanted(key, value));
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

impl<K: Ord, V> SmallMap<K, V> {
    fn place<Q: Ord + ?Sized>(&self, key: &Q) -> Result<usize, usize>
    where
        K: Borrow<Q>,
    {
        self.entries.binary_search_by(|(known, _)| known.borrow().cmp(key))
    }

    /// The value of a key.
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.entries.get(self.place(key).ok()?).map(|(_, value)| value)
    }

    /// The value of a key, to be changed.
    #[must_use]
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let place = self.place(key).ok()?;
        self.entries.get_mut(place).map(|(_, value)| value)
    }

    /// Whether a key has a value.
    #[must_use]
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.place(key).is_ok()
    }

    /// Gives a key a value. Returns the value that it had before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.place(&key) {
            Ok(place) => self.entries.get_mut(place).map(|(_, old)| core::mem::replace(old, value)),
            Err(place) => {
                self.entries.insert(place, (key, value));
                None
            }
        }
    }

    /// Removes a key. Returns its value.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let place = self.place(key).ok()?;
        Some(self.entries.remove(place).1)
    }
}

impl<K: Ord, V: Default> SmallMap<K, V> {
    /// Lets a function change the value of a key, which is the default one if there was none. Returns the function's
    /// result.
    pub fn change<T>(&mut self, key: K, change: impl FnOnce(&mut V) -> T) -> T {
        match self.place(&key) {
            Ok(place) => match self.entries.get_mut(place) {
                Some((_, value)) => change(value),
                // Not reached: the key was just found there.
                None => change(&mut V::default()),
            },
            Err(place) => {
                let mut value = V::default();
                let result = change(&mut value);
                self.entries.insert(place, (key, value));
                result
            }
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn it_is_a_map() {
        use proptest::prelude::*;
        let step = (0_u8..5, 0_u8..8, any::<u16>());
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let agree = |steps: Vec<(u8, u8, u16)>| {
            let (mut ours, mut theirs) = (SmallMap::new(), BTreeMap::new());
            for (what, key, value) in steps {
                match what {
                    0 => prop_assert_eq!(ours.insert(key, value), theirs.insert(key, value)),
                    1 => prop_assert_eq!(ours.remove(&key), theirs.remove(&key)),
                    2 => {
                        ours.change(key, |old| *old = old.wrapping_add(value));
                        let old = theirs.entry(key).or_default();
                        *old = old.wrapping_add(value);
                    }
                    3 => {
                        ours.retain(|key, one| (u16::from(*key) + *one) % 3 != 0);
                        theirs.retain(|key, one| (u16::from(*key) + *one) % 3 != 0);
                    }
                    _ => prop_assert_eq!(ours.get_mut(&key), theirs.get_mut(&key)),
                }
                prop_assert_eq!(ours.contains_key(&key), theirs.contains_key(&key));
                prop_assert!(ours.keys().eq(theirs.keys()) && ours.values().eq(theirs.values()));
                prop_assert_eq!((ours.len(), ours.is_empty()), (theirs.len(), theirs.is_empty()));
            }
            Ok(())
        };
        let value = |steps: Vec<(u8, u8, u16)>| {
            let small = steps.into_iter().map(|(what, key, value)| (what, key, value % 100)).collect();
            agree(small)
        };
        runner.run(&prop::collection::vec(step, 0..40), value).expect("they agree");
    }
}
