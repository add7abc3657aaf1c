#![forbid(unsafe_code)]
//! A filter of USB over IP in front of the kernels at both ends of a call: what it is given, and what it lets through.
//!
//! Headers and descriptors are taken into private memory, checked there, and sent on from there; the ring's copy is not
//! looked at again. Payload stays in the ring. Both ways of a call share one filter, which knows what is pending.

use std::cell::RefCell;
use std::rc::Rc;

use wire::stream::Role;
use wire::usbip::{Filter, Rules, Side};

use super::ending::{Failure, Refused};

/// One way through the filter.
#[derive(Debug)]
pub(super) struct Gate {
    filter: Rc<RefCell<Filter>>,
    side: Side,
    is_ours: bool,
}

impl Gate {
    /// The way out and the way in. The caller is who imports the device.
    pub(super) fn pair(rules: Rules, role: Role) -> [Gate; 2] {
        let filter = Rc::new(RefCell::new(Filter::new(rules)));
        let (ours, theirs) = match role {
            Role::Client => (Side::Import, Side::Export),
            Role::Service => (Side::Export, Side::Import),
        };
        [(ours, true), (theirs, false)].map(|(side, is_ours)| Gate { filter: filter.clone(), side, is_ours })
    }

    /// Bytes of payload that go on as they are.
    pub(super) fn payload_left(&self) -> usize {
        self.filter.borrow().payload_left(self.side) as usize
    }

    /// So many bytes of payload went on, at most [`Gate::payload_left`].
    pub(super) fn moved(&self, bytes: usize) {
        self.filter.borrow_mut().handle_payload(self.side, bytes as u32);
    }

    /// Bytes to take into private memory before anything else can be said; 0 while there is payload.
    pub(super) fn wanted(&self) -> usize {
        self.filter.borrow().wanted(self.side)
    }

    /// Takes bytes in private memory, and appends what of them, and of those before, goes on.
    pub(super) fn strain(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
        let strained = self.filter.borrow_mut().strain(self.side, bytes, out);
        strained.map_err(|why| Failure::Refused { whose: self.whose(), why })
    }

    /// This way has ended. Whoever is cut off in the middle of a message is no danger to anybody: the kernel drops the
    /// device in either case.
    pub(super) fn ended(&self) {
        if let Err(why) = self.filter.borrow().handle_end(self.side) {
            tracing::warn!("USB filter, {}: {why}", self.whose());
        }
    }

    fn whose(&self) -> Refused {
        if self.is_ours { Refused::Ours } else { Refused::Theirs }
    }
}

/// The way in, behind its gate: what was taken out of the ring, was let through, and has not been written yet.
#[derive(Debug)]
pub(super) struct Inbound {
    gate: Gate,
    checked: Vec<u8>,
    written: usize,
    /// What is wrong behind what was checked, which counts all the same, however the bytes arrived.
    breach: Option<Failure>,
}

/// Checked bytes, at most, before they are written; beyond it only what one message adds.
const CHECKED: usize = 64 << 10;

impl Inbound {
    pub(super) fn new(gate: Gate) -> Inbound {
        Inbound { gate, checked: Vec::new(), written: 0, breach: None }
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// What is to be written before anything in the ring.
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

    /// What is wrong, once everything before it was written.
    pub(super) fn breach(&mut self) -> Result<(), Failure> {
        match self.breach.take_if(|_| self.written == self.checked.len()) {
            Some(breach) => Err(breach),
            None => Ok(()),
        }
    }

    /// So many bytes were written: how many of them were of the ring.
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
