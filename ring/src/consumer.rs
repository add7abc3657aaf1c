#![forbid(unsafe_code)]
//! The receiving half of a ring: peek, use, release.

use std::sync::Arc;

use crate::error::BadIndex;
use crate::index::{self, Mark};
use crate::page::{Page, Word};
use crate::region::Region;
use crate::spans::Spans;

/// The index half: what a consumer knows, apart from where the bytes are.
#[derive(Debug)]
pub(crate) struct RxIndex {
    prod_word: Word,
    cons_word: Word,
    /// How far bytes were used. This copy is the truth, as is `given`: the page's copy is written and never read.
    cons: u32,
    /// How far they were given back: `cons`, or less while somebody still reads what was lent to it.
    given: u32,
    /// The last `prod` that passed the check.
    seen: u32,
    size: u32,
}

impl RxIndex {
    pub(crate) fn new(prod_word: Word, cons_word: Word, size: u32) -> RxIndex {
        RxIndex { prod_word, cons_word, cons: 0, given: 0, seen: 0, size }
    }

    /// Looks at the peer's `prod` once. Returns the bytes that are ready, or why the value cannot be true.
    ///
    /// The acquire pairs with the producer's release: the bytes it names are there.
    pub(crate) fn ready(&mut self, page: &impl Page) -> Result<usize, BadIndex> {
        let prod = page.index(self.prod_word);
        index::check_prod(self.given, self.seen, prod, self.size)?;
        self.seen = prod;
        Ok(self.known_ready())
    }

    /// Bytes ready as of the last look.
    pub(crate) fn known_ready(&self) -> usize {
        index::distance(self.cons, self.seen) as usize
    }

    /// Steps over `n` bytes that stay in use.
    pub(crate) fn take(&mut self, n: usize) {
        assert!(n <= self.known_ready(), "take of more than was ready");
        self.cons = self.cons.wrapping_add(n as u32);
    }

    /// Gives `n` bytes back. The release orders our reads of them before the new index.
    pub(crate) fn give(&mut self, page: &impl Page, n: usize) {
        assert!(n <= index::distance(self.given, self.cons) as usize, "release of more than was taken");
        self.given = self.given.wrapping_add(n as u32);
        page.publish(self.cons_word, self.given);
    }
}

/// The receiving half. Bytes between `cons` and `cons + ready()` stay where they are until `release`,
/// but the peer can change them at any moment: read each once.
#[derive(Debug)]
pub struct Consumer {
    region: Arc<Region>,
    base: usize,
    index: RxIndex,
    flushed: Mark,
}

impl Consumer {
    pub(crate) fn new(region: Arc<Region>, base: usize, index: RxIndex) -> Consumer {
        Consumer { region, base, index, flushed: Mark::default() }
    }

    /// Ring size in bytes.
    pub fn size(&self) -> usize {
        self.index.size as usize
    }

    /// Looks at the peer's index: bytes that may be read now.
    pub fn ready(&mut self) -> Result<usize, BadIndex> {
        self.index.ready(&*self.region)
    }

    /// Bytes ready as of the last look, without touching shared memory.
    pub fn known_ready(&self) -> usize {
        self.index.known_ready()
    }

    /// Copies bytes from `at` bytes after `cons`. For headers, control messages and filtered text.
    ///
    /// # Panics
    /// When the place is not inside what is known to be ready (an error of the caller).
    pub fn get(&self, at: usize, bytes: &mut [u8]) {
        let mut rest = bytes;
        for (offset, len) in self.pieces(at, rest.len()) {
            let (now, later) = rest.split_at_mut(len);
            self.region.copy_out(self.base + offset, now);
            rest = later;
        }
    }

    /// Appends the ring memory from `at` to `at + len` after `cons` to `out`, for the kernel to drain.
    ///
    /// Returns false, appending nothing, when `out` has no place for it.
    ///
    /// # Panics
    /// When the place is not inside what is known to be ready (an error of the caller).
    pub fn spans<'a>(&'a self, at: usize, len: usize, out: &mut Spans<'a>) -> bool {
        out.push(&self.region, self.base, self.pieces(at, len))
    }

    /// Steps over `n` bytes and gives them back to the producer. Nothing may be out on loan.
    ///
    /// # Panics
    /// When `n` is more than is known to be ready (an error of the caller).
    pub fn release(&mut self, n: usize) {
        self.take(n);
        self.give(n);
    }

    /// Steps over `n` bytes without giving them back: somebody still reads them in place.
    ///
    /// # Panics
    /// When `n` is more than is known to be ready (an error of the caller).
    pub fn take(&mut self, n: usize) {
        self.index.take(n);
    }

    /// Gives the first `n` bytes back that were taken and not given back yet; the doorbell waits for a flush of the link.
    ///
    /// # Panics
    /// When that is more than was taken (an error of the caller).
    pub fn give(&mut self, n: usize) {
        self.index.give(&*self.region, n);
        self.flushed.add(n);
    }

    /// Bytes given back since the last flush.
    pub fn unflushed(&self) -> u64 {
        self.flushed.pending()
    }

    /// Notes a flush: whether there was anything to flush.
    pub(crate) fn flushed(&mut self) -> bool {
        self.flushed.reach()
    }

    fn pieces(&self, at: usize, len: usize) -> [(usize, usize); 2] {
        assert!(at + len <= self.known_ready(), "peek beyond what is ready");
        index::pieces(self.index.cons.wrapping_add(at as u32), len, self.index.size)
    }
}
