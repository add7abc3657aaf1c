//! Bytes that a local side has not taken yet.

use alloc::vec::Vec;

/// With more bytes than this, the memory of those that were taken is freed although some are left.
const COMPACT: usize = 1 << 16;

/// A queue of bytes.
#[derive(Debug, Default)]
pub(super) struct Kept {
    bytes: Vec<u8>,
    taken: usize,
}

impl Kept {
    pub(super) fn pending(&self) -> &[u8] {
        self.bytes.get(self.taken..).unwrap_or_default()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len().saturating_sub(self.taken)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Removes `n` bytes from the front, or as many as there are. Returns how many.
    pub(super) fn take(&mut self, n: usize) -> usize {
        let n = n.min(self.len());
        self.taken = self.taken.saturating_add(n);
        if self.is_empty() {
            self.bytes.clear();
            self.taken = 0;
            // The memory of a burst is freed after it.
            self.bytes.shrink_to(COMPACT);
        } else if self.taken > COMPACT {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
        n
    }

    /// Returns the bytes that are left.
    pub(super) fn into_rest(mut self) -> Vec<u8> {
        self.bytes.drain(..self.taken.min(self.bytes.len()));
        self.bytes
    }

    pub(super) fn as_vec(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}
