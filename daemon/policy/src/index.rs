//! Finding the rules for one call: by service, then past those whose other columns cannot match.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::buckets::{Buckets, Opened};
use crate::entry::{Entry, Sets};
use crate::request::Call;
use crate::rule::Rule;

/// A list that is shorter is looked through as fast as any bucket of it is found.
const LONG: usize = 64;

/// Rules by service, always in the order of the policy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    by_service: HashMap<Arc<str>, List>,
    /// Rules for every service.
    general: List,
}

/// Rules in their order.
#[derive(Clone, Debug, Default)]
struct List {
    entries: Vec<Entry>,
    /// If there are many.
    buckets: Option<Box<Buckets>>,
}

impl Index {
    pub(crate) fn new(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        for (number, rule) in (0..).zip(rules) {
            let list = match &rule.service {
                Some(service) => index.by_service.entry(service.clone()).or_default(),
                None => &mut index.general,
            };
            list.entries.push(Entry::new(number, rule));
        }
        index.by_service.values_mut().chain([&mut index.general]).for_each(List::finish);
        index
    }

    /// All rules for this service.
    pub(crate) fn for_service<'a>(
        &'a self,
        rules: &'a [Rule],
        service: &str,
    ) -> impl Iterator<Item = &'a Rule> {
        let [own, general] = self.lists(service).map(|list| list.entries.iter());
        merged(own, general).filter_map(|entry| entry.rule(rules))
    }

    /// The rules for this call, whose marks are `sets`, without most of those that do not match it.
    pub(crate) fn for_call<'a, 's>(
        &'a self,
        rules: &'a [Rule],
        call: &Call<'_>,
        sets: &'s Sets,
    ) -> impl Iterator<Item = &'a Rule> + use<'a, 's> {
        let [own, general] = self.lists(call.service).map(|list| list.for_call(sets));
        merged(own, general).filter_map(|entry| entry.rule(rules))
    }

    /// The rules for service, argument and source of this call, of those with one target (or `target=`) only
    /// the first.
    pub(crate) fn first_for_each_target<'a>(&'a self, rules: &'a [Rule], call: &Call<'_>) -> Vec<&'a Rule> {
        let sets = Sets::but_target(call);
        let mut seen = HashSet::new();
        self.for_call(rules, call, &sets)
            .filter(|rule| rule.matches_but_target(call).is_ok())
            .filter(|rule| seen.insert(rule.action.target.as_ref().unwrap_or(&rule.target)))
            .collect()
    }

    /// The rules for one service, and those for every service.
    fn lists(&self, service: &str) -> [&List; 2] {
        [self.by_service.get(service).unwrap_or(&NONE), &self.general]
    }
}

/// The rules for a service that no rule names.
static NONE: List = List { entries: Vec::new(), buckets: None };

/// Two lists as one, in the order of the policy.
fn merged<'a>(
    mut own: impl Iterator<Item = &'a Entry>,
    mut general: impl Iterator<Item = &'a Entry>,
) -> impl Iterator<Item = &'a Entry> {
    let mut next = (own.next(), general.next());
    std::iter::from_fn(move || match next {
        (Some(first), other) if other.is_none_or(|other| first.number < other.number) => {
            next.0 = own.next();
            Some(first)
        }
        (_, first) => {
            next.1 = general.next();
            first
        }
    })
}

impl List {
    /// To be called when all entries are there.
    fn finish(&mut self) {
        self.entries.shrink_to_fit();
        self.buckets = (self.entries.len() >= LONG).then(|| Box::new(Buckets::new(&self.entries)));
    }

    fn for_call<'a, 's>(&'a self, sets: &'s Sets) -> Found<'a, 's> {
        let opened = self.buckets.as_ref().and_then(|buckets| buckets.open(&self.entries, sets));
        Found { each: self.entries.iter(), sets, opened }
    }
}

/// The entries of a list that may match a call: by a look at each, else from its buckets.
struct Found<'a, 's> {
    each: std::slice::Iter<'a, Entry>,
    sets: &'s Sets,
    opened: Option<Opened<'a, 's>>,
}

impl<'a> Iterator for Found<'a, '_> {
    type Item = &'a Entry;

    fn next(&mut self) -> Option<&'a Entry> {
        match &mut self.opened {
            Some(opened) => opened.next(),
            None => self.each.find(|entry| self.sets.may_match(entry)),
        }
    }
}
