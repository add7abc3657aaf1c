#![forbid(unsafe_code)]
//! One end of a channel between two Xen domains, for `cargo xtask xen`. Speaks the same exchange as `tests/xen/peer.c`,
//! so that either end can be ours or libxenvchan's.
//!
//! The exchange: the client says in two little-endian u64 how much goes up and down; that much of the pattern goes up,
//! then down; a last byte up says that all was right; then both close.

use std::io::{self, Read as _};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ring::{Access, Channel, Error, Sizes, Spans, Transport};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Nothing takes longer here; what does was lost.
const LOST: Duration = Duration::from_secs(60);
/// A channel is held for as long as anybody may take to end one of its domains.
const HELD: Duration = Duration::from_secs(900);
/// Length of the repeated table: a prime, so that it never keeps step with a ring.
const PERIOD: usize = 65_521;
/// Most bytes handled at once.
const CHUNK: usize = 65_536;

const USAGE: &str = "usage: xen_peer serve CLIENT PORT LEFT RIGHT | join SERVER PORT UP DOWN | orders-serve CLIENT PORT
       orders-join SERVER PORT | churn-serve CLIENT PORT COUNT | churn-join SERVER PORT COUNT
       hold-serve CLIENT PORT | hold-join SERVER PORT | flood-serve CLIENT PORT | flood-join SERVER PORT
       turns-serve CLIENT PORT | turns-join SERVER PORT | source-serve CLIENT PORT RING MIB | sink-serve CLIENT PORT RING
       source-join SERVER PORT MIB | sink-join SERVER PORT";

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("xen_peer {}: FAILED: {error}", args.join(" "));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Outcome {
    let (verb, numbers) = args.split_first().ok_or(USAGE)?;
    let numbers: Vec<usize> = numbers.iter().map(|n| n.parse()).collect::<Result<_, _>>()?;
    let transport = Transport::from_env()?;
    let listen = |peer: usize, port: usize, left: usize, right: usize| -> Result<Channel, Error> {
        transport.listen(peer as u32, port as u32, Sizes { left, right })?.accept_within(LOST)
    };
    let connect = |peer: usize, port: usize| -> Result<Channel, Error> {
        transport.connect(peer as u32, port as u32)?.connect_within(LOST)
    };
    match (verb.as_str(), &numbers[..]) {
        ("serve", &[peer, port, left, right]) => echo(listen(peer, port, left, right)?),
        ("join", &[peer, port, up, down]) => join(connect(peer, port)?, up, down),
        ("orders-serve", &[peer, port]) => {
            orders().enumerate().try_for_each(|(i, (left, right))| echo(listen(peer, port + i, left, right)?))
        }
        ("orders-join", &[peer, port]) => orders().enumerate().try_for_each(|(i, (left, right))| {
            let channel = connect(peer, port + i)?;
            join(channel, 3 * left + 7, 3 * right + 7)
        }),
        ("churn-serve", &[peer, port, count]) => {
            (0..count).try_for_each(|_| echo(listen(peer, port, 4096, 4096)?))
        }
        ("churn-join", &[peer, port, count]) => (0..count).try_for_each(|_| join(connect(peer, port)?, 1, 1)),
        ("hold-serve", &[peer, port]) => hold(listen(peer, port, 4096, 4096)?, port),
        ("hold-join", &[peer, port]) => hold(connect(peer, port)?, port),
        ("flood-serve", &[peer, port]) => flood(listen(peer, port, 4096, 4096)?, port),
        ("flood-join", &[peer, port]) => flood(connect(peer, port)?, port),
        ("turns-serve", &[peer, port]) => {
            (0..2).try_for_each(|turn| own(listen(peer, port, 4096, 4096)?, turn))
        }
        ("turns-join", &[peer, port]) => (0..2).try_for_each(|turn| own(connect(peer, port)?, turn)),
        ("source-serve", &[peer, port, ring, mib]) => source(listen(peer, port, 4096, ring)?, mib << 20),
        ("source-join", &[peer, port, mib]) => source(connect(peer, port)?, mib << 20),
        ("sink-serve", &[peer, port, ring]) => sink(listen(peer, port, ring, 4096)?),
        ("sink-join", &[peer, port]) => sink(connect(peer, port)?),
        _ => Err(USAGE.into()),
    }
}

/// Every size of ring, smallest to largest.
fn orders() -> impl Iterator<Item = (usize, usize)> {
    [(1 << 10, 1 << 11), (1 << 11, 1 << 10), (1 << 11, 1 << 12)]
        .into_iter()
        .chain((12..=20).map(|order| (1 << order, 1 << (32 - order))))
}

struct Pattern(Vec<u8>);

impl Pattern {
    fn new() -> Pattern {
        Pattern((0..PERIOD + CHUNK).map(|i| i % PERIOD).map(|k| (k * k % 251 * 31 + k) as u8).collect())
    }

    fn at(&self, at: usize, len: usize) -> &[u8] {
        &self.0[at % PERIOD..][..len]
    }
}

fn echo(mut channel: Channel) -> Outcome {
    let start = Instant::now();
    let mut sizes = [0; 16];
    receive(&mut channel, &mut sizes)?;
    let [up, down] = [&sizes[..8], &sizes[8..]].map(|n| u64::from_le_bytes(n.try_into().unwrap_or_default()));
    receive_pattern(&mut channel, up as usize)?;
    send_pattern(&mut channel, down as usize)?;
    let mut last = [0];
    receive(&mut channel, &mut last)?;
    if last != [b'k'] {
        return Err("the client says that what it got was wrong".into());
    }
    while !channel.ended()? {
        sleep(&mut channel, true)?;
    }
    report("serve", &channel, up as usize + down as usize, start);
    Ok(())
}

fn join(mut channel: Channel, up: usize, down: usize) -> Outcome {
    let start = Instant::now();
    let sizes = [up, down].map(|n| (n as u64).to_le_bytes());
    send(&mut channel, &sizes.concat())?;
    send_pattern(&mut channel, up)?;
    receive_pattern(&mut channel, down)?;
    send(&mut channel, b"k")?;
    report("join", &channel, up + down, start);
    Ok(())
}

fn report(role: &str, channel: &Channel, bytes: usize, start: Instant) {
    if bytes >= 1 << 20 {
        let (mib, seconds) = (bytes as f64 / f64::from(1 << 20), start.elapsed().as_secs_f64());
        let rings = channel.counters().rings as f64 / mib;
        println!("ours {role}: {mib:.0} MiB, {:.1} MiB/s, {rings:.1} notifications/MiB", mib / seconds);
        println!("ours {role}: {:.2} ms of processor per MiB", processor_ms() / mib);
    }
}

/// What this process has used so far, from `/proc/self/stat` (ticks of 10 ms): milliseconds.
fn processor_ms() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    ticks.filter_map(|n| n.parse::<f64>().ok()).sum::<f64>() * 10.0
}

fn send(channel: &mut Channel, mut bytes: &[u8]) -> Outcome {
    while !bytes.is_empty() {
        let n = channel.write(bytes)?;
        bytes = &bytes[n..];
        if n == 0 {
            sleep(channel, false)?;
        }
    }
    Ok(channel.flush()?)
}

fn send_pattern(channel: &mut Channel, total: usize) -> Outcome {
    let pattern = Pattern::new();
    let mut sent = 0;
    while sent < total {
        let n = channel.write(pattern.at(sent, CHUNK.min(total - sent)))?;
        sent += n;
        if n == 0 {
            sleep(channel, false)?;
        }
    }
    Ok(channel.flush()?)
}

fn receive(channel: &mut Channel, bytes: &mut [u8]) -> Outcome {
    let mut got = 0;
    while got < bytes.len() {
        let n = channel.read(&mut bytes[got..])?;
        got += n;
        if n == 0 {
            if channel.ended()? {
                return Err(format!("the peer closed after {got} bytes").into());
            }
            sleep(channel, true)?;
        }
    }
    Ok(())
}

fn receive_pattern(channel: &mut Channel, total: usize) -> Outcome {
    let (pattern, mut buffer) = (Pattern::new(), vec![0; CHUNK]);
    let mut got = 0;
    while got < total {
        let n = channel.readable()?.clamp(1, CHUNK.min(total - got));
        receive(channel, &mut buffer[..n])?;
        if buffer[..n] != *pattern.at(got, n) {
            return Err(format!("wrong bytes within {n} of {got}").into());
        }
        got += n;
    }
    Ok(channel.flush()?)
}

/// Waits for data, or for half a ring of room.
fn sleep(channel: &mut Channel, data: bool) -> Outcome {
    sleep_for(channel, data, LOST)
}

fn sleep_for(channel: &mut Channel, data: bool, limit: Duration) -> Outcome {
    let room = if data { 0 } else { channel.tx().size() / 2 };
    if channel.arm_for(data.then_some(0), room)? {
        return Ok(());
    }
    let timeout = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: 0 };
    let fd = channel.as_fd();
    match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout))? {
        0 => Err(format!("a wake-up was lost: {:?}", channel.counters()).into()),
        _ => Ok(channel.on_ready()?),
    }
}

/// Milliseconds on this domain's clock; others' are seconds away.
fn now() -> Result<u128, Box<dyn std::error::Error>> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())
}

/// Says that the channel is there, and then only waits for the peer's end, whatever it is, and says when it came.
fn hold(mut channel: Channel, port: usize) -> Outcome {
    println!("holding {port}");
    let mut buffer = [0; 4096];
    while channel.is_open() {
        if channel.read(&mut buffer)? == 0 {
            sleep_for(&mut channel, true, HELD)?;
        }
    }
    println!("peer is gone: {port} at {}", now()?);
    Ok(())
}

/// As [`hold`], writing and reading all the time; says when the peer's last byte came, too: until then it lived.
fn flood(mut channel: Channel, port: usize) -> Outcome {
    println!("holding {port}");
    let (mut buffer, mut heard) = ([0; 4096], now()?);
    while channel.is_open() {
        let got = channel.read(&mut buffer)?;
        if got > 0 {
            heard = now()?;
        }
        let moved = got + channel.write(&buffer).or_else(if_closed)?;
        if moved == 0 && !channel.arm(true, true)? {
            let fd = channel.as_fd();
            let timeout = Timespec { tv_sec: HELD.as_secs() as i64, tv_nsec: 0 };
            if poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout))? == 0 {
                return Err("a wake-up was lost".into());
            }
            channel.on_ready()?;
        }
    }
    println!("peer is gone: {port} at {}", now()?);
    println!("last heard: {port} at {heard}");
    Ok(())
}

fn if_closed(error: Error) -> Result<usize, Error> {
    if matches!(error, Error::Closed) { Ok(0) } else { Err(error) }
}

/// Writes more than the peer reads. The next channel of the same port must not find the rest.
fn own(mut channel: Channel, turn: u8) -> Outcome {
    send(&mut channel, &[[turn; 100], [0xee; 100]].concat())?;
    let mut theirs = [0; 100];
    receive(&mut channel, &mut theirs)?;
    if theirs == [turn; 100] { Ok(()) } else { Err(format!("turn {turn} found {theirs:?}").into()) }
}

/// Fills the ring by the kernel's own `readv` on its pages, as the pump does, and closes.
fn source(mut channel: Channel, total: usize) -> Outcome {
    let zero = std::fs::File::open("/dev/zero")?;
    let mut left = total;
    while left > 0 {
        let room = channel.writable()?.min(left);
        if room == 0 {
            sleep(&mut channel, false)?;
            continue;
        }
        let mut spans = Spans::new();
        channel.tx().spans(0, room, &mut spans);
        let n = spans.fill_from(zero.as_fd(), Access::File)?;
        channel.commit(n);
        left -= n;
    }
    Ok(channel.flush()?)
}

/// Drains the ring by `writev` on its pages into a pipe, and looks at what comes out of that.
fn sink(mut channel: Channel) -> Outcome {
    let (mut reader, writer) = io::pipe()?;
    let (start, mut got, mut buffer) = (Instant::now(), 0, vec![1; CHUNK / 2]);
    while !channel.ended()? {
        let ready = channel.readable()?.min(buffer.len());
        if ready == 0 {
            sleep(&mut channel, true)?;
            continue;
        }
        let mut spans = Spans::new();
        channel.rx().spans(0, ready, &mut spans);
        let n = spans.drain_to(writer.as_fd(), Access::File)?;
        channel.release(n);
        reader.read_exact(&mut buffer[..n])?;
        if buffer[..n].iter().any(|byte| *byte != 0) {
            return Err(format!("wrong bytes within {n} of {got}").into());
        }
        got += n;
    }
    report("in place", &channel, got, start);
    Ok(())
}
