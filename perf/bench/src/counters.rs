//! What a call's two processes count: system calls, sleeps, doorbells, bytes that they copied.
//!
//! The pump says it in its log, a line per call, if it is asked for. Programs that say nothing have no counters.

use super::scenario::{Metric, Sample};

/// What the log is to show: [`cli::logging::VARIABLE`].
pub(super) const FILTER: &str = "warn,engine::pump=debug";

/// Begins what the pump says.
const LINE: &str = "cost:";

const CLIENT: &str = "client/MiB";
const AGENT: &str = "agent/MiB";

/// What is shown of a client's and of an agent's counters, for each MiB.
const SHOWN: [(&str, Metric, Metric); 4] = [
    ("syscalls=", Metric::lower("syscalls", CLIENT), Metric::lower("syscalls", AGENT)),
    ("sleeps=", Metric::lower("sleeps", CLIENT), Metric::lower("sleeps", AGENT)),
    ("rings=", Metric::lower("doorbells", CLIENT), Metric::lower("doorbells", AGENT)),
    ("copied=", Metric::lower("bytes copied", CLIENT), Metric::lower("bytes copied", AGENT)),
];

/// The samples in what the client and the agent have said during a transfer of this many bytes.
pub(super) fn samples(client: &str, agent: &str, bytes: u64) -> Vec<Sample> {
    let mib = bytes as f64 / f64::from(1 << 20);
    let of = |said: &str, name: &str| Some(counter(said, name)? as f64 / mib);
    let shown = SHOWN
        .into_iter()
        .flat_map(|(name, ours, theirs)| [(ours, of(client, name)), (theirs, of(agent, name))]);
    shown.filter_map(|(metric, value)| Some((metric, value?))).collect()
}

fn counter(said: &str, name: &str) -> Option<u64> {
    let words = said.lines().rev().find_map(|line| line.split_once(LINE))?.1;
    words.split_ascii_whitespace().find_map(|word| word.strip_prefix(name))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts() {
        let said =
            "DEBUG cost: syscalls=1 sleeps=2\nhello\nDEBUG cost: syscalls=30 sleeps=4 rings=5 wakes=6\nbye\n";
        let samples = samples(said, "nothing", 2 << 20);
        let named: Vec<_> =
            samples.iter().map(|(metric, value)| (metric.name, metric.unit, *value)).collect();
        assert_eq!(named, [("syscalls", CLIENT, 15.0), ("sleeps", CLIENT, 2.0), ("doorbells", CLIENT, 2.5)]);
    }
}
