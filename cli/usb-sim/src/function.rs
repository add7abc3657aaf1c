//! What makes a device the device that it is: its class, behind the parts that all devices have.

use std::time::Duration;

use crate::answers::Answers;
pub(crate) use crate::urb::Urb;

/// What a device has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests at endpoints other than 0.
    pub requests: u32,
    /// Isochronous requests that came after the time at which the endpoint needed them: it had nothing to send into.
    pub starved: u32,
    /// The longest that the endpoint waited for one of them.
    pub worst: Duration,
}

/// What makes a device the device that it is.
pub(crate) trait Function: std::fmt::Debug + Send {
    /// A request of the device's class or vendor, with the data that came; `None` if it is not known.
    fn control(&mut self, setup: Setup, data: &[u8]) -> Option<Vec<u8>>;
    /// A request for another endpoint than 0, with the data that came.
    fn submit(&mut self, urb: Urb, data: &[u8], now: Duration, answers: &mut Answers);
    /// Forgets a request. Whether it was there.
    fn cancel(&mut self, seqnum: u32) -> bool;
    /// An endpoint, with its direction bit, is halted no more.
    fn clear_halt(&mut self, _endpoint: u8, _answers: &mut Answers) {}
    /// Another setting of the interface, or another configuration.
    fn settle(&mut self) {}
    /// Time has passed.
    fn tick(&mut self, _now: Duration, _answers: &mut Answers) {}
    /// When time matters next.
    fn deadline(&self) -> Option<Duration> {
        None
    }
    fn counts(&self) -> Counts;
}

/// The setup packet of a control transfer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) kind: u8,
    pub(crate) request: u8,
    pub(crate) value: u16,
    pub(crate) index: u16,
    pub(crate) length: u16,
}

impl From<[u8; 8]> for Setup {
    fn from([kind, request, v0, v1, i0, i1, l0, l1]: [u8; 8]) -> Self {
        let word = |low, high| u16::from_le_bytes([low, high]);
        Self { kind, request, value: word(v0, v1), index: word(i0, i1), length: word(l0, l1) }
    }
}
