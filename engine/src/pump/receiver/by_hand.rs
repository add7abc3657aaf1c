#![forbid(unsafe_code)]
//! Payload that is discarded, filtered for a terminal or put into the spill.

use ring::Link;
use wire::stream::Kind;

use super::super::ending::Ending;
use super::{Receiver, not_written};

/// How many bytes are copied at once where they must be looked at: for the filter or the spill.
const BOUNCE: usize = 16 << 10;

impl Receiver {
    /// Payload that is discarded, filtered or spilt: the cases in which bytes are copied.
    pub(super) fn payload_by_hand(
        &mut self,
        link: &mut Link,
        kind: Kind,
        ready: usize,
    ) -> Result<bool, Ending> {
        let Some((at, len)) = self.messages.pieces(ready).next() else { return Ok(false) };
        let sink = self.sink_of(kind);
        let taken = if !sink.is_open() {
            if kind != Kind::Stderr {
                self.unread += len as u64;
            }
            len
        } else if kind == Kind::Stderr && sink.is_stuck() {
            let len = len.min(BOUNCE).min(sink.spill_room());
            if len == 0 {
                return Ok(false);
            }
            self.spill(at, len);
            len
        } else if sink.filter && !sink.is_blocked() {
            self.write_filtered(kind, at, len.min(BOUNCE))?
        } else {
            return Ok(false);
        };
        let n = self.messages.took(taken);
        self.received += taken as u64;
        self.release(link, n)?;
        Ok(true)
    }

    /// Keeps stderr whose reader does not read, so that stdout continues.
    fn spill(&mut self, at: usize, len: usize) {
        let bytes = self.copy(at, len, self.err_sink.filter);
        self.err_sink.keep(&bytes);
    }

    /// Writes bytes without those that could control a terminal. Returns how many were taken.
    fn write_filtered(&mut self, kind: Kind, at: usize, len: usize) -> Result<usize, Ending> {
        let bytes = self.copy(at, len, true);
        let sink = if kind == Kind::Stderr { &mut self.err_sink } else { &mut self.sink };
        Ok(match sink.writable().map(|fd| fd.write(&bytes)) {
            None => 0,
            Some(Ok(n)) => {
                sink.after_write(n < len);
                n
            }
            Some(Err(e)) => {
                sink.on_error(e).map_err(not_written)?;
                0
            }
        })
    }

    fn copy(&self, at: usize, len: usize, filters: bool) -> Vec<u8> {
        let mut bytes = vec![0u8; len];
        self.consumer.get(at, &mut bytes);
        if filters {
            wire::escape::filter_terminal(&mut bytes);
        }
        bytes
    }
}
