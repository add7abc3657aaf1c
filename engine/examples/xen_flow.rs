#![forbid(unsafe_code)]
//! One direction of a call between two Xen domains, pumped as qrexec pumps it: for `cargo xtask xen`, to be measured
//! against `tests/xen/peer.c` doing the same with libxenvchan.
//!
//! `xen_flow source CLIENT PORT RING` sends its standard input, `xen_flow sink SERVER PORT` writes what comes to its
//! standard output; RING 0 is what a call gets unasked. `xen_flow send CLIENT PORT RING MIB` and `xen_flow receive SERVER
//! PORT` move bytes from memory to memory by the ring's own blocking `write` and `read`, without a pump. All then say on
//! standard error what it cost.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use engine::datalink;
use engine::pump::{self, Call, Cost, Ending, Outcome};
use ring::{Blocking, Channel, Sizes, Transport};
use wire::stream::Role;

/// Nothing here takes longer; what does has been lost.
const LOST: Duration = Duration::from_secs(60);
/// The ring of the other direction, in which only the exit code flows.
const BACK: usize = 4096;
/// How much one `write` or `read` is given: as much as `tests/xen/peer.c` gives libxenvchan's.
const PIECE: usize = 64 << 10;

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
            let rings = match ring as usize {
                0 => transport.data_rings(None)?,
                right => transport.rings(Sizes { left: BACK, right })?,
            };
            let (channel, version) = datalink::serve_with(&transport, peer, port, rings, LOST)?;
            let source = Some(std::io::stdin().as_fd().try_clone_to_owned()?);
            flow("source", channel, Call { source, ..Call::new(Role::Client, version) })
        }
        ("sink", &[peer, port]) => {
            let (channel, version) = datalink::connect(&transport, peer, port, LOST)?;
            let sink: Option<OwnedFd> = Some(std::io::stdout().as_fd().try_clone_to_owned()?);
            flow("sink", channel, Call { sink, ..Call::new(Role::Service, version) })
        }
        ("send", &[peer, port, ring, mib]) => {
            let sizes = Sizes { left: BACK, right: ring as usize };
            send(transport.listen(peer, port, sizes)?.accept_within(LOST)?, u64::from(mib) << 20)
        }
        ("receive", &[peer, port]) => receive(transport.connect(peer, port)?.connect_within(LOST)?),
        _ => Err("usage: xen_flow source CLIENT PORT RING | sink SERVER PORT\n\
                  \x20      | send CLIENT PORT RING MIB | receive SERVER PORT"
            .into()),
    }
}

fn send(channel: Channel, total: u64) -> Result<(), Failure> {
    let (mut to, bytes) = (Blocking::new(channel), vec![b'x'; PIECE]);
    to.read_exact(&mut [0])?;
    let start = Instant::now();
    let mut left = total;
    while left > 0 {
        let n = left.min(PIECE as u64) as usize;
        to.write_all(&bytes[..n])?;
        left -= n as u64;
    }
    to.flush()?;
    report("send", &of_memory(&to, 0, total), start.elapsed().as_secs_f64());
    Ok(())
}

fn receive(channel: Channel) -> Result<(), Failure> {
    let (mut from, mut bytes) = (Blocking::new(channel), vec![0; PIECE]);
    from.write_all(b"k")?;
    from.flush()?;
    let start = Instant::now();
    let mut got = 0;
    loop {
        match from.read(&mut bytes)? {
            0 => break,
            n => got += n as u64,
        }
    }
    report("receive", &of_memory(&from, got, 0), start.elapsed().as_secs_f64());
    Ok(())
}

fn of_memory(side: &Blocking, bytes_in: u64, bytes_out: u64) -> Outcome {
    let counters = side.channel().counters();
    let (rings, wakes, copied, sleeps) = (counters.rings, counters.wakes, counters.copied, side.sleeps());
    let cost = Cost { rings, wakes, copied, sleeps, engine: "blocking", ..Cost::default() };
    Outcome { bytes_in, bytes_out, cost, ..Outcome::default() }
}

fn flow(role: &str, channel: Channel, call: Call) -> Result<(), Failure> {
    let start = Instant::now();
    let outcome = pump::run(channel, call);
    match outcome.ending {
        Ending::Lost(why) => return Err(why.into()),
        Ending::Failed(why) => return Err(why.into()),
        Ending::Complete | Ending::Unread => {}
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
