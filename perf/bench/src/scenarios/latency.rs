//! How long a byte takes there and back inside a call.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::super::process::Running;
use super::super::report::Reports;
use super::super::roles::Role;
use super::super::scenario::{Case, Metric, Sample, Scenario};
use super::super::settings::Settings;
use super::super::stage::Stage;
use super::super::stats::Durations;
use cli::failure::Failure;

/// What is shown of the distribution.
const QUANTILES: [(Metric, f64); 5] = [
    (Metric::lower("p50", "µs"), 0.5),
    (Metric::lower("p10", "µs"), 0.1),
    (Metric::lower("p90", "µs"), 0.9),
    (Metric::lower("p99", "µs"), 0.99),
    (Metric::lower("p99.9", "µs"), 0.999),
];

const DIRECT: &str = "two pipes";

/// Rounds before the first that counts.
const WARM_UP: u32 = 100;

/// The scenario.
pub(in super::super) struct Latency;

impl Scenario for Latency {
    fn name(&self) -> &'static str {
        "latency"
    }

    fn title(&self) -> &'static str {
        "one byte to the service and back, inside a call"
    }

    fn cases(&self, settings: &Settings) -> Vec<Box<dyn Case>> {
        let rounds = settings.rounds;
        vec![
            Box::new(PingPong { rounds, through_call: false }),
            Box::new(PingPong { rounds, through_call: true }),
        ]
    }
}

struct PingPong {
    rounds: u32,
    through_call: bool,
}

impl Case for PingPong {
    fn label(&self) -> String {
        if self.through_call { "through a call" } else { DIRECT }.to_owned()
    }

    fn yardstick(&self) -> Option<String> {
        self.through_call.then(|| DIRECT.to_owned())
    }

    fn is_yardstick(&self) -> bool {
        !self.through_call
    }

    fn run(&self, stage: &Stage) -> Result<Vec<Sample>, Failure> {
        let command =
            if self.through_call { stage.call_role(None, Role::Echo)? } else { stage.role(Role::Echo)? };
        let durations = play(command, self.rounds)?;
        Ok(QUANTILES.map(|(metric, part)| (metric, durations.quantile(part) * 1e6)).into())
    }
}

/// Plays with an echo until its end.
fn play(mut command: Command, rounds: u32) -> Result<Durations, Failure> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut echo = Running::start(&mut command, "an echo")?;
    let child = echo.child();
    let (Some(mut there), Some(mut back), Some(errors)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(Failure::trouble("a process without streams"));
    };
    let mut reports = Reports::new(errors);
    reports.ready()?;
    let mut durations = Durations::new()?;
    for round in 0..rounds.saturating_add(WARM_UP) {
        let byte = round.to_le_bytes()[0];
        let mut answer = [0];
        let start = Instant::now();
        there
            .write_all(&[byte])
            .and_then(|()| back.read_exact(&mut answer))
            .map_err(Failure::during("an echo"))?;
        let duration = start.elapsed();
        if answer != [byte] {
            return Err(Failure::trouble("an echo returned another byte"));
        }
        if round >= WARM_UP {
            durations.add(duration);
        }
    }
    drop(there);
    echo.finish()?;
    Ok(durations)
}
