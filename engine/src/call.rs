#![forbid(unsafe_code)]
//! The three steps of one call, the same for every process that has one: [`prepare`] opens everything that the call will
//! ever need, [`Prepared::confine`] takes from the process what it does not need any more, [`Confined::run`] moves the bytes.
//!
//! Services and local programs are started before: what is confined can start nothing, and what it has started is not
//! confined. How the call ended is an [`Outcome`], and [`Outcome::exit`] makes the exit code of it.

use std::io;

use ring::Channel;
use wire::version::Version;

use crate::confine::{Confinement, Needs};
use crate::pump::{self, Call, Failure, NoStreams, Outcome};

/// A call that has opened everything.
pub struct Prepared(pump::Ready);

/// A call whose process can do nothing else any more.
pub struct Confined(pump::Ready);

/// Opens everything that the call will need.
///
/// # Errors
/// What could not be opened.
pub fn prepare(channel: Channel, call: Call) -> Result<Prepared, Failure> {
    pump::prepare(channel, call).map(Prepared)
}

impl Prepared {
    /// Confines this process, which has one thread and no other duty, for good.
    ///
    /// # Errors
    /// It is not: nothing of the other side's must be read then.
    pub fn confine(mut self, confinement: Confinement) -> Result<Confined, Failure> {
        if confinement == Confinement::On {
            let needs = self.0.settle().map_err(io::Error::other);
            needs.and_then(|needs| confinement.close(needs)).map_err(Failure::Confinement)?;
        }
        Ok(Confined(self.0))
    }
}

impl Confined {
    /// Moves the bytes, until the call has ended.
    #[must_use]
    pub fn run(self) -> Outcome {
        self.0.run()
    }
}

/// All three steps.
#[must_use]
pub fn run(channel: Channel, call: Call, confinement: Confinement) -> Outcome {
    let confined = prepare(channel, call).and_then(|prepared| prepared.confine(confinement));
    confined.map_or_else(Outcome::from, Confined::run)
}

/// The end of a service side that has no streams, confined in the same way: see [`pump::report`].
///
/// # Errors
/// The link was lost before the caller could have heard the code, or the process could not be confined.
pub fn report(
    mut channel: Channel,
    version: Version,
    code: i32,
    why: NoStreams,
    confinement: Confinement,
) -> Result<(), ring::Error> {
    if confinement == Confinement::On {
        let habits = channel.settle()?;
        let needs = Needs {
            watches: habits.watches,
            ioctls: habits.ioctls,
            unknown: habits.unknown,
            ..Needs::default()
        };
        confinement.close(needs).map_err(ring::Error::io("confining this process"))?;
    }
    pump::report(channel, version, code, why)
}
