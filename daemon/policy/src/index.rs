//! Finding the rules for one service without looking at those of others.

use std::collections::HashMap;
use std::sync::Arc;

use crate::rule::Rule;

/// Numbers of rules by service, in the order of the policy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    by_service: HashMap<Arc<str>, Vec<u32>>,
    /// Rules for every service.
    general: Vec<u32>,
}

impl Index {
    pub(crate) fn new(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        for (number, rule) in (0u32..).zip(rules) {
            match &rule.service {
                Some(service) => index.by_service.entry(service.clone()).or_default().push(number),
                None => index.general.push(number),
            }
        }
        index
    }

    /// The rules that speak about this service, first to last and last to first.
    pub(crate) fn rules_for<'a>(&'a self, rules: &'a [Rule], service: &str) -> RulesFor<'a> {
        let own = self.by_service.get(service).map(Vec::as_slice).unwrap_or_default();
        RulesFor { rules, own, general: &self.general }
    }
}

/// Merges two ascending lists of rule numbers, from either end.
#[derive(Clone, Debug)]
pub(crate) struct RulesFor<'a> {
    rules: &'a [Rule],
    own: &'a [u32],
    general: &'a [u32],
}

impl<'a> RulesFor<'a> {
    fn rule(&self, number: u32) -> Option<&'a Rule> {
        self.rules.get(usize::try_from(number).ok()?)
    }
}

impl<'a> Iterator for RulesFor<'a> {
    type Item = &'a Rule;

    fn next(&mut self) -> Option<&'a Rule> {
        let own_first = match (self.own.first(), self.general.first()) {
            (Some(own), Some(general)) => own < general,
            (own, _) => own.is_some(),
        };
        let list = if own_first { &mut self.own } else { &mut self.general };
        let (&number, rest) = list.split_first()?;
        *list = rest;
        self.rule(number)
    }
}

impl DoubleEndedIterator for RulesFor<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let own_last = match (self.own.last(), self.general.last()) {
            (Some(own), Some(general)) => own > general,
            (own, _) => own.is_some(),
        };
        let list = if own_last { &mut self.own } else { &mut self.general };
        let (&number, rest) = list.split_last()?;
        *list = rest;
        self.rule(number)
    }
}
