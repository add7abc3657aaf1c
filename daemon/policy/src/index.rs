//! Finding the rules for one call: by service, then past those whose other columns cannot match.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::mark::{Mark, Marks};
use crate::request::Call;
use crate::rule::Rule;

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
    argument: Mark,
    source: Mark,
    target: Mark,
}

impl Index {
    pub(crate) fn new(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        for (number, rule) in (0..).zip(rules) {
            let entry = Entry {
                number,
                argument: Mark::of_argument(rule.argument.as_deref()),
                source: Mark::of_token(&rule.source),
                target: Mark::of_token(&rule.target),
            };
            let list = match &rule.service {
                Some(service) => index.by_service.entry(service.clone()).or_default(),
                None => &mut index.general,
            };
            list.push(entry);
        }
        index.by_service.values_mut().chain([&mut index.general]).for_each(Vec::shrink_to_fit);
        index
    }

    /// All rules for this service.
    pub(crate) fn for_service<'a>(
        &'a self,
        rules: &'a [Rule],
        service: &str,
    ) -> impl Iterator<Item = &'a Rule> {
        self.entries(service, |_| true).filter_map(|entry| entry.rule(rules))
    }

    /// The rules for this call, without most of those that do not match it.
    pub(crate) fn for_call<'a>(
        &'a self,
        rules: &'a [Rule],
        call: &Call<'_>,
    ) -> impl Iterator<Item = &'a Rule> {
        let (arguments, sources) = (Marks::of_argument(call), Marks::of_source(call));
        let targets = Marks::of_target(call);
        let may_match = move |entry: &Entry| {
            sources.contains(entry.source)
                && targets.contains(entry.target)
                && arguments.contains(entry.argument)
        };
        self.entries(call.service, may_match).filter_map(|entry| entry.rule(rules))
    }

    /// The rules for service, argument and source of this call, of those with one target (or `target=`) only
    /// the first.
    pub(crate) fn first_for_each_target<'a>(&self, rules: &'a [Rule], call: &Call<'_>) -> Vec<&'a Rule> {
        let (arguments, sources) = (Marks::of_argument(call), Marks::of_source(call));
        let may_match = |entry: &Entry| sources.contains(entry.source) && arguments.contains(entry.argument);
        let mut seen = HashSet::new();
        self.entries(call.service, may_match)
            .filter_map(|entry| entry.rule(rules))
            .filter(|rule| rule.matches_but_target(call).is_ok())
            .filter(|rule| seen.insert(rule.action.target.as_ref().unwrap_or(&rule.target)))
            .collect()
    }

    /// The wanted entries for a service, merged with the general ones.
    fn entries<'a>(
        &'a self,
        service: &str,
        wanted: impl Fn(&Entry) -> bool,
    ) -> impl Iterator<Item = &'a Entry> {
        let own = self.by_service.get(service).map(Vec::as_slice).unwrap_or_default();
        let (mut own, mut general) = (own.iter(), self.general.iter());
        let mut next = (own.find(|entry| wanted(entry)), general.find(|entry| wanted(entry)));
        std::iter::from_fn(move || match next {
            (Some(first), other) if other.is_none_or(|other| first.number < other.number) => {
                next.0 = own.find(|entry| wanted(entry));
                Some(first)
            }
            (_, first) => {
                next.1 = general.find(|entry| wanted(entry));
                first
            }
        })
    }
}

impl Entry {
    fn rule<'a>(&self, rules: &'a [Rule]) -> Option<&'a Rule> {
        rules.get(usize::try_from(self.number).ok()?)
    }
}
