#![forbid(unsafe_code)]
//! One direction of a call between two Xen domains, pumped as qrexec pumps it: for `cargo xtask xen`, to be measured
//! against `tests/xen/peer.c` doing the same with libxenvchan.
//!
//! `xen_flow source CLIENT PORT RING` sends its standard input, `xen_flow sink SERVER PORT` writes what comes to its
//! standard output. Both then say on standard error what it cost.

use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use engine::datalink;
use engine::pump::{self, Call, Outcome};
use ring::{Channel, Sizes, Transport};
use wire::stream::Role;

/// Nothing takes longer here; what does was lost.
const LOST: Duration = Duration::from_secs(60);
/// The ring of the direction in which nothing but the exit code flows.
const BACK: usize = 4096;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xen_flow {}: FAILED: {error}", args.join(" "));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<(), Failure> {
    let (verb, numbers) = args.split_first().ok_or("no arguments")?;
    let numbers: Vec<u32> = numbers.iter().map(|n| n.parse()).collect::<Result<_, _>>()?;
    let transport = Transport::from_env()?;
    match (verb.as_str(), &numbers[..]) {
        ("source", &[peer, port, ring]) => {
            let sizes = Sizes { left: BACK, right: ring as usize };
            let (channel, version) = datalink::serve(&transport, peer, port, sizes, LOST)?;
            let stdout = Some(std::io::stdin().as_fd().try_clone_to_owned()?);
            flow("source", channel, Call { stdout, ..Call::new(Role::Client, version) })
        }
        ("sink", &[peer, port]) => {
            let (channel, version) = datalink::connect(&transport, peer, port, LOST)?;
            let stdin: Option<OwnedFd> = Some(std::io::stdout().as_fd().try_clone_to_owned()?);
            flow("sink", channel, Call { stdin, ..Call::new(Role::Service, version) })
        }
        _ => Err("usage: xen_flow source CLIENT PORT RING | sink SERVER PORT".into()),
    }
}

fn flow(role: &str, channel: Channel, call: Call) -> Result<(), Failure> {
    let start = Instant::now();
    let outcome = pump::run(channel, call);
    if let Some(why) = outcome.lost.as_ref().or(outcome.failed.as_ref()) {
        return Err(why.as_str().into());
    }
    report(role, &outcome, start.elapsed().as_secs_f64());
    Ok(())
}

fn report(role: &str, outcome: &Outcome, seconds: f64) {
    let mib = (outcome.bytes_in + outcome.bytes_out) as f64 / f64::from(1 << 20);
    let per = |n: u64| n as f64 / mib;
    let cost = &outcome.cost;
    eprintln!(
        "FLOW ours {role}: {mib:.0} MiB, {:.1} MiB/s, {:.2} notifications/MiB, {:.1} sleeps/MiB, {:.1} syscalls/MiB, {:.0} bytes copied/MiB, {:.2} ms/MiB, {}",
        mib / seconds,
        per(cost.rings),
        per(cost.sleeps),
        per(cost.syscalls),
        per(cost.copied),
        processor_ms() / mib,
        cost.engine
    );
}

/// What this process has used so far, from `/proc/self/stat` (ticks of 10 ms): milliseconds.
fn processor_ms() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    ticks.filter_map(|n| n.parse::<f64>().ok()).sum::<f64>() * 10.0
}
