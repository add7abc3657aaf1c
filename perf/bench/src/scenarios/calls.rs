//! How long a call takes that has nothing to do, and how many there are in a second.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::super::process::silent;
use super::super::scenario::{Case, Metric, Sample, Scenario};
use super::super::settings::Settings;
use super::super::stage::Stage;
use super::super::stats::Durations;
use cli::failure::Failure;

const RATE: Metric = Metric::higher("rate", "calls/s");
const MEDIAN: Metric = Metric::lower("p50", "ms");
const TAIL: Metric = Metric::lower("p99", "ms");
const LOST: Metric = Metric::lower("lost", "calls");

/// A machine makes more calls than this in a second.
const SLOWEST: u32 = 50;

/// The scenario.
pub(in super::super) struct Calls;

impl Scenario for Calls {
    fn name(&self) -> &'static str {
        "calls"
    }

    fn title(&self) -> &'static str {
        "calls of a service that ends at once, N at a time"
    }

    fn cases(&self, settings: &Settings) -> Vec<Box<dyn Case>> {
        let mut cases: Vec<Box<dyn Case>> = Vec::new();
        // In another VM nobody listens on such a socket.
        let here = settings.transport.is_some();
        for kind in [Kind::Floor, Kind::Program].into_iter().chain(here.then_some(Kind::Socket)) {
            for &abreast in &settings.abreast {
                cases.push(Box::new(Storm { kind, abreast, calls: settings.calls.max(2 * abreast) }));
            }
        }
        cases
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The executables of a call without a call: client and service, one after the other.
    Floor,
    /// The service is a program.
    Program,
    /// The service is a socket that somebody listens on.
    Socket,
}

impl Kind {
    fn label(self, abreast: u32) -> String {
        let kind = match self {
            Self::Floor => "bare client and service",
            Self::Program => "call of a program",
            Self::Socket => "call of a socket",
        };
        format!("{kind}, {abreast}")
    }
}

struct Storm {
    kind: Kind,
    abreast: u32,
    calls: u32,
}

impl Case for Storm {
    fn label(&self) -> String {
        self.kind.label(self.abreast)
    }

    fn yardstick(&self) -> Option<String> {
        (self.kind == Kind::Program).then(|| Kind::Floor.label(self.abreast))
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(15 + u64::from(self.calls / SLOWEST))
    }

    fn run(&self, stage: &Stage) -> Result<Vec<Sample>, Failure> {
        let errors = tempfile::tempfile().map_err(Failure::during("a temporary file"))?;
        let (durations, elapsed) = self.storm(stage, &errors)?;
        let lost = u64::from(self.calls).saturating_sub(durations.count());
        if lost > 0 && !stage.is_compared() {
            let failure = Failure::trouble(format!("{lost} of {} calls are lost", self.calls));
            let mut failure = with_words(failure, errors);
            failure.message.push_str(&stage.warnings());
            return Err(failure);
        }
        Ok(vec![
            (RATE, durations.count() as f64 / elapsed.as_secs_f64()),
            (MEDIAN, durations.quantile(0.5) * 1e3),
            (TAIL, durations.quantile(0.99) * 1e3),
            (LOST, lost as f64),
        ])
    }
}

impl Storm {
    /// Durations of the calls that did not fail, and of all together.
    fn storm(&self, stage: &Stage, errors: &File) -> Result<(Durations, Duration), Failure> {
        let callers: Vec<Caller> =
            (0..self.abreast).map(|_| Caller::new(self.kind, stage, errors)).collect::<Result<_, _>>()?;
        let next = AtomicU32::new(0);
        let start = Instant::now();
        let done: Vec<_> = thread::scope(|scope| {
            let caller = |caller: Caller| scope.spawn(|| caller.work(&next, self.calls));
            let threads: Vec<_> = callers.into_iter().map(caller).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(panicked()))).collect()
        });
        let elapsed = start.elapsed();
        let mut durations = Durations::new()?;
        for part in done {
            durations.merge(&part?)?;
        }
        Ok((durations, elapsed))
    }
}

fn panicked() -> Failure {
    Failure::trouble("a caller panicked")
}

/// Adds what the failed programs said.
fn with_words(mut failure: Failure, mut errors: File) -> Failure {
    use std::io::Seek;
    let mut said = String::new();
    if errors.rewind().is_ok() {
        let _ = errors.take(4096).read_to_string(&mut said);
    }
    failure.message = format!("{}\n{}", failure.message, said.trim());
    failure
}

/// Makes one call after the other.
struct Caller {
    commands: Vec<Command>,
    /// The bare client has nothing to do and says so.
    may_fail: bool,
    errors: File,
}

impl Caller {
    fn new(kind: Kind, stage: &Stage, errors: &File) -> Result<Self, Failure> {
        let mut commands = match kind {
            Kind::Floor => vec![stage.idle_client()?, stage.bare_true()?],
            Kind::Program => vec![stage.call_true()?],
            Kind::Socket => vec![stage.call_socket()?],
        };
        for command in &mut commands {
            silent(command);
            if kind != Kind::Floor {
                let errors = errors.try_clone().map_err(Failure::during("a temporary file"))?;
                command.stderr(Stdio::from(errors));
            }
        }
        let errors = errors.try_clone().map_err(Failure::during("a temporary file"))?;
        Ok(Self { commands, may_fail: kind == Kind::Floor, errors })
    }

    fn work(mut self, next: &AtomicU32, calls: u32) -> Result<Durations, Failure> {
        let mut durations = Durations::new()?;
        while next.fetch_add(1, Ordering::Relaxed) < calls {
            let start = Instant::now();
            let (mut failed, mut last) = (false, String::new());
            for command in &mut self.commands {
                let ended = command.spawn().and_then(|mut child| child.wait());
                let status = ended.map_err(Failure::during("a call"))?;
                failed |= !status.success() && !self.may_fail;
                last = status.to_string();
            }
            if failed {
                // Where the programs' own words go.
                let _ = writeln!(self.errors, "it ended with {last}");
            } else {
                durations.add(start.elapsed());
            }
        }
        Ok(durations)
    }
}
