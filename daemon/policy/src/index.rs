//! Finding the rules for one call: by service, then past those whose other columns cannot match.

use std::collections::HashMap;
use std::sync::Arc;

use crate::request::Call;
use crate::rule::Rule;
use crate::vocabulary::{ANY, Id, Vocabulary, Words};

/// Rules by service, always in the order of the policy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    by_service: HashMap<Arc<str>, Vec<Entry>>,
    /// Rules for every service.
    general: Vec<Entry>,
    vocabulary: Vocabulary,
}

/// A rule's number, with enough of its columns to pass it by without touching the rule.
#[derive(Clone, Copy, Debug)]
struct Entry {
    number: u32,
    argument: Id,
    source: Id,
    target: Id,
    /// The target column, or the `target=` that replaces it among the choices.
    offer: Id,
}

impl Index {
    pub(crate) fn new(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        for (number, rule) in (0..).zip(rules) {
            let words = &mut index.vocabulary;
            let target = words.token(&rule.target);
            let entry = Entry {
                number,
                argument: words.argument(rule.argument.as_ref()),
                source: words.token(&rule.source),
                target,
                offer: rule.action.target.as_ref().map_or(target, |token| words.token(token)),
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
        let argument = self.vocabulary.argument_of(call);
        let (sources, targets) = (self.vocabulary.sources(call), self.vocabulary.targets(call));
        let may_match = move |entry: &Entry| {
            entry.is_for(argument) && sources.contains(entry.source) && targets.contains(entry.target)
        };
        self.entries(call.service, may_match).filter_map(|entry| entry.rule(rules))
    }

    /// The rules for service and source of this call, the first one for each target (or `target=`) of
    /// those that are really for them.
    pub(crate) fn first_for_each_target<'a>(&self, rules: &'a [Rule], call: &Call<'_>) -> Vec<&'a Rule> {
        let argument = self.vocabulary.argument_of(call);
        let sources = self.vocabulary.sources(call);
        let wanted = |entry: &Entry| entry.is_for(argument) && sources.contains(entry.source);
        let mut seen = Words::of(&self.vocabulary);
        let mut first = Vec::new();
        for entry in self.entries(call.service, wanted) {
            if !seen.contains(entry.offer)
                && let Some(rule) = entry.rule(rules)
                && rule.matches_but_target(call).is_ok()
            {
                seen.insert(entry.offer);
                first.push(rule);
            }
        }
        first
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
    fn is_for(&self, argument: Id) -> bool {
        self.argument == ANY || self.argument == argument
    }

    fn rule<'a>(&self, rules: &'a [Rule]) -> Option<&'a Rule> {
        rules.get(usize::try_from(self.number).ok()?)
    }
}
