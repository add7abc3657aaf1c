//! What the import has asked for and the export has not answered.

use alloc::vec::Vec;

use super::header::{Direction, Submit};
use super::packets::Packet;
use super::{Rules, Violation};
use crate::small_map::SmallMap;

/// A command without an answer.
#[derive(Debug)]
pub(super) enum Asked {
    Request(Request),
    /// The number of the request that is to be cancelled.
    Cancel(u32),
}

/// A request without an answer.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) direction: Direction,
    pub(super) length: u32,
    pub(super) packets: Vec<Packet>,
    /// The setup packet of a request to endpoint 0.
    pub(super) setup: Option<[u8; 8]>,
}

/// All commands without an answer, within the limits of the rules.
#[derive(Debug)]
pub(super) struct Pending {
    rules: Rules,
    commands: SmallMap<u32, Asked>,
    buffers: u64,
    packets: usize,
}

impl Pending {
    pub(super) const fn new(rules: Rules) -> Self {
        Self { rules, commands: SmallMap::new(), buffers: 0, packets: 0 }
    }

    /// Whether a request is within the limits, before its data and packets have arrived.
    pub(super) fn admit(&self, submit: &Submit) -> Result<(), Violation> {
        let packets = self.packets.saturating_add(submit.packets as usize);
        let buffers = self.buffers.saturating_add(u64::from(submit.length));
        if packets > self.rules.packets || buffers > self.rules.buffers {
            return Err(Violation::TooMuch);
        }
        self.admit_number(submit.seqnum)
    }

    fn admit_number(&self, seqnum: u32) -> Result<(), Violation> {
        if self.commands.contains_key(&seqnum) {
            Err(Violation::Reused)
        } else if self.commands.len() >= self.rules.pending {
            Err(Violation::TooMuch)
        } else {
            Ok(())
        }
    }

    /// Adds an admitted request that has arrived completely.
    pub(super) fn add(&mut self, submit: &Submit, packets: Vec<Packet>) {
        let setup = (submit.endpoint == 0).then_some(submit.setup);
        let request = Request { direction: submit.direction, length: submit.length, packets, setup };
        self.put_back(submit.seqnum, request);
    }

    /// A request has no answer yet that went on.
    pub(super) fn put_back(&mut self, seqnum: u32, request: Request) {
        self.buffers = self.buffers.saturating_add(u64::from(request.length));
        self.packets = self.packets.saturating_add(request.packets.len());
        self.commands.insert(seqnum, Asked::Request(request));
    }

    pub(super) fn cancel(&mut self, seqnum: u32, target: u32) -> Result<(), Violation> {
        self.admit_number(seqnum)?;
        self.commands.insert(seqnum, Asked::Cancel(target));
        Ok(())
    }

    /// Removes the request that is answered now.
    pub(super) fn take_request(&mut self, seqnum: u32) -> Result<Request, Violation> {
        match self.commands.remove(&seqnum) {
            Some(Asked::Request(request)) => {
                self.forget(&request);
                Ok(request)
            }
            _ => Err(Violation::Unasked),
        }
    }

    /// Removes the cancellation that is answered now, and its target, whatever the answer says: the target was
    /// cancelled, or its own answer came first.
    pub(super) fn take_cancel(&mut self, seqnum: u32) -> Result<(), Violation> {
        let Some(Asked::Cancel(target)) = self.commands.remove(&seqnum) else {
            return Err(Violation::Unasked);
        };
        if let Some(Asked::Request(_)) = self.commands.get(&target) {
            self.take_request(target)?;
        }
        Ok(())
    }

    fn forget(&mut self, request: &Request) {
        self.buffers = self.buffers.saturating_sub(u64::from(request.length));
        self.packets = self.packets.saturating_sub(request.packets.len());
    }

    /// How many commands have no answer.
    pub(super) fn len(&self) -> usize {
        self.commands.len()
    }
}
