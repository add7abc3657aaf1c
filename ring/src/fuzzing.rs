#![forbid(unsafe_code)]
//! Access for the fuzz targets in `tests/fuzz`; only in builds with `--cfg fuzzing`.
//!
//! Channels whose two ends are in one process, without a meeting, and the shared page for a peer that writes there
//! whatever the fuzzer says.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use crate::channel::{self, Channel};
use crate::error::Error;
use crate::layout::{Orders, offset};
use crate::link::Bell;
use crate::page::Side;
use crate::region::Region;

#[cfg(feature = "xen")]
pub use crate::transport::xenstore;

/// Both ends of a new channel: client and server.
///
/// # Errors
/// The system gives no memory or descriptors.
pub fn pair(orders: Orders) -> Result<(Channel, Channel), Error> {
    let (region, bells) = meet(orders)?;
    let [client, server] = bells;
    let client = Channel::new(region.clone(), Side::Client, Box::new(client));
    Ok((client, Channel::new(region, Side::Server, Box::new(server))))
}

/// One end of a new channel, and what a hostile peer has of it.
///
/// # Errors
/// The system gives no memory or descriptors.
pub fn alone(orders: Orders, is_client: bool) -> Result<(Channel, Hostile), Error> {
    let (region, bells) = meet(orders)?;
    let [client, server] = bells;
    let (side, own, other) =
        if is_client { (Side::Client, client, server) } else { (Side::Server, server, client) };
    let channel = Channel::new(region.clone(), side, Box::new(own));
    Ok((channel, Hostile { region, bell: other }))
}

fn meet(orders: Orders) -> Result<(Arc<Region>, [Counter; 2]), Error> {
    let region = Region::private(orders)?;
    channel::initialise(&region);
    channel::announce_client(&region);
    let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
    let event = || Ok::<_, Error>(Arc::new(event().map_err(|e| Error::io("making a bell")(e.into()))?));
    let (a, b) = (event()?, event()?);
    let bells = [Counter { own: a.clone(), other: b.clone() }, Counter { own: b, other: a }];
    Ok((Arc::new(region), bells))
}

/// A peer that keeps to no rule.
pub struct Hostile {
    region: Arc<Region>,
    bell: Counter,
}

impl Hostile {
    /// Writes bytes anywhere in the region; bytes beyond its end are dropped.
    pub fn poke(&self, at: usize, bytes: &[u8]) {
        let end = self.region.orders().region_bytes();
        let at = at.min(end);
        self.region.copy_in(at, &bytes[..bytes.len().min(end - at)]);
    }

    /// Reads a 32-bit index of page 0.
    pub fn index(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        self.region.copy_out(at.min(offset::GRANTS), &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Rings, although nothing has changed.
    pub fn ring(&mut self) {
        // If it fails, the other side does not wake up, which a hostile peer may cause anyway.
        let _ = self.bell.ring();
    }
}

/// A doorbell of two event counters.
struct Counter {
    own: Arc<OwnedFd>,
    other: Arc<OwnedFd>,
}

impl Bell for Counter {
    fn fd(&self) -> BorrowedFd<'_> {
        self.own.as_fd()
    }

    fn ring(&mut self) -> Result<bool, Error> {
        match rustix::io::write(&self.other, &1_u64.to_ne_bytes()) {
            Ok(_) | Err(Errno::AGAIN) => Ok(true),
            Err(error) => Err(Error::io("ringing")(error.into())),
        }
    }

    fn acknowledge(&mut self) -> Result<bool, Error> {
        match rustix::io::read(&self.own, &mut [0; 8]) {
            Ok(_) | Err(Errno::AGAIN) => Ok(true),
            Err(error) => Err(Error::io("taking a ring")(error.into())),
        }
    }

    fn is_stream(&self) -> bool {
        false
    }

    fn wants_in(&mut self) -> bool {
        true
    }

    fn wants_out(&self) -> bool {
        false
    }
}
