//! A rule in an index: its number, and what its columns can mean.

use crate::mark::{MARKS, Mark, Marks};
use crate::request::Call;
use crate::rule::Rule;

/// Columns that have a mark: argument, source and target.
pub(crate) const COLUMNS: usize = 3;

/// A rule's number, with enough of its columns to pass it by without touching the rule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) number: u32,
    marks: [Mark; COLUMNS],
}

/// The marks that a call may meet in each column.
pub(crate) struct Sets([Marks; COLUMNS]);

impl Entry {
    pub(crate) fn new(number: u32, rule: &Rule) -> Self {
        let argument = Mark::of_argument(rule.argument.as_deref());
        Self { number, marks: [argument, Mark::of_token(&rule.source), Mark::of_token(&rule.target)] }
    }

    /// Its marks, those of different columns told apart.
    pub(crate) fn keys(&self) -> [usize; COLUMNS] {
        let [argument, source, target] = self.marks.map(Mark::number);
        [argument, MARKS + source, 2 * MARKS + target]
    }

    pub(crate) fn rule<'a>(&self, rules: &'a [Rule]) -> Option<&'a Rule> {
        rules.get(usize::try_from(self.number).ok()?)
    }
}

impl Sets {
    pub(crate) fn of(call: &Call<'_>) -> Self {
        Self([Marks::of_argument(call), Marks::of_source(call), Marks::of_target(call)])
    }

    pub(crate) fn but_target(call: &Call<'_>) -> Self {
        Self([Marks::of_argument(call), Marks::of_source(call), Marks::all()])
    }

    pub(crate) fn columns(&self) -> &[Marks; COLUMNS] {
        &self.0
    }

    /// `false`: the rule cannot match.
    pub(crate) fn may_match(&self, entry: &Entry) -> bool {
        let ([arguments, sources, targets], [argument, source, target]) = (&self.0, entry.marks);
        sources.contains(source) && targets.contains(target) && arguments.contains(argument)
    }
}
