//! What this machine does that explains its figures: on the same programs two machines differ by these.

use std::io::{self, Read, Write, pipe as ends};
use std::thread;
use std::time::{Duration, Instant};

use rustix::pipe::fcntl_setpipe_size;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};

/// How often a single step is made.
const ROUNDS: u32 = 2000;
/// How much goes through a pipe, by how much at a time.
const MOVED: usize = 256 << 20;
const PIECE: usize = 64 << 10;
/// The pipe's size.
const PIPE: usize = 1 << 20;

/// Microseconds, and GiB a second; `None` where it cannot be measured, as with a single processor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Facts {
    /// One question to the processor (`cpuid`), which leaves a virtual machine. glibc asks some thirty to seventy at
    /// each program's start.
    pub(super) cpuid: Option<f64>,
    /// From one process to another on the same processor.
    pub(super) switch: Option<f64>,
    /// To a process that sleeps on another processor, which has nothing else to do.
    pub(super) wake: Option<f64>,
    /// A pipe between two threads on one processor.
    pub(super) pipe_on_one: Option<f64>,
    /// And on two.
    pub(super) pipe_on_two: Option<f64>,
}

impl Facts {
    /// This machine's. What cannot be measured here is left out.
    pub(super) fn here() -> Self {
        let [one, other] = processors();
        let both = one.zip(other);
        Self {
            cpuid: cpuid(),
            switch: one.and_then(|one| ping_pong(one, one).ok()),
            wake: both.and_then(|(one, other)| ping_pong(one, other).ok()),
            pipe_on_one: one.and_then(|one| pipe(one, one).ok()),
            pipe_on_two: both.and_then(|(one, other)| pipe(one, other).ok()),
        }
    }

    /// One line.
    pub(super) fn text(&self) -> String {
        let part = |value: Option<f64>, unit: &str, what: &str| {
            value.map(|value| format!("{what} {value:.1} {unit}"))
        };
        let parts = [
            part(self.cpuid, "µs", "cpuid"),
            part(self.switch, "µs", "context switch"),
            part(self.wake, "µs", "wake-up of another core"),
            part(self.pipe_on_one, "GiB/s", "pipe on one core"),
            part(self.pipe_on_two, "GiB/s", "on two"),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// The first two processors that this thread may use.
fn processors() -> [Option<usize>; 2] {
    let Ok(all) = sched_getaffinity(None) else { return [None; 2] };
    let mut usable = (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu));
    [usable.next(), usable.next()]
}

fn stay_on(processor: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(processor);
    Ok(sched_setaffinity(None, &set)?)
}

#[cfg(target_arch = "x86_64")]
fn cpuid() -> Option<f64> {
    let began = Instant::now();
    for _ in 0..ROUNDS {
        std::hint::black_box(raw_cpuid::native_cpuid::cpuid_count(0, 0));
    }
    Some(micros(began.elapsed()) / f64::from(ROUNDS))
}

#[cfg(not(target_arch = "x86_64"))]
fn cpuid() -> Option<f64> {
    None
}

/// Microseconds of one way of a byte between threads on these processors.
fn ping_pong(one: usize, other: usize) -> io::Result<f64> {
    let ((mut there, mut here), (mut back, mut out)) = (ends()?, ends()?);
    let echo = thread::spawn(move || -> io::Result<()> {
        stay_on(other)?;
        let mut byte = [0];
        while there.read(&mut byte)? > 0 {
            out.write_all(&byte)?;
        }
        Ok(())
    });
    let measured = thread::spawn(move || -> io::Result<Duration> {
        stay_on(one)?;
        let (mut byte, mut began) = ([0], Instant::now());
        for round in 0..=ROUNDS {
            here.write_all(&byte)?;
            back.read_exact(&mut byte)?;
            if round == 0 {
                began = Instant::now();
            }
        }
        Ok(began.elapsed())
    });
    let took = joined(measured)?;
    joined(echo)?;
    Ok(micros(took) / f64::from(ROUNDS) / 2.0)
}

/// GiB a second through a pipe between threads on these processors.
fn pipe(one: usize, other: usize) -> io::Result<f64> {
    let (mut from, mut into) = ends()?;
    // Where it may not be so large, it is as it is.
    let _ = fcntl_setpipe_size(&from, PIPE);
    let writer = thread::spawn(move || -> io::Result<()> {
        stay_on(one)?;
        let piece = vec![0; PIECE];
        (0..MOVED / PIECE).try_for_each(|_| into.write_all(&piece))
    });
    let reader = thread::spawn(move || -> io::Result<Duration> {
        stay_on(other)?;
        let mut piece = vec![0; PIECE];
        from.read_exact(&mut [0])?;
        let began = Instant::now();
        while from.read(&mut piece)? > 0 {}
        Ok(began.elapsed())
    });
    let took = joined(reader)?;
    joined(writer)?;
    Ok(MOVED as f64 / f64::from(1 << 30) / took.as_secs_f64())
}

fn joined<T>(thread: thread::JoinHandle<io::Result<T>>) -> io::Result<T> {
    thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_says_what_it_costs() {
        let facts = Facts::here();
        assert!(facts.switch.is_some_and(|micros| micros > 0.0), "{facts:?}");
        assert!(facts.pipe_on_one.is_some_and(|rate| rate > 0.0), "{facts:?}");
        assert_eq!(facts.wake.is_some(), processors()[1].is_some());
        assert!(facts.text().contains("context switch"));
        assert_eq!(Facts::default().text(), "");
    }
}
