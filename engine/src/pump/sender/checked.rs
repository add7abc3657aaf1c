#![forbid(unsafe_code)]
//! The outgoing direction with a filter.

use std::io;

use ring::Link;

use super::super::ending::{Ending, Failure};
use super::super::gate::Gate;
use super::Sender;

/// How much is read at once where a filter has to check it: everything but long payload.
const STAGE: usize = 8 << 10;

impl Sender {
    /// The prefix goes through the filter like everything else.
    pub(in super::super) fn begin(&mut self) {
        let prefix = std::mem::take(&mut self.prefix);
        self.admit(prefix);
    }

    /// Has bytes from private memory sent before anything that is read, as far as the filter lets them through.
    pub(super) fn admit(&mut self, bytes: Vec<u8>) {
        match &self.gate {
            Some(gate) => self.breach = gate.strain(&bytes, &mut self.prefix).err(),
            None if self.prefix.is_empty() => self.prefix = bytes,
            None => self.prefix.extend(bytes),
        }
    }

    /// How much of the next read may go into the ring unchecked; 0 if it has to be checked first.
    pub(super) fn direct(&self) -> usize {
        match &self.gate {
            Some(gate) if !self.is_turn_of_stderr() => {
                Some(gate.payload_left()).filter(|left| *left >= STAGE).unwrap_or(0)
            }
            _ => usize::MAX,
        }
    }

    /// Whether the next turn reads payload of the message whose header the filter has just let through.
    pub(super) fn has_payload_to_come(&self) -> bool {
        let left = self.gate.as_ref().map_or(0, Gate::payload_left);
        left >= STAGE && self.source.readable().is_some()
    }

    /// Reads into private memory, where the peer cannot change what is checked, and sends what the filter lets
    /// through. Each header is sent in this way, and short payload too.
    pub(super) fn send_checked(&mut self, link: &mut Link) -> Result<bool, Ending> {
        // Everything before the error is sent first.
        if let Some(breach) = self.breach.take_if(|_| self.prefix.is_empty()) {
            return Err(breach.into());
        }
        if self.gate.is_none() || self.direct() > 0 || !self.prefix.is_empty() {
            return Ok(false);
        }
        let Some(room) = self.room(link)?.filter(|room| self.is_enough(*room)) else { return Ok(false) };
        let Some(fd) = self.source.readable().filter(|_| room > 0) else { return Ok(false) };
        self.err_was_read = false;
        let mut bytes = [0u8; STAGE];
        match fd.read(&mut bytes) {
            Ok(0) => self.end_source(false),
            Ok(n) => {
                self.source.after_read(n, n < bytes.len());
                if let Some(gate) = &self.gate {
                    let bytes = bytes.get(..n).unwrap_or_default();
                    self.breach = gate.strain(bytes, &mut self.prefix).err();
                }
                self.send_prefix(link)?;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.source.set_ready(false);
                return Ok(false);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                self.source.close();
                return Err(Failure::during("reading what is to be sent")(e).into());
            }
        }
        Ok(true)
    }

    /// A source has ended.
    pub(super) fn end_source(&mut self, is_stderr: bool) {
        if is_stderr {
            return self.err_source.close();
        }
        if let Some(gate) = &self.gate {
            gate.ended();
        }
        self.source.close();
    }
}
