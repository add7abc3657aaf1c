#![deny(unsafe_code)] // not forbid: the io_uring driver below opens it for itself
//! The pump of one call: local descriptors ⇄ ring, until both sides are done.
//!
//! Every turn makes at most one transfer in each direction, in place on ring pages, and then checks what has ended.
//! When nothing moves, the pump asks the peer and the kernel to be woken, and sleeps. The two drivers, poll and
//! io_uring, differ only in how they transfer and sleep.
//!
//! | file | what it owns |
//! |---|---|
//! | `call` | what a call begins with |
//! | `drive` | the driver, and how long to sleep |
//! | `turn` | the pump: link, sender, receiver and local process; what a turn does, and when the call is over |
//! | `sender` | the way out: source, producer and outgoing stream |
//! | `sender` | the outgoing direction: source, producer and outgoing stream |
//! | `receiver` | the incoming direction: consumer, incoming stream and sink |
//! | `sleep` | going to sleep |
//! | `driver`, `uring` | system calls: transfers and one place to sleep |
//! | `gate` | the filter for USB over IP, in either direction |
//! | `ending` | how the call ended |

mod call;
mod drive;
mod driver;
mod ending;
mod gate;
mod local;
mod placement;
mod receiver;
mod report;
mod sender;
mod sleep;
mod stderr_copy;
mod turn;
mod uring;

use ring::Channel;

use crate::confine::Needs;

pub use call::{Call, Outlived};
use drive::{Engine, Instance};
pub use ending::{Cost, EXIT_LOST, EXIT_UNREAD, Ending, Exit, Failure, Lost, Outcome, Refused};
pub use report::{NoStreams, report};
pub use stderr_copy::StderrCopy;
use turn::Pump;

/// A call that has opened everything it will need.
pub(crate) struct Ready {
    pump: Pump,
    engine: Engine,
    instance: Instance,
}

/// Opens everything that one call will need.
pub(crate) fn prepare(channel: Channel, call: Call) -> Result<Ready, Failure> {
    let engine = drive::engine_from_env()?;
    Ok(Ready { pump: Pump::new(channel, call)?, engine, instance: Instance::Later })
}

impl Ready {
    /// Prepares for a process that can open nothing any more. Returns which system calls it will make then.
    ///
    /// Most calls are over before an io_uring instance would be of use, and all calls would have to make one now: so
    /// there is none, unless the environment asks for it.
    pub(crate) fn settle(&mut self) -> Result<Needs, ring::Error> {
        let habits = self.pump.link.settle()?;
        self.instance = Instance::settled(self.engine);
        Ok(Needs {
            reopens: self.pump.receiver.lends(),
            uring: matches!(self.instance, Instance::Made(_)),
            watches: habits.watches,
            ioctls: habits.ioctls,
            unknown: habits.unknown,
            ..Needs::default()
        })
    }

    /// Pumps the call to its end.
    pub(crate) fn run(self) -> Outcome {
        logged(drive::drive(self.pump, self.engine, self.instance))
    }
}

/// Pumps one call to its end, in a process that does other things too.
pub fn run(channel: Channel, call: Call) -> Outcome {
    prepare(channel, call).map_or_else(Outcome::from, Ready::run)
}

/// Logs what a call has cost: `qrexec-bench --counters` reads these lines.
fn logged(outcome: Outcome) -> Outcome {
    let Cost { syscalls, sleeps, rings, wakes, copied, engine } = outcome.cost;
    tracing::debug!(
        "cost: in={} out={} syscalls={syscalls} sleeps={sleeps} rings={rings} wakes={wakes} copied={copied} engine={engine}",
        outcome.bytes_in,
        outcome.bytes_out
    );
    outcome
}
