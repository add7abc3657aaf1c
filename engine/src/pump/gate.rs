#![forbid(unsafe_code)]
//! A filter for USB over IP in front of the kernels at both ends of a call.
//!
//! Headers and descriptors are copied into private memory, checked there, and sent on from there; the ring's copy is
//! not read again. Payload stays in the ring. Both directions of a call share one filter, which knows which requests
//! are pending.

use std::cell::RefCell;
use std::rc::Rc;

use wire::stream::Role;
use wire::usbip::{Filter, Rules, Side};

use super::ending::{Failure, Refused};

/// One direction through the filter.
#[derive(Debug)]
pub(super) struct Gate {
    filter: Rc<RefCell<Filter>>,
    side: Side,
    is_ours: bool,
}

impl Gate {
    /// The outgoing and the incoming direction. The caller is the side that imports the device.
    pub(super) fn pair(rules: Rules, role: Role) -> [Gate; 2] {
        let filter = Rc::new(RefCell::new(Filter::new(rules)));
        let (ours, theirs) = match role {
            Role::Client => (Side::Import, Side::Export),
            Role::Service => (Side::Export, Side::Import),
        };
        [(ours, true), (theirs, false)].map(|(side, is_ours)| Gate { filter: filter.clone(), side, is_ours })
    }

    /// Bytes of payload to be moved unchanged.
    pub(super) fn payload_left(&self) -> usize {
        self.filter.borrow().payload_left(self.side) as usize
    }

    /// To be called when so many bytes of payload were moved, at most [`Gate::payload_left`].
    pub(super) fn moved(&self, bytes: usize) {
        self.filter.borrow_mut().handle_payload(self.side, bytes as u32);
    }

    /// How many bytes to copy into private memory next; 0 while there is payload.
    pub(super) fn wanted(&self) -> usize {
        self.filter.borrow().wanted(self.side)
    }

    /// Checks bytes in private memory, and appends to `out` what is to be sent on of them and of earlier ones.
    pub(super) fn strain(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
        let strained = self.filter.borrow_mut().strain(self.side, bytes, out);
        strained.map_err(|why| Failure::Refused { whose: self.whose(), why })
    }

    /// This direction has ended. An end in the middle of a message is only logged: the kernel drops the device in
    /// either case.
    pub(super) fn ended(&self) {
        if let Err(why) = self.filter.borrow().handle_end(self.side) {
            tracing::warn!("USB filter, {}: {why}", self.whose());
        }
    }

    fn whose(&self) -> Refused {
        if self.is_ours { Refused::Ours } else { Refused::Theirs }
    }
}

/// The incoming direction with its gate: bytes that were taken out of the ring and let through, and are not written
/// yet.
#[derive(Debug)]
pub(super) struct Inbound {
    gate: Gate,
    checked: Vec<u8>,
    written: usize,
    /// The error that comes after the checked bytes. These are still written first, however they arrived.
    breach: Option<Failure>,
}

/// Most checked bytes that wait to be written, apart from one message that may exceed it.
const CHECKED: usize = 64 << 10;

impl Inbound {
    pub(super) fn new(gate: Gate) -> Inbound {
        Inbound { gate, checked: Vec::new(), written: 0, breach: None }
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The bytes to be written before any in the ring.
    pub(super) fn owed(&self) -> &[u8] {
        self.checked.get(self.written..).unwrap_or_default()
    }

    /// How many bytes to take out of the ring now.
    pub(super) fn wanted(&self) -> usize {
        if self.checked.len() < CHECKED { self.gate.wanted() } else { 0 }
    }

    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.breach = self.gate.strain(bytes, &mut self.checked).err();
    }

    /// The error, once everything before it was written.
    pub(super) fn breach(&mut self) -> Result<(), Failure> {
        match self.breach.take_if(|_| self.written == self.checked.len()) {
            Some(breach) => Err(breach),
            None => Ok(()),
        }
    }

    /// So many bytes were written. Returns how many of them were in the ring.
    pub(super) fn wrote(&mut self, bytes: usize) -> usize {
        let checked = bytes.min(self.owed().len());
        self.written += checked;
        if self.written == self.checked.len() {
            self.checked.clear();
            self.written = 0;
        }
        let payload = bytes - checked;
        self.gate.moved(payload);
        payload
    }
}
