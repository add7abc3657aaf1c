#![forbid(unsafe_code)]
//! The sending half of a ring: reserve, fill, commit.

use std::sync::Arc;

use crate::error::BadIndex;
use crate::index::{self, Mark};
use crate::page::{Page, Word};
use crate::region::Region;
use crate::spans::Spans;
use crate::trim;

/// The index half: what a producer knows, apart from where the bytes are.
#[derive(Debug)]
pub(crate) struct TxIndex {
    prod_word: Word,
    cons_word: Word,
    /// This copy is the truth: the page's copy is written and never read.
    prod: u32,
    /// The last `cons` that passed the check.
    seen: u32,
    size: u32,
}

impl TxIndex {
    pub(crate) fn new(prod_word: Word, cons_word: Word, size: u32) -> TxIndex {
        TxIndex { prod_word, cons_word, prod: 0, seen: 0, size }
    }

    /// Looks at the peer's `cons` once. Returns the bytes of room, or why the value cannot be true.
    ///
    /// The acquire pairs with the consumer's release: its reads of the freed bytes come before our writes.
    pub(crate) fn room(&mut self, page: &impl Page) -> Result<usize, BadIndex> {
        let cons = page.index(self.cons_word);
        let used = index::check_cons(self.prod, self.seen, cons, self.size)?;
        self.seen = cons;
        Ok((self.size - used) as usize)
    }

    /// Room as of the last look.
    pub(crate) fn known_room(&self) -> usize {
        (self.size - index::distance(self.seen, self.prod)) as usize
    }

    /// Publishes `n` bytes. The release orders what was written into them before the new index.
    pub(crate) fn commit(&mut self, page: &impl Page, n: usize) {
        assert!(n <= self.known_room(), "commit of more than was reserved");
        self.prod = self.prod.wrapping_add(n as u32);
        page.publish(self.prod_word, self.prod);
    }
}

/// The sending half. Bytes between `prod` and `prod + room()` belong to this side until `commit`.
#[derive(Debug)]
pub struct Producer {
    region: Arc<Region>,
    base: usize,
    index: TxIndex,
    flushed: Mark,
}

impl Producer {
    pub(crate) fn new(region: Arc<Region>, base: usize, index: TxIndex) -> Producer {
        Producer { region, base, index, flushed: Mark::default() }
    }

    /// Ring size in bytes.
    pub fn size(&self) -> usize {
        self.index.size as usize
    }

    /// Looks at the peer's index: bytes that may be filled now.
    pub fn room(&mut self) -> Result<usize, BadIndex> {
        self.index.room(&*self.region)
    }

    /// Room as of the last look, without touching shared memory.
    pub fn known_room(&self) -> usize {
        self.index.known_room()
    }

    /// Bytes committed and not yet known to be taken.
    pub fn in_flight(&self) -> usize {
        self.size() - self.known_room()
    }

    /// Copies `bytes` to `at` bytes after `prod`. For headers and control messages.
    ///
    /// # Panics
    /// When the place is not inside the known room (an error of the caller).
    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        let mut rest = bytes;
        for (offset, len) in self.pieces(at, bytes.len()) {
            let (now, later) = rest.split_at(len);
            self.region.copy_in(self.base + offset, now);
            rest = later;
        }
    }

    /// Appends the ring memory from `at` to `at + len` after `prod` to `out`, for the kernel to fill.
    ///
    /// Returns false, appending nothing, when `out` has no place for it.
    ///
    /// # Panics
    /// When the place is not inside the known room (an error of the caller).
    pub fn spans<'a>(&'a self, at: usize, len: usize, out: &mut Spans<'a>) -> bool {
        out.push(&self.region, self.base, self.pieces(at, len))
    }

    /// Publishes `n` bytes; the doorbell waits for a flush of the link.
    ///
    /// # Panics
    /// When `n` is more than the known room (an error of the caller).
    pub fn commit(&mut self, n: usize) {
        self.index.commit(&*self.region, n);
        self.flushed.add(n);
    }

    /// Bytes committed since the last flush.
    pub fn unflushed(&self) -> u64 {
        self.flushed.pending()
    }

    /// Notes a flush: whether there was anything to flush.
    pub(crate) fn flushed(&mut self) -> bool {
        self.flushed.reach()
    }

    /// Returns the ring's memory to the system, if the peer has taken everything that was in it.
    pub fn trim(&mut self) -> Result<(), BadIndex> {
        if self.room()? == self.size() {
            trim::discard(&self.region, self.base, self.size());
        }
        Ok(())
    }

    fn pieces(&self, at: usize, len: usize) -> [(usize, usize); 2] {
        assert!(at + len <= self.known_room(), "reservation beyond the room");
        index::pieces(self.index.prod.wrapping_add(at as u32), len, self.index.size)
    }
}
