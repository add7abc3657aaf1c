#![forbid(unsafe_code)]
//! Steps of a call, for `qrexec-bench --profile`: a log line with the time of each, if the log's filter shows them.

use rustix::time::{ClockId, clock_gettime};

/// The target of these lines: `QREXEC_LOG=step=trace` shows them and nothing else.
pub const TARGET: &str = "step";

/// Logs that a call has reached this step. Costs a comparison unless these lines are shown.
pub fn reached(step: &'static str) {
    tracing::trace!(target: TARGET, at = now(), "step: {step}");
}

/// Nanoseconds of the monotonic clock, which is the same for all processes of a machine.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
