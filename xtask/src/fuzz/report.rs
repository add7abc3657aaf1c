//! What libFuzzer says at its end.

use std::fmt;

/// How many lines of a failed run are shown.
const SHOWN: usize = 40;

/// The figures of one run.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Report {
    runs: u64,
    /// Files that together reach all that was reached.
    inputs: u64,
    /// Edges between blocks of code that were reached.
    edges: u64,
    seconds: u64,
}

impl Report {
    /// Reads `#RUNS DONE cov: EDGES ft: … corp: INPUTS/SIZE …` and `Done RUNS runs in SECONDS second(s)`.
    pub(super) fn read(text: &str) -> Option<Self> {
        let done = text.lines().rev().find(|line| line.starts_with('#') && line.contains("\tDONE "))?;
        let end = text.lines().rev().find_map(|line| line.strip_prefix("Done "))?;
        let after = |key: &str| done.split_once(key).and_then(|(_, rest)| number(rest));
        let (runs, rest) = end.split_once(" runs in ")?;
        Some(Self {
            runs: number(runs)?,
            inputs: after("corp: ").unwrap_or(0),
            edges: after("cov: ").unwrap_or(0),
            seconds: number(rest)?,
        })
    }
}

/// The number at the beginning of a text.
fn number(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.get(..end)?.parse().ok()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, inputs, edges, seconds } = self;
        write!(f, "{runs:>11} runs {inputs:>6} inputs {edges:>6} edges {seconds:>6} s")
    }
}

/// The last lines of a run that failed.
pub(super) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(SHOWN)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_figures_count() {
        let text = "#3\tINITED cov: 9 ft: 9 corp: 1/1b exec/s: 0 rss: 40Mb\n\
                    #52011\tDONE   cov: 117 ft: 321 corp: 61/8Kb lim: 4096 exec/s: 8668 rss: 61Mb\n\
                    Done 52011 runs in 6 second(s)\nstat::number_of_executed_units: 52011\n";
        let report = Report { runs: 52_011, inputs: 61, edges: 117, seconds: 6 };
        assert_eq!(Report::read(text), Some(report));
        assert_eq!(Report::read("==1==ERROR: AddressSanitizer"), None);
    }
}
