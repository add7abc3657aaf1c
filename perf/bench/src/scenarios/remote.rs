//! Calls to another machine, beside local ones and beside those of a script that starts `ssh` for each.
//!
//! What is compared is measured in turn within each run, so that both have had the same machine.

use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use super::super::machines::{By, Machines};
use super::super::roles::Load;
use super::super::scenario::{Case, Metric, Sample, Scenario};
use super::super::settings::Settings;
use super::super::stage::Stage;
use super::super::stats::Durations;
use super::throughput::GIB;
use cli::failure::Failure;

/// What the scenario is called.
pub(in super::super) const NAME: &str = "remote";

const P50: Metric = Metric::lower("p50", "ms");
const P99: Metric = Metric::lower("p99", "ms");
const LONGEST: Metric = Metric::lower("longest", "ms");
const LOCAL: Metric = Metric::lower("local p50", "ms");
const TO_LOCAL: Metric = Metric::lower("to local", "×");
const RATE: Metric = Metric::higher("rate", "calls/s");
const SSH_P50: Metric = Metric::lower("ssh -S p50", "ms");
const SSH_RATE: Metric = Metric::higher("ssh -S rate", "calls/s");
const TO_SSH_RATE: Metric = Metric::higher("to ssh -S", "×");
const LOST: Metric = Metric::lower("lost", "calls");
const SSH_LOST: Metric = Metric::lower("ssh -S lost", "calls");
const BYTES: Metric = Metric::higher("rate", "GiB/s");
const SSH_BYTES: Metric = Metric::higher("ssh -S rate", "GiB/s");
const ONE_BYTES: Metric = Metric::higher("one call", "GiB/s");
const TO_ONE: Metric = Metric::higher("to one", "×");
const IDLE_P99: Metric = Metric::lower("idle p99", "ms");
const TO_IDLE: Metric = Metric::lower("to idle", "×");

/// No machine makes fewer calls to another one in a second.
const SLOWEST: u64 = 4;
/// Nor moves less in a second.
const LEAST: u64 = 2 << 20;

/// The scenario.
pub(in super::super) struct Remote;

impl Scenario for Remote {
    fn name(&self) -> &'static str {
        NAME
    }

    fn title(&self) -> &'static str {
        "calls to another machine by sshd on the loopback, beside local ones and a script with ssh -S"
    }

    fn cases(&self, settings: &Settings) -> Vec<Box<dyn Case>> {
        let shared = Shared(Rc::default(), Rc::new(settings.clone()));
        let calls = settings.calls;
        let size = settings.size;
        let mut all = vec![What::Calls(1, calls), What::Calls(10, calls.max(20)), What::Bulk(size)];
        all.extend([What::Four(size), What::Beside(size.saturating_mul(4))]);
        all.extend([What::Line(calls.min(30)), What::LineBulk(size / 4)]);
        let crowds: &[u32] = if settings.quick { &[10] } else { &[100, 1000] };
        all.extend(crowds.iter().map(|count| What::Crowd(*count)));
        all.into_iter().map(|what| Box::new(One { what, shared: shared.clone() }) as Box<dyn Case>).collect()
    }
}

/// The machines of all cases: made by the first one.
#[derive(Clone)]
struct Shared(Rc<OnceLock<Machines>>, Rc<Settings>);

impl Shared {
    fn machines(&self) -> Result<&Machines, Failure> {
        if self.0.get().is_none() {
            let machines = Machines::start(&self.1)?;
            let _ = self.0.set(machines);
        }
        self.0.get().ok_or_else(|| Failure::trouble("no machines"))
    }
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// So many at a time, so many in all, each way in turn.
    Calls(u32, u32),
    /// So many at once, without a connection before.
    Crowd(u32),
    /// One transfer.
    Bulk(u64),
    /// Four at once beside one.
    Four(u64),
    /// Small calls while so much moves.
    Beside(u64),
    /// Calls over the slow line.
    Line(u32),
    /// Transfers over it.
    LineBulk(u64),
}

struct One {
    what: What,
    shared: Shared,
}

impl Case for One {
    fn label(&self) -> String {
        match self.what {
            What::Calls(abreast, _) => format!("calls, {abreast} at a time"),
            What::Crowd(count) => format!("{count} calls at once, no connection yet"),
            What::Bulk(_) => "bulk, one call".to_owned(),
            What::Four(_) => "bulk, four calls at once".to_owned(),
            What::Beside(bytes) => format!("small calls while {} MiB move", bytes >> 20),
            What::Line(_) => "a call over a line of 50 ms".to_owned(),
            What::LineBulk(_) => "bulk over a line of 50 ms, four calls at once".to_owned(),
        }
    }

    fn patience(&self) -> Duration {
        let seconds = match self.what {
            What::Calls(_, calls) | What::Line(calls) => 3 * u64::from(calls) / SLOWEST,
            What::Crowd(count) => u64::from(count) / SLOWEST,
            What::Bulk(bytes) | What::Four(bytes) | What::Beside(bytes) | What::LineBulk(bytes) => {
                5 * bytes / LEAST
            }
        };
        Duration::from_secs(60 + seconds)
    }

    fn rehearse(&self, _stage: &Stage) -> Result<(), Failure> {
        let machines = self.shared.machines()?;
        machines.be_slow(matches!(self.what, What::Line(_) | What::LineBulk(_)))?;
        // The first call makes the connection and the pool, the second one is the pool's first.
        for by in [By::Local, By::Remote, By::Remote, By::Script] {
            calls(machines, by, 1, 1)?.whole(1)?;
        }
        machines.send(By::Remote, Load { bytes: 1 << 20, checked: true }).map(drop)
    }

    fn run(&self, _stage: &Stage) -> Result<Vec<Sample>, Failure> {
        let machines = self.shared.machines()?;
        let done = match self.what {
            What::Calls(abreast, count) => in_turn(machines, abreast, count),
            What::Crowd(count) => crowd(machines, count),
            What::Bulk(bytes) => bulk(machines, bytes),
            What::Four(bytes) | What::LineBulk(bytes) => four(machines, bytes),
            What::Beside(bytes) => beside(machines, bytes),
            What::Line(count) => line(machines, count),
        };
        done.map_err(|mut failure| {
            failure.message.push_str(&machines.words());
            failure
        })
    }
}

/// Calls that were made.
struct Made {
    durations: Durations,
    elapsed: Duration,
    lost: u64,
    last: String,
}

impl Made {
    fn rate(&self) -> f64 {
        self.durations.count() as f64 / self.elapsed.as_secs_f64()
    }

    fn p50(&self) -> f64 {
        self.durations.quantile(0.5) * 1e3
    }

    fn p99(&self) -> f64 {
        self.durations.quantile(0.99) * 1e3
    }

    /// None may be lost.
    fn whole(self, wanted: u32) -> Result<Self, Failure> {
        match self.lost {
            0 => Ok(self),
            lost => Err(Failure::trouble(format!("{lost} of {wanted} calls are lost: {}", self.last))),
        }
    }
}

/// Makes `count` calls, `abreast` at a time.
fn calls(machines: &Machines, by: By, abreast: u32, count: u32) -> Result<Made, Failure> {
    let next = AtomicU32::new(0);
    let work = |mut command: Command| {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let (mut durations, mut lost, mut last) = (Durations::new()?, 0_u64, String::new());
        while next.fetch_add(1, Ordering::Relaxed) < count {
            let start = Instant::now();
            let ended = command.spawn().and_then(|mut child| child.wait());
            match ended {
                Ok(status) if status.success() => durations.add(start.elapsed()),
                Ok(status) => {
                    lost += 1;
                    last = status.to_string();
                }
                Err(error) => return Err(Failure::during("a call")(error)),
            }
        }
        Ok((durations, lost, last))
    };
    let commands: Vec<Command> = (0..abreast).map(|_| machines.call_true(by)).collect::<Result<_, _>>()?;
    let start = Instant::now();
    let parts: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = commands.into_iter().map(|command| scope.spawn(|| work(command))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(panicked()))).collect()
    });
    let elapsed = start.elapsed();
    let mut made = Made { durations: Durations::new()?, elapsed, lost: 0, last: String::new() };
    for part in parts {
        let (durations, lost, last) = part?;
        made.durations.merge(&durations)?;
        made.lost += lost;
        made.last = if last.is_empty() { made.last } else { last };
    }
    Ok(made)
}

fn panicked() -> Failure {
    Failure::trouble("a caller panicked")
}

fn in_turn(machines: &Machines, abreast: u32, count: u32) -> Result<Vec<Sample>, Failure> {
    let local = calls(machines, By::Local, abreast, count)?.whole(count)?;
    let remote = calls(machines, By::Remote, abreast, count)?.whole(count)?;
    let ssh = calls(machines, By::Script, abreast, count)?;
    Ok(vec![
        (P50, remote.p50()),
        (P99, remote.p99()),
        (LOCAL, local.p50()),
        (TO_LOCAL, remote.p50() / local.p50()),
        (SSH_P50, ssh.p50()),
        (RATE, remote.rate()),
        (SSH_RATE, ssh.rate()),
        (TO_SSH_RATE, remote.rate() / ssh.rate()),
        (SSH_LOST, ssh.lost as f64),
    ])
}

fn crowd(machines: &Machines, count: u32) -> Result<Vec<Sample>, Failure> {
    machines.close()?;
    let made = calls(machines, By::Remote, count, count)?.whole(count)?;
    Ok(vec![(RATE, made.rate()), (P50, made.p50()), (P99, made.p99()), (LOST, made.lost as f64)])
}

fn rate(machines: &Machines, by: By, bytes: u64) -> Result<f64, Failure> {
    let span = machines.send(by, Load { bytes, checked: false })?;
    Ok(bytes as f64 / GIB / (span.end.saturating_sub(span.start).max(1) as f64 / 1e9))
}

fn bulk(machines: &Machines, bytes: u64) -> Result<Vec<Sample>, Failure> {
    let (own, ssh) = (rate(machines, By::Remote, bytes)?, rate(machines, By::Script, bytes)?);
    Ok(vec![(BYTES, own), (SSH_BYTES, ssh), (TO_SSH_RATE, own / ssh)])
}

fn four(machines: &Machines, bytes: u64) -> Result<Vec<Sample>, Failure> {
    let one = rate(machines, By::Remote, bytes)?;
    let load = Load { bytes, checked: false };
    let spans: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| machines.send(By::Remote, load))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(panicked()))).collect()
    });
    let spans: Vec<_> = spans.into_iter().collect::<Result<_, _>>()?;
    let start = spans.iter().map(|span| span.start).min().unwrap_or(0);
    let end = spans.iter().map(|span| span.end).max().unwrap_or(0);
    let all = 4.0 * bytes as f64 / GIB / (end.saturating_sub(start).max(1) as f64 / 1e9);
    Ok(vec![(BYTES, all), (ONE_BYTES, one), (TO_ONE, all / one)])
}

fn beside(machines: &Machines, bytes: u64) -> Result<Vec<Sample>, Failure> {
    let idle = calls(machines, By::Remote, 1, 20)?.whole(20)?;
    let over = Arc::new(AtomicBool::new(false));
    let (mut durations, mut longest) = (Durations::new()?, Duration::ZERO);
    thread::scope(|scope| {
        let bulk = scope.spawn(|| {
            let moved = machines.send(By::Remote, Load { bytes, checked: false });
            over.store(true, Ordering::Release);
            moved
        });
        while !over.load(Ordering::Acquire) {
            let one = calls(machines, By::Remote, 1, 1)?.whole(1)?;
            durations.merge(&one.durations)?;
            longest = longest.max(one.elapsed);
        }
        bulk.join().unwrap_or_else(|_| Err(panicked())).map(drop)
    })?;
    let p99 = durations.quantile(0.99) * 1e3;
    Ok(vec![
        (P99, p99),
        (P50, durations.quantile(0.5) * 1e3),
        (LONGEST, longest.as_secs_f64() * 1e3),
        (IDLE_P99, idle.p99()),
        (TO_IDLE, p99 / idle.p99()),
    ])
}

fn line(machines: &Machines, count: u32) -> Result<Vec<Sample>, Failure> {
    let remote = calls(machines, By::Remote, 1, count)?.whole(count)?;
    let local = calls(machines, By::Local, 1, count)?.whole(count)?;
    let ssh = calls(machines, By::Script, 1, count)?;
    Ok(vec![(P50, remote.p50()), (P99, remote.p99()), (LOCAL, local.p50()), (SSH_P50, ssh.p50())])
}
