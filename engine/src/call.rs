#![forbid(unsafe_code)]
//! The three steps of one call, the same for every process of a call: [`prepare`] opens everything that the call will
//! ever need, [`Prepared::confine`] gives up everything else that the process may do, [`Confined::run`] moves the
//! bytes.
//!
//! Services and local programs are started before: a confined process can start nothing, and what it has started is
//! not confined. [`Outcome`] is how the call ended, and [`Outcome::exit`] derives the exit code from it.

use std::io;

use ring::Channel;
use wire::version::Version;

use crate::confine::{Confinement, Needs};
use crate::pump::{self, Call, Failure, NoStreams, Outcome};

/// A call that has opened everything it needs.
pub struct Prepared(pump::Ready);

/// A call whose process is confined.
pub struct Confined(pump::Ready);

/// Opens everything that the call will need.
///
/// # Errors
/// What could not be opened.
pub fn prepare(channel: Channel, call: Call) -> Result<Prepared, Failure> {
    pump::prepare(channel, call).map(Prepared)
}

impl Prepared {
    /// Confines this process for good. It must have one thread and no other duty.
    ///
    /// # Errors
    /// It could not be confined: then nothing from the other side may be read.
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

/// Both remaining steps, after [`prepare`].
#[must_use]
pub fn run(channel: Channel, call: Call, confinement: Confinement) -> Outcome {
    let confined = prepare(channel, call).and_then(|prepared| prepared.confine(confinement));
    confined.map_or_else(Outcome::from, Confined::run)
}

/// Ends a service side that has no streams, confined in the same way: see [`pump::report`].
///
/// # Errors
/// The link was lost before the caller could have received the code, or the process could not be confined.
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
