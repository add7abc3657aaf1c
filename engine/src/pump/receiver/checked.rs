#![forbid(unsafe_code)]
//! The incoming direction with a filter.

use ring::{Link, Spans};
use wire::stream::Kind;

use super::super::driver::TRANSFER;
use super::super::ending::Ending;
use super::super::gate::Inbound;
use super::Receiver;
use super::messages::Head;
use crate::localfd::LocalFd;

/// How many bytes are taken out of the ring at once to be checked.
const LOOK: usize = 512;

impl Receiver {
    /// Takes out of the ring what has to be checked: everything before the next payload. Returns whether there was
    /// any.
    pub(super) fn take_to_check(&mut self, link: &mut Link) -> Result<bool, Ending> {
        let mut any = false;
        while let Some(inbound) = self.inbound.as_mut().filter(|_| self.sink.is_open()) {
            let Head::Data(Kind::Stdin | Kind::Stdout) = self.messages.head() else { break };
            let Some((at, len)) = self.messages.pieces(self.consumer.known_ready()).next() else { break };
            let mut copy = [0u8; LOOK];
            let Some(bytes) = copy.get_mut(..len.min(inbound.wanted()).min(LOOK)).filter(|b| !b.is_empty())
            else {
                break;
            };
            self.consumer.get(at, bytes);
            inbound.take(bytes);
            let taken = bytes.len();
            self.received += taken as u64;
            let ring = self.messages.took(taken);
            self.release(link, ring)?;
            self.take_headers(link)?;
            any = true;
        }
        if let Some(inbound) = &mut self.inbound {
            inbound.breach()?;
        }
        Ok(any)
    }

    /// Offers the checked bytes, and the payload after them.
    pub(super) fn checked_in_front<'a>(&'a self, inbound: &'a Inbound, fd: &LocalFd, spans: &mut Spans<'a>) {
        let limit = fd.write_limit().min(TRANSFER);
        let owed = inbound.owed();
        let owed = owed.get(..limit).unwrap_or(owed);
        if !spans.push_own(owed) || self.messages.head() == Head::Data(Kind::Stderr) {
            return;
        }
        let mut limit = (limit - owed.len()).min(inbound.gate().payload_left());
        for (at, len) in self.messages.pieces(self.consumer.known_ready()) {
            let len = len.min(limit);
            if len == 0 || !self.consumer.spans(at, len, spans) {
                break;
            }
            limit -= len;
        }
    }

    /// Whether checked bytes are not written yet.
    pub(super) fn owes(&self) -> bool {
        self.sink.is_open() && self.inbound.as_ref().is_some_and(|inbound| !inbound.owed().is_empty())
    }
}
