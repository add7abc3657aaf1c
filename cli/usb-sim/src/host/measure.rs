//! What was measured.

use std::time::{Duration, Instant};

use serde::Serialize;

/// How long something took, over many times, in microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Waits {
    /// How many times.
    pub count: usize,
    /// Half of them took at most this.
    pub p50: f64,
    /// 99 of 100 took at most this.
    pub p99: f64,
    /// The longest.
    pub worst: f64,
}

impl Waits {
    /// The figures of these times, which it sorts.
    #[must_use]
    pub fn of(times: &mut [Duration]) -> Self {
        times.sort_unstable();
        let at = |share: usize| {
            let index = (times.len() * share / 100).min(times.len().saturating_sub(1));
            times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e6)
        };
        Self { count: times.len(), p50: at(50), p99: at(99), worst: at(100) }
    }
}

/// Commands and their data.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Measured {
    /// Bytes of data.
    pub bytes: u64,
    /// Seconds that all took.
    pub seconds: f64,
    /// How long each command took.
    pub waits: Waits,
}

impl Measured {
    /// Millions of bytes a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        if self.seconds > 0.0 { self.bytes as f64 / self.seconds / 1e6 } else { 0.0 }
    }
}

/// Does one thing `count` times; `step` says how many bytes it moved.
pub(super) fn measure<E>(count: usize, mut step: impl FnMut(usize) -> Result<u64, E>) -> Result<Measured, E> {
    let (begin, mut times, mut bytes) = (Instant::now(), Vec::with_capacity(count), 0u64);
    for number in 0..count {
        let before = Instant::now();
        bytes = bytes.saturating_add(step(number)?);
        times.push(before.elapsed());
    }
    Ok(Measured { bytes, seconds: begin.elapsed().as_secs_f64(), waits: Waits::of(&mut times) })
}
