#![deny(unsafe_code)] // not forbid: the io_uring driver below opens it for itself
//! The pump of one call: local descriptors ⇄ ring, until both sides are done.
//!
//! Every turn makes at most one transfer each way, in place on ring pages, then sees what has ended.
//! When nothing moves, the pump asks the peer and the kernel to be woken, and sleeps. What the two
//! drivers, poll and io_uring, differ in is only how they transfer and sleep.

mod driver;
mod ending;
mod ends;
mod inbound;
mod loan;
mod one_socket;
mod outbound;
mod place;
mod receive;
mod report;
mod send;
mod sleep;
mod stderr_copy;
mod turn;
mod uring;

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use ring::Channel;
use wire::stream::Role;
use wire::version::Version;

use crate::confine::Needs;
use crate::process::{Child, Signals};
use driver::Driver;
pub use ending::{EXIT_LOST, EXIT_UNREAD, Ending};
pub use report::{NoStreams, report};
pub use stderr_copy::StderrCopy;
use turn::Pump;

/// All that a call needs once its data link is open.
#[derive(Debug)]
pub struct Call {
    /// Which side of the link this is.
    pub role: Role,
    /// What the HELLOs agreed on.
    pub version: Version,
    /// Where incoming bytes are written: the service's stdin, or the caller's stdout. `None`: nowhere, which fails a
    /// client's call as soon as there are some.
    pub stdin: Option<OwnedFd>,
    /// What is read and sent: the service's stdout, or the caller's stdin. `None`: it has ended.
    pub stdout: Option<OwnedFd>,
    /// The service's stderr, read and sent; or the caller's, written. `None`: ended, or discarded.
    pub stderr: Option<OwnedFd>,
    /// The local process: a service's exit code is the call's, a client's `PROGRAM` is waited for.
    pub child: Option<Child>,
    /// Replace unsafe bytes of what is written to [`Call::stdin`] (a client's stdout).
    pub filter_stdout: bool,
    /// Replace unsafe bytes of what is written to a client's stderr.
    pub filter_stderr: bool,
    /// Sent before anything is read from [`Call::stdout`].
    pub prefix: Vec<u8>,
    /// A copy of the service's stderr for the local log.
    pub log_stderr: Option<StderrCopy>,
    /// The service side ends the call with code 0 when the client's stdin ends.
    pub exit_on_client_eof: bool,
    /// The service side ends the call with code 0 when the service's stdout ends.
    pub exit_on_service_eof: bool,
    /// [`Call::stdin`] is a pipe whose reader copies what it reads and passes no pages on: ring pages may be lent
    /// to it. Anything but a pipe of our own is written as ever.
    pub splice: bool,
    /// Readable when the service asks for one socket, its stdin, to carry both directions.
    pub single_socket: Option<Signals>,
    /// Done once when the link is over and the local process still runs, which is waited for afterwards.
    pub outlived: Option<Outlived>,
}

/// What is to be done when a local process has outlived its link.
pub struct Outlived(Box<dyn FnOnce() + Send>);

impl Outlived {
    /// Does this, at most once.
    pub fn then(todo: impl FnOnce() + Send + 'static) -> Self {
        Self(Box::new(todo))
    }

    fn happens(self) {
        (self.0)();
    }
}

impl std::fmt::Debug for Outlived {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Outlived")
    }
}

impl Call {
    /// A call with nothing attached yet.
    pub fn new(role: Role, version: Version) -> Call {
        Call {
            role,
            version,
            stdin: None,
            stdout: None,
            stderr: None,
            child: None,
            filter_stdout: false,
            filter_stderr: false,
            prefix: Vec::new(),
            log_stderr: None,
            exit_on_client_eof: false,
            exit_on_service_eof: false,
            splice: false,
            single_socket: None,
            outlived: None,
        }
    }
}

/// How a call went.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The service's exit code, as the client heard it.
    pub remote: Option<i32>,
    /// The local process's exit code, 128 + n for a signal.
    pub local: Option<i32>,
    /// Why the link was lost before the call was complete.
    pub lost: Option<String>,
    /// Why a local descriptor failed (not: was closed by its other end).
    pub failed: Option<String>,
    /// Nobody was there any more to read what the service sent, so the call was ended.
    pub unread: bool,
    /// Payload bytes that arrived.
    pub bytes_in: u64,
    /// Payload bytes that were sent.
    pub bytes_out: u64,
    /// What it cost.
    pub cost: Cost,
}

impl Outcome {
    /// Nothing was moved, and the call is over.
    pub(crate) fn failed(why: String) -> Outcome {
        Outcome { failed: Some(why), ..Outcome::default() }
    }
}

/// Counts of what a call costs this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Transfers, sleeps and doorbells together: every system call of the pump's loop.
    pub syscalls: u64,
    /// Times the pump slept.
    pub sleeps: u64,
    /// Doorbells rung.
    pub rings: u64,
    /// Doorbells heard.
    pub wakes: u64,
    /// Bytes that this process copied between rings and memory: headers, and payload that is looked at.
    pub copied: u64,
    /// Which driver finished the call.
    pub engine: &'static str,
}

/// Which driver to use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Engine {
    /// poll, and io_uring for calls that move much.
    Auto,
    Poll,
    Uring,
}

/// A call that has moved this much, both ways together, is worth wider pipes and an io_uring instance.
/// An ordinary user may have 1,024 of these at a memlock limit of 8 MiB, so idle calls have none.
const LARGE: u64 = 1 << 20;

/// Payload of one transfer, at most. Several fit a ring, so that both sides are at work, and what one hop has
/// written the next one finds in the cache; fewer bytes cost more system calls.
const TRANSFER: usize = 128 << 10;

/// What the local pipe of a large call holds at most: some transfers, and what four rings hold. More than one, so that a
/// local process that has the processor for once gets far with it.
const PIPE: usize = 512 << 10;

/// A call that has not moved for this long gives back, once, what it does not need to wait: its io_uring
/// instance, the memory of its empty ring, and what its start left on the heap.
const IDLE: Duration = Duration::from_secs(1);

/// How often to look whether the reader of a closed pipe has taken the last pages lent to it, while more arrives
/// for stderr: no event tells.
const READER: Duration = Duration::from_millis(10);

/// How long a silent service may take to end when nobody is there any more to hear it, and nothing is sent to it. It may be
/// about to: whoever has read an answer and gone may still want the exit code.
const UNHEARD: Duration = Duration::from_secs(2);

/// A call that has opened whatever it will need.
pub(crate) struct Ready {
    pump: Pump,
    engine: Engine,
    uring: Instance,
}

/// How the pump comes to an io_uring instance.
enum Instance {
    /// It makes one when it has something to do for it.
    Later,
    /// It has one.
    Made(Box<uring::Uring>),
    /// It makes none any more.
    Never,
}

/// Opens whatever one call will need.
pub(crate) fn prepare(channel: Channel, call: Call) -> Result<Ready, Outcome> {
    let engine = engine_from_env().map_err(Outcome::failed)?;
    let pump = Pump::new(channel, call)
        .map_err(|error| Outcome::failed(format!("preparing local descriptors: {error}")))?;
    Ok(Ready { pump, engine, uring: Instance::Later })
}

impl Ready {
    /// Prepares for not being able to open anything any more; what will be asked of the kernel then.
    ///
    /// Most calls are over before an io_uring instance would be of use to them, and all would have to have one: so there
    /// is none, unless the environment asks for it.
    pub(crate) fn settle(&mut self) -> io::Result<Needs> {
        let habits = self.pump.settle().map_err(io::Error::other)?;
        self.uring = match self.engine {
            Engine::Auto | Engine::Poll => Instance::Never,
            Engine::Uring => {
                uring::Uring::restricted().map_or(Instance::Never, |uring| Instance::Made(Box::new(uring)))
            }
        };
        Ok(Needs {
            reopens: self.pump.lends(),
            uring: matches!(self.uring, Instance::Made(_)),
            watches: habits.watches,
            ioctls: habits.ioctls,
            unknown: habits.unknown,
        })
    }

    /// Pumps the call to its end.
    pub(crate) fn run(self) -> Outcome {
        logged(drive(self.pump, self.engine, self.uring))
    }
}

/// Pumps one call to its end, in a process that does other things too.
pub fn run(channel: Channel, call: Call) -> Outcome {
    prepare(channel, call).map_or_else(|outcome| outcome, Ready::run)
}

impl Instance {
    /// `None`: none to be had (limits, confinement, an old kernel), and poll does the same work.
    fn take(&mut self, syscalls: u64) -> Option<Box<uring::Uring>> {
        match std::mem::replace(self, Instance::Never) {
            Instance::Later => {
                *self = Instance::Later;
                uring::Uring::new(syscalls).ok().map(Box::new)
            }
            Instance::Made(uring) => Some(uring),
            Instance::Never => None,
        }
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

fn engine_from_env() -> Result<Engine, String> {
    match std::env::var_os("QREXEC_ENGINE") {
        None => Ok(Engine::Auto),
        Some(name) => match name.to_str() {
            Some("auto" | "") => Ok(Engine::Auto),
            Some("poll") => Ok(Engine::Poll),
            Some("uring") => Ok(Engine::Uring),
            _ => Err(format!("QREXEC_ENGINE={name:?}: expected auto, poll or uring")),
        },
    }
}

fn drive(mut pump: Pump, engine: Engine, mut instance: Instance) -> Outcome {
    let mut driver: Box<dyn Driver> = Box::new(driver::Poll::default());
    // What the call must have moved to count as large (again).
    let mut large_at = if engine == Engine::Uring { 0 } else { LARGE };
    let mut is_large = false;
    let mut has_rested = false;
    let mut place = place::Place::new(Instant::now());
    if let Err(stop) = pump.begin() {
        return pump.finish(driver, Some(stop));
    }
    loop {
        let (moved, sleeps) = (pump.moved(), pump.sleeps);
        if place.may_be_due(moved, sleeps) && place.is_due(moved, sleeps, Instant::now()) {
            pump.join_neighbour();
        }
        if !is_large && pump.moved() >= large_at {
            is_large = true;
            has_rested = false;
            pump.grow();
            if engine != Engine::Poll
                && let Some(uring) = instance.take(driver.syscalls())
            {
                driver = uring;
            }
        }
        let stop = match pump.turn(&mut *driver) {
            Ok(turn::Turn::Moved) => continue,
            Ok(turn::Turn::Done) => return pump.finish(driver, None),
            Ok(turn::Turn::Idle) if pump.awaits_reader() => match pump.sleep(&mut *driver, Some(READER)) {
                Ok(_) => match pump.give_back() {
                    Ok(()) => continue,
                    Err(stop) => stop,
                },
                Err(stop) => stop,
            },
            Ok(turn::Turn::Idle) if pump.is_unheard() => match pump.sleep(&mut *driver, Some(UNHEARD)) {
                Ok(true) => continue,
                Ok(false) => Stop::Unread,
                Err(stop) => stop,
            },
            Ok(turn::Turn::Idle) => match pump.sleep(&mut *driver, (!has_rested).then_some(IDLE)) {
                Ok(true) => continue,
                Ok(false) => {
                    has_rested = true;
                    is_large = false;
                    large_at = pump.moved() + LARGE;
                    driver = Box::new(driver::Poll::after(driver.syscalls()));
                    match pump.trim() {
                        Ok(()) => continue,
                        Err(stop) => stop,
                    }
                }
                Err(stop) => stop,
            },
            Err(stop) => stop,
        };
        return pump.finish(driver, Some(stop));
    }
}

/// Why a pump stops early.
#[derive(Debug)]
enum Stop {
    /// The link is gone or broken.
    Lost(String),
    /// A local descriptor failed.
    Failed(String),
    /// Whoever read what the service sends has gone.
    Unread,
}

impl From<ring::Error> for Stop {
    fn from(error: ring::Error) -> Stop {
        Stop::Lost(error.to_string())
    }
}

impl From<wire::error::PeerError> for Stop {
    fn from(error: wire::error::PeerError) -> Stop {
        Stop::Lost(error.to_string())
    }
}

impl Stop {
    fn local(what: &'static str) -> impl FnOnce(io::Error) -> Stop {
        move |error| Stop::Failed(format!("{what}: {error}"))
    }
}
