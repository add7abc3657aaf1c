//! A request for an endpoint other than 0.

use wire::usbip::{Direction, Packet};

/// A request for an endpoint other than 0.
#[derive(Debug)]
pub(crate) struct Urb {
    pub(crate) seqnum: u32,
    pub(crate) direction: Direction,
    pub(crate) endpoint: u8,
    pub(crate) length: usize,
    pub(crate) packets: Vec<Packet>,
}
