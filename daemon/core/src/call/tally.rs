//! How many calls there are and what they weigh, without looking at all of them.

use super::{Call, Stage};

/// Calls that may wait for policy at once: several rounds of all the programs that decide at the same time. A VM that
/// asks faster than policy answers is refused what is beyond, and not remembered.
const MAX_DECIDING: usize = 512;
/// Bytes that may be kept of calls until their target has been asked: names and requests, each up to 64 KiB where its
/// caller wants it so.
const MAX_BYTES: usize = 4 << 20;

/// Why a call is one too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoRoom {
    #[error("too many calls at once")]
    Open,
    #[error("too many calls wait for policy")]
    Deciding,
    #[error("the names of calls that wait are too long together")]
    Bytes,
}

/// The sums.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    deciding: usize,
    watched: usize,
    /// All others.
    open: usize,
    bytes: usize,
}

impl Tally {
    /// A call is there, or has become what it is now.
    pub(super) fn count(&mut self, call: &Call) {
        let sum = self.sum(call);
        *sum = sum.saturating_add(1);
        self.bytes = self.bytes.saturating_add(weight(call));
    }

    /// A call is gone, or is about to change.
    pub(super) fn uncount(&mut self, call: &Call) {
        let sum = self.sum(call);
        *sum = sum.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(weight(call));
    }

    fn sum(&mut self, call: &Call) -> &mut usize {
        match call.stage {
            Stage::Deciding => &mut self.deciding,
            Stage::Watched => &mut self.watched,
            _ => &mut self.open,
        }
    }

    pub(super) fn watched(&self) -> usize {
        self.watched
    }

    /// Whether there is room for one more, of which at most `max_open` may be without an end in sight; else why not.
    pub(super) fn room_for(&self, call: &Call, max_open: usize) -> Result<(), NoRoom> {
        if self.deciding.saturating_add(self.open) >= max_open {
            return Err(NoRoom::Open);
        }
        if self.deciding >= MAX_DECIDING {
            return Err(NoRoom::Deciding);
        }
        if self.bytes.saturating_add(weight(call)) > MAX_BYTES {
            return Err(NoRoom::Bytes);
        }
        Ok(())
    }
}

/// The bytes of a call that its caller can make many of.
fn weight(call: &Call) -> usize {
    match &call.stage {
        Stage::Deciding => call.service.as_str().len(),
        Stage::Preparing { request } | Stage::Greeting { request } => request.len(),
        Stage::Made | Stage::Asking | Stage::Starting { .. } | Stage::Watched | Stage::Served => 0,
    }
}
