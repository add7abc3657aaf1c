//! What calls cost that have nothing to do at the moment.

use std::io::Write;
use std::process::{ChildStderr, ChildStdin, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::super::process::Running;
use super::super::procfs;
use super::super::report::Reports;
use super::super::roles::{Load, Role};
use super::super::scenario::{Case, Metric, Sample, Scenario};
use super::super::settings::Settings;
use super::super::stage::Stage;
use cli::failure::Failure;

const OWN: Metric = Metric::lower("USS per call", "KiB");
const OWN_CLIENT: Metric = Metric::lower("client", "KiB");
const OWN_SERVICE: Metric = Metric::lower("agent", "KiB");
const SHARED: Metric = Metric::lower("PSS per call", "KiB");
const ALL: Metric = Metric::lower("PSS of all", "MiB");
const TABLES: Metric = Metric::lower("page tables", "MiB");
const IDLE: Metric = Metric::lower("CPU of all", "ms/10 s");

/// What each call has carried before it is idle, in bytes.
const CARRIED: usize = 1 << 20;

/// After this time nobody has anything left to do: idle calls give back what they do not need after a second.
const SETTLED: Duration = Duration::from_secs(3);

/// How long the idle calls are watched.
const WATCHED: Duration = Duration::from_secs(10);

/// The scenario.
pub(in super::super) struct Scale;

impl Scenario for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn title(&self) -> &'static str {
        "idle calls that have carried 1 MiB: each with client and agent's process, all with agents and daemons"
    }

    fn cases(&self, settings: &Settings) -> Vec<Box<dyn Case>> {
        let watched = if settings.quick { WATCHED / 10 } else { WATCHED };
        vec![Box::new(Idle { calls: settings.idle_calls, watched })]
    }
}

struct Idle {
    calls: usize,
    watched: Duration,
}

impl Case for Idle {
    fn label(&self) -> String {
        format!("{} calls", self.calls)
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(30 + self.calls as u64 / 10)
    }

    fn run(&self, stage: &Stage) -> Result<Vec<Sample>, Failure> {
        allow_descriptors()?;
        let open = (0..self.calls).map(|_| Open::new(stage)).collect::<Result<Vec<_>, _>>()?;
        let clients: Vec<i32> = open.iter().filter_map(|call| call.client.pid()).collect();
        let pumps = stage.pumps();
        if clients.len() != self.calls || pumps.len() < self.calls {
            return Err(Failure::trouble(format!("only {} of {} calls are open", pumps.len(), self.calls)));
        }
        // Clients are outside of the lab's namespace but carry its marker, so all of qrexec is among these.
        let all: Vec<i32> = stage.qrexec().iter().map(|process| process.pid).collect();
        thread::sleep(SETTLED);
        let idle = idle_cpu(&all, self.watched)?;
        let (client, pump, all) = (memory(&clients)?, memory(&pumps)?, memory(&all)?);
        for call in open {
            call.close()?;
        }
        let kib = |bytes: u64| bytes as f64 / 1024.0 / self.calls as f64;
        let mib = |bytes: u64| bytes as f64 / 1024.0 / 1024.0;
        Ok(vec![
            (OWN, kib(client.own + pump.own)),
            (OWN_CLIENT, kib(client.own)),
            (OWN_SERVICE, kib(pump.own)),
            (SHARED, kib(client.proportional + pump.proportional)),
            (ALL, mib(all.proportional)),
            (TABLES, mib(all.tables)),
            (IDLE, idle * 1e4),
        ])
    }
}

/// A call that has carried its bytes and waits.
struct Open {
    client: Running,
    stdin: ChildStdin,
    _reports: Reports<ChildStderr>,
}

impl Open {
    fn new(stage: &Stage) -> Result<Self, Failure> {
        let mut command =
            stage.call_role(None, Role::Sink(Load { bytes: CARRIED as u64, checked: false }))?;
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut client = Running::start(&mut command, "qrexec-client-vm")?;
        let child = client.child();
        let (Some(mut stdin), Some(errors)) = (child.stdin.take(), child.stderr.take()) else {
            return Err(Failure::trouble("a process without streams"));
        };
        let mut reports = Reports::new(errors);
        reports.ready()?;
        stdin.write_all(&vec![0; CARRIED]).map_err(Failure::during("sending"))?;
        reports.sink()?;
        Ok(Self { client, stdin, _reports: reports })
    }

    fn close(self) -> Result<(), Failure> {
        drop(self.stdin);
        self.client.finish()
    }
}

/// Each open call has two descriptors here: the usual limit is for fewer.
fn allow_descriptors() -> Result<(), Failure> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .map_err(Failure::during("allowing more descriptors"))
}

fn memory(pids: &[i32]) -> Result<procfs::Memory, Failure> {
    let mut sum = procfs::Memory::default();
    for pid in pids {
        let one = procfs::memory(*pid).ok_or_else(|| Failure::trouble("cannot see a process's memory"))?;
        sum.own += one.own;
        sum.proportional += one.proportional;
        sum.tables += one.tables;
    }
    Ok(sum)
}

/// Seconds of processor time per second that these processes use.
fn idle_cpu(pids: &[i32], watched: Duration) -> Result<f64, Failure> {
    let used = || pids.iter().map(|pid| procfs::cpu_seconds(*pid)).sum::<Option<f64>>();
    let (start, before) = (Instant::now(), used());
    // That nothing happens in this time is what is measured.
    thread::sleep(watched);
    let (after, elapsed) = (used(), start.elapsed());
    match (before, after) {
        (Some(before), Some(after)) => Ok((after - before).max(0.0) / elapsed.as_secs_f64()),
        _ => Err(Failure::trouble("an idle call ended")),
    }
}
