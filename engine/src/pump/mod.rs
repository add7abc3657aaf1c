#![deny(unsafe_code)] // not forbid: the io_uring driver below opens it for itself
//! The pump of one call: local descriptors ⇄ ring, until both sides are done.
//!
//! Every turn makes at most one transfer each way, in place on ring pages, then sees what has ended.
//! When nothing moves, the pump asks the peer and the kernel to be woken, and sleeps. What the two
//! drivers, poll and io_uring, differ in is only how they transfer and sleep.
//!
//! | file | what it owns |
//! |---|---|
//! | `call` | what a call is given to begin with |
//! | `drive` | the driver, and how long to sleep |
//! | `turn` | the pump: link, sender, receiver and local process; what a turn does, and when the call is over |
//! | `sender` | the way out: source, producer and outgoing stream |
//! | `receiver` | the way in: consumer, incoming stream and sink |
//! | `local` | the local process |
//! | `sleep` | going to sleep |
//! | `driver`, `uring` | system calls: transfers and one place to sleep |
//! | `ending` | how it went |

mod call;
mod drive;
mod driver;
mod ending;
mod local;
mod place;
mod receiver;
mod report;
mod sender;
mod sleep;
mod stderr_copy;
mod turn;
mod uring;

use ring::Channel;

pub use call::{Call, Outlived};
pub use ending::{Cost, EXIT_LOST, EXIT_UNREAD, Ending, Exit, Failure, Lost, Outcome};
pub use report::{NoStreams, report};
pub use stderr_copy::StderrCopy;
use turn::Pump;

/// Pumps one call to its end.
pub fn run(channel: Channel, call: Call) -> Outcome {
    let pump = drive::engine_from_env().and_then(|engine| Ok((engine, Pump::new(channel, call)?)));
    match pump {
        Ok((engine, pump)) => logged(drive::drive(pump, engine)),
        Err(failure) => Outcome { ending: failure.into(), ..Outcome::default() },
    }
}

/// What a call cost goes to the log: `qrexec-bench --counters` reads it there.
fn logged(outcome: Outcome) -> Outcome {
    let Cost { syscalls, sleeps, rings, wakes, copied, engine } = outcome.cost;
    tracing::debug!(
        "cost: in={} out={} syscalls={syscalls} sleeps={sleeps} rings={rings} wakes={wakes} copied={copied} engine={engine}",
        outcome.bytes_in,
        outcome.bytes_out
    );
    outcome
}
