//! Finding the rules for one call: by service, then past those that name another qube.

use std::collections::HashMap;
use std::sync::Arc;

use crate::rule::Rule;
use crate::token::Token;

/// Rules by service, always in the order of the policy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    by_service: HashMap<Arc<str>, Vec<Entry>>,
    /// Rules for every service.
    general: Vec<Entry>,
}

/// A rule's number, with enough of its columns to pass it by without touching the rule.
#[derive(Clone, Copy, Debug)]
struct Entry {
    number: u32,
    source: Mark,
    target: Mark,
}

/// A hash of the name of a qube, or 0 for everything that is not just a name. Two marks that are
/// both not 0 and differ cannot mean one qube; any others may.
type Mark = u32;

impl Index {
    pub(crate) fn new(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        for (number, rule) in (0u32..).zip(rules) {
            let list = match &rule.service {
                Some(service) => index.by_service.entry(service.clone()).or_default(),
                None => &mut index.general,
            };
            list.push(Entry { number, source: mark_of(&rule.source), target: mark_of(&rule.target) });
        }
        index.by_service.values_mut().chain([&mut index.general]).for_each(Vec::shrink_to_fit);
        index
    }

    /// The rules for this service, from either end. Those that name another source or target than
    /// the given ones are left out where that is cheap to see; `None` leaves out nothing.
    pub(crate) fn rules_for<'a>(
        &'a self,
        rules: &'a [Rule],
        service: &str,
        source: Option<&str>,
        target: Option<&str>,
    ) -> RulesFor<'a> {
        let own = self.by_service.get(service).map(Vec::as_slice).unwrap_or_default();
        let mark = |name: Option<&str>| name.map(mark_of_name).unwrap_or_default();
        RulesFor { rules, own, general: &self.general, source: mark(source), target: mark(target) }
    }
}

fn mark_of(token: &Token) -> Mark {
    match token {
        Token::Name(name) => mark_of_name(name),
        _ => 0,
    }
}

/// A `uuid:…` may mean any name.
fn mark_of_name(name: &str) -> Mark {
    if name.starts_with("uuid:") {
        return 0;
    }
    // FNV-1a; a collision costs a look at a rule that does not match, nothing else.
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.max(1)
}

fn differ(rule: Mark, call: Mark) -> bool {
    rule != call && rule != 0 && call != 0
}

/// Merges two ascending lists of rules, from either end.
#[derive(Clone, Debug)]
pub(crate) struct RulesFor<'a> {
    rules: &'a [Rule],
    own: &'a [Entry],
    general: &'a [Entry],
    source: Mark,
    target: Mark,
}

impl<'a> RulesFor<'a> {
    fn may_match(&self, entry: &Entry) -> bool {
        !differ(entry.source, self.source) && !differ(entry.target, self.target)
    }

    fn rule(&self, entry: &Entry) -> Option<&'a Rule> {
        self.rules.get(usize::try_from(entry.number).ok()?)
    }
}

impl<'a> Iterator for RulesFor<'a> {
    type Item = &'a Rule;

    fn next(&mut self) -> Option<&'a Rule> {
        loop {
            let own_first = match (self.own.first(), self.general.first()) {
                (Some(own), Some(general)) => own.number < general.number,
                (own, _) => own.is_some(),
            };
            let list = if own_first { &mut self.own } else { &mut self.general };
            let (entry, rest) = list.split_first()?;
            *list = rest;
            if self.may_match(entry) {
                return self.rule(entry);
            }
        }
    }
}

impl DoubleEndedIterator for RulesFor<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        loop {
            let own_last = match (self.own.last(), self.general.last()) {
                (Some(own), Some(general)) => own.number > general.number,
                (own, _) => own.is_some(),
            };
            let list = if own_last { &mut self.own } else { &mut self.general };
            let (entry, rest) = list.split_last()?;
            *list = rest;
            if self.may_match(entry) {
                return self.rule(entry);
            }
        }
    }
}
