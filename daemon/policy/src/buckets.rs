//! Many rules in one list, each found by the rarest of its words.
//!
//! A rule goes into the bucket of that of its three marks which the fewest rules of the list have. A call has
//! a few marks in each column, so only a few buckets are opened, however long the list is; they are gone
//! through side by side, so that what comes out is in the order of the policy.

use crate::entry::{COLUMNS, Entry, Sets};
use crate::mark::{MARKS, WORDS};

/// Buckets that are gone through side by side. A call that needs more is better served by the whole list.
const MOST: usize = 24;

/// The buckets of one list.
#[derive(Clone, Debug)]
pub(crate) struct Buckets {
    columns: Box<[Column; COLUMNS]>,
    /// Where in `places` each bucket begins, and where the last one ends.
    begins: Vec<u32>,
    /// Positions in the list, by bucket, ascending in each.
    places: Vec<u32>,
}

/// The marks of one column that have a bucket.
#[derive(Clone, Copy, Debug)]
struct Column {
    has: [u64; WORDS],
    /// How many buckets come before the first of each word of bits.
    before: [u32; WORDS],
}

impl Buckets {
    pub(crate) fn new(list: &[Entry]) -> Self {
        let counts = counts(list);
        let rules_with = |key: &usize| counts.get(*key).copied().unwrap_or(u32::MAX);
        let rarest =
            |(place, entry): (u32, &Entry)| Some((entry.keys().into_iter().min_by_key(rules_with)?, place));
        let mut by_key: Vec<(usize, u32)> = (0..).zip(list).filter_map(rarest).collect();
        by_key.sort_unstable();

        let empty = Column { has: [0; WORDS], before: [0; WORDS] };
        let mut columns = Box::new([empty; COLUMNS]);
        let mut begins = Vec::new();
        let words = columns.iter_mut().flat_map(|column| column.has.iter_mut().zip(&mut column.before));
        let mut rest = (0_u32..).zip(&by_key).peekable();
        for (at, (has, before)) in words.enumerate() {
            *before = u32::try_from(begins.len()).unwrap_or(u32::MAX);
            while let Some((begin, (key, _))) = rest.next_if(|(_, (key, _))| key / 64 == at) {
                if *has & (1 << (key % 64)) == 0 {
                    begins.push(begin);
                }
                *has |= 1 << (key % 64);
            }
        }
        begins.push(u32::try_from(by_key.len()).unwrap_or(u32::MAX));
        begins.shrink_to_fit();
        Self { columns, begins, places: by_key.into_iter().map(|(_, place)| place).collect() }
    }

    /// The entries of the list that may match, in order. `None`: they are in too many buckets.
    pub(crate) fn open<'a, 's>(&'a self, list: &'a [Entry], sets: &'s Sets) -> Option<Opened<'a, 's>> {
        let mut opened = Opened { list, sets, heads: [Head::default(); MOST], used: 0 };
        for (column, marks) in self.columns.iter().zip(sets.columns()) {
            for ((has, before), marks) in column.has.iter().zip(&column.before).zip(marks.words()) {
                let mut both = has & marks;
                while both != 0 {
                    let lower = (both & both.wrapping_neg()).wrapping_sub(1);
                    both &= both.wrapping_sub(1);
                    opened.add(self.bucket(before.saturating_add((has & lower).count_ones())))?;
                }
            }
        }
        Some(opened)
    }

    fn bucket(&self, number: u32) -> &[u32] {
        let bound = |number: u32| self.begins.get(usize::try_from(number).ok()?).copied();
        let range = bound(number).zip(bound(number.saturating_add(1)));
        range.and_then(|(from, to)| self.places.get(from as usize..to as usize)).unwrap_or_default()
    }
}

/// How many entries of the list have each mark in each column.
fn counts(list: &[Entry]) -> Vec<u32> {
    let mut counts = vec![0_u32; COLUMNS * MARKS];
    for key in list.iter().flat_map(Entry::keys) {
        if let Some(count) = counts.get_mut(key) {
            *count = count.saturating_add(1);
        }
    }
    counts
}

/// Buckets side by side.
pub(crate) struct Opened<'a, 's> {
    list: &'a [Entry],
    sets: &'s Sets,
    heads: [Head<'a>; MOST],
    used: usize,
}

/// The next entry of a bucket that may match, and what is behind it.
#[derive(Clone, Copy, Default)]
struct Head<'a> {
    entry: Option<&'a Entry>,
    rest: &'a [u32],
}

impl<'a> Opened<'a, '_> {
    fn add(&mut self, bucket: &'a [u32]) -> Option<()> {
        let mut head = Head { entry: None, rest: bucket };
        head.go_on(self.list, self.sets);
        if head.entry.is_some() {
            *self.heads.get_mut(self.used)? = head;
            self.used = self.used.saturating_add(1);
        }
        Some(())
    }
}

impl<'a> Iterator for Opened<'a, '_> {
    type Item = &'a Entry;

    fn next(&mut self) -> Option<&'a Entry> {
        let heads = self.heads.get_mut(..self.used)?.iter_mut().filter(|head| head.entry.is_some());
        let first = heads.min_by_key(|head| head.entry.map(|entry| entry.number))?;
        let entry = first.entry;
        first.go_on(self.list, self.sets);
        entry
    }
}

impl<'a> Head<'a> {
    fn go_on(&mut self, list: &'a [Entry], sets: &Sets) {
        self.entry = None;
        while let Some((place, rest)) = self.rest.split_first() {
            self.rest = rest;
            self.entry = list.get(*place as usize).filter(|entry| sets.may_match(entry));
            if self.entry.is_some() {
                return;
            }
        }
    }
}
