//! Where the time of a call goes: from the steps that the programs write into their logs ([`engine::step`]).
//!
//! Calls are made one after the other, so a step belongs to the call in whose time it was reached. What is shown is the
//! time between two steps, in the order in which a call waits for them; to write a step down costs some microseconds,
//! which are in the figures.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Seek};
use std::process::Stdio;

use engine::step::now;

use super::super::scenario::{Case, Metric, Sample, Scenario};
use super::super::settings::Settings;
use super::super::stage::Stage;
use super::super::stats::Summary;
use cli::failure::Failure;

/// The scenario's name.
pub(in super::super) const NAME: &str = "profile";

/// What the log is to show: [`cli::logging::VARIABLE`].
pub(in super::super) const FILTER: &str = "warn,step=trace";

/// Calls of one run.
const CALLS: u32 = 50;

/// Who reaches steps; the first four in the order of [`Stage::logs`].
const CALLERS_AGENT: usize = 0;
const CALLERS_DAEMON: usize = 1;
const TARGETS_DAEMON: usize = 2;
const AGENT: usize = 3;
const CLIENT: usize = 4;
const BENCH: usize = 5;

/// A step: who reached it, and its name.
type Step = (usize, &'static str);

const SPAWN: Step = (BENCH, "spawn");
const BEGINS: Step = (CLIENT, "begins");
const ASKS: Step = (CLIENT, "asks");
const REQUEST: Step = (CALLERS_AGENT, "request");
const POLICY: Step = (CALLERS_DAEMON, "policy asked");
const DECIDED: Step = (CALLERS_DAEMON, "policy has decided");
const TARGET: Step = (CALLERS_DAEMON, "target's daemon asked");
const PORT: Step = (TARGETS_DAEMON, "agent told");
const TOLD: Step = (AGENT, "told to start");
const PUMP: Step = (AGENT, "pump: begins");
const ANSWER: Step = (CALLERS_AGENT, "answer passed on");
const ALLOWED: Step = (CLIENT, "allowed");
const LISTENING: Step = (CLIENT, "data link: listening");
const FOUND: Step = (AGENT, "data link: found");
const LINKED: Step = (AGENT, "data link: HELLO");
const STARTED: Step = (AGENT, "pump: service started");
const ENDS: Step = (CLIENT, "ends");
const WAITED: Step = (BENCH, "waited");

/// What is shown: the time between two steps.
const SPANS: [(Metric, Step, Step); 18] = [
    (Metric::lower("the whole call", "µs"), SPAWN, WAITED),
    (Metric::lower("client: exec, linking, runtime", "µs"), SPAWN, BEGINS),
    (Metric::lower("client: command line", "µs"), BEGINS, ASKS),
    (Metric::lower("request at the caller's agent", "µs"), ASKS, REQUEST),
    (Metric::lower("request at the caller's daemon", "µs"), REQUEST, POLICY),
    (Metric::lower("policy", "µs"), POLICY, DECIDED),
    (Metric::lower("connecting to the target's daemon, its HELLO", "µs"), DECIDED, TARGET),
    (Metric::lower("target's daemon: a port", "µs"), TARGET, PORT),
    (Metric::lower("order at the target's agent", "µs"), PORT, TOLD),
    (Metric::lower("agent: fork", "µs"), TOLD, PUMP),
    (Metric::lower("data link: finding the client", "µs"), PUMP, FOUND),
    (Metric::lower("service: lookup, exec", "µs"), FOUND, STARTED),
    (Metric::lower("data link: rings, HELLO; the service runs already", "µs"), STARTED, LINKED),
    (Metric::lower("service: runs, ends; exit code at the client", "µs"), LINKED, ENDS),
    (Metric::lower("client: exit", "µs"), ENDS, WAITED),
    (Metric::lower("meanwhile: answer at the caller's agent", "µs"), PORT, ANSWER),
    (Metric::lower("meanwhile: answer at the client", "µs"), ANSWER, ALLOWED),
    (Metric::lower("meanwhile: client makes rings, listens", "µs"), ALLOWED, LISTENING),
];

/// The scenario.
pub(in super::super) struct Profile;

impl Scenario for Profile {
    fn name(&self) -> &'static str {
        NAME
    }

    fn title(&self) -> &'static str {
        "where the time of a call goes: medians of one call after the other"
    }

    fn cases(&self, _: &Settings) -> Vec<Box<dyn Case>> {
        vec![Box::new(Steps)]
    }
}

struct Steps;

impl Case for Steps {
    fn label(&self) -> String {
        "call of a program".to_owned()
    }

    fn run(&self, stage: &Stage) -> Result<Vec<Sample>, Failure> {
        let mut said = tempfile::tempfile().map_err(Failure::during("a temporary file"))?;
        let mut calls = Vec::new();
        for _ in 0..CALLS {
            let mut command = stage.call_true()?;
            let stderr = said.try_clone().map_err(Failure::during("a temporary file"))?;
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
            let spawned = now();
            let status = command.status().map_err(Failure::during("a call"))?;
            if !status.success() {
                return Err(Failure::trouble(format!("a call failed: {status}")));
            }
            calls.push(Times::from([(SPAWN, spawned), (WAITED, now())]));
        }
        let logs = stage.logs().ok_or_else(|| Failure::trouble("the programs' logs are not in sight"))?;
        for (who, log) in logs.iter().enumerate() {
            let text = fs::read_to_string(log).map_err(Failure::during(log.display()))?;
            sort(&mut calls, who, &text);
        }
        let mut text = String::new();
        said.rewind()
            .and_then(|()| said.read_to_string(&mut text))
            .map_err(Failure::during("the client's log"))?;
        sort(&mut calls, CLIENT, &text);
        samples(&calls)
    }
}

/// When a call reached its steps, in nanoseconds of the monotonic clock.
type Times = HashMap<Step, u64>;

/// Gives every step in a log to the call in whose time it was reached. Where a call reaches one several times, the
/// first counts.
fn sort(calls: &mut [Times], who: usize, log: &str) {
    for (name, at) in log.lines().filter_map(step) {
        let mut known = SPANS.iter().flat_map(|(_, from, to)| [*from, *to]);
        let Some(known) = known.find(|known| *known == (who, name)) else { continue };
        let of =
            calls.iter_mut().find(|times| times.get(&SPAWN) <= Some(&at) && times.get(&WAITED) >= Some(&at));
        if let Some(times) = of {
            times.entry(known).or_insert(at);
        }
    }
}

/// The step that a line of a log tells of, and its time.
fn step(line: &str) -> Option<(&str, u64)> {
    let (name, at) = line.split_once("step: ")?.1.rsplit_once(" at=")?;
    Some((name, at.trim().parse().ok()?))
}

/// The median of every span, in microseconds.
fn samples(calls: &[Times]) -> Result<Vec<Sample>, Failure> {
    let span = |(metric, from, to): &(Metric, Step, Step)| {
        let took = |times: &Times| Some((*times.get(to)? as f64 - *times.get(from)? as f64) / 1e3);
        let all: Vec<f64> = calls.iter().filter_map(took).collect();
        let median = Summary::of(&all).map(|summary| (*metric, summary.median.max(0.0)));
        median.ok_or_else(|| Failure::trouble(format!("nobody says when it reached: {}", metric.name)))
    };
    SPANS.iter().map(span).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_belong_to_the_call_in_whose_time_they_were_reached() {
        let call = |from, to| Times::from([(SPAWN, from), (WAITED, to)]);
        let mut calls = [call(100, 200), call(300, 400)];
        let log = "TRACE step: begins at=110\nelse\nTRACE step: ends at=250\nTRACE step: ends at=390\n";
        sort(&mut calls, CLIENT, log);
        assert_eq!(calls.each_ref().map(|times| times.get(&BEGINS)), [Some(&110), None]);
        assert_eq!(calls.each_ref().map(|times| times.get(&ENDS)), [None, Some(&390)]);
        sort(&mut calls, AGENT, "TRACE step: begins at=120\n");
        assert_eq!(calls[0].len(), 3);
        let missing = samples(&calls).unwrap_err().message;
        assert!(missing.contains("command line"), "{missing}");
    }
}
