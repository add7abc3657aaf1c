#![allow(unsafe_code)] // The one place that dereferences shared memory: atomics on page 0, byte copies on ring pages.
//! Raw mappings: page 0 and the ring pages behind it, in one piece or in two.
//!
//! Offsets run on from the first mapping into the second, so no caller has to know where page 0 ends.
//!
//! The peer may write any byte of it at any time. So there is never a reference to its contents: words are read and
//! written through atomics made for the one access; bytes too, or in blocks by the machine's own instructions
//! (`wide.rs`).

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

use memmap2::{Advice, MmapMut, MmapOptions, MmapRaw};

use crate::error::Error;
use crate::layout::{Orders, PAGE};
use crate::mapping::Mapping;
use crate::page::{Flag, Page, Word};
use crate::wide::copy_blocks;

/// Mappings that live as long as the channel; shared by both ring halves through an `Arc`.
pub(crate) struct Region {
    /// Page 0, and whatever was mapped together with it.
    head: Mapping,
    /// Ring pages that were mapped apart from page 0. Its offset zero follows the last byte of `head`.
    tail: Option<Mapping>,
    orders: Orders,
    /// The pages are another domain's.
    foreign: bool,
    /// Bytes copied by this process, not by the kernel, in and out.
    copied: AtomicU64,
}

impl Region {
    /// Maps a file whose size was checked to be exactly `orders.region_bytes()` and cannot shrink.
    pub(crate) fn map(fd: BorrowedFd<'_>, orders: Orders) -> Result<Region, Error> {
        use std::os::fd::AsRawFd;
        let len = orders.region_bytes();
        let map = MmapOptions::new()
            .len(len)
            .map_raw(fd.as_raw_fd())
            .map_err(Error::io("mapping the vchan pages"))?;
        not_inherited(&map);
        Ok(Region { head: map.into(), tail: None, orders, foreign: false, copied: AtomicU64::new(0) })
    }

    /// Memory of this process alone, for transports whose peer shares none.
    pub(crate) fn private(orders: Orders) -> Result<Region, Error> {
        let map = MmapMut::map_anon(orders.region_bytes()).map_err(Error::io("mapping a private ring"))?;
        Ok(Region { head: map.into(), tail: None, orders, foreign: false, copied: AtomicU64::new(0) })
    }

    /// Pages that a device mapped, in one piece or in two.
    ///
    /// # Panics
    /// When they are not as many as `orders` say (an error of this crate).
    #[cfg(feature = "xen")]
    pub(crate) fn of(head: Mapping, tail: Option<Mapping>, orders: Orders) -> Region {
        let len = head.len() + tail.as_ref().map_or(0, Mapping::len);
        assert!(len == orders.region_bytes(), "a region of another size");
        Region { head, tail, orders, foreign: false, copied: AtomicU64::new(0) }
    }

    /// As [`Region::of`], of pages that another domain granted. They must never be lent to the kernel beyond a
    /// transfer: if something still holds such a page when it is unmapped, its bytes are lost, and its domain never
    /// gets the page back.
    #[cfg(feature = "xen")]
    pub(crate) fn foreign(head: Mapping, orders: Orders) -> Region {
        Region { foreign: true, ..Region::of(head, None, orders) }
    }

    /// The same page 0 together with the ring pages that its grant list names.
    ///
    /// # Panics
    /// When both together are not as many as `orders` say (an error of this crate).
    #[cfg(feature = "xen")]
    pub(crate) fn extended(self, tail: Option<Mapping>, orders: Orders) -> Region {
        let len = self.head.len() + tail.as_ref().map_or(0, Mapping::len);
        assert!(self.tail.is_none() && len == orders.region_bytes(), "a region of another size");
        Region { head: self.head, tail, orders, foreign: self.foreign, copied: self.copied }
    }

    /// Keeps processes that are forked from now on from inheriting any of the mappings.
    pub(crate) fn keep_from_children(&self) -> Result<(), Error> {
        let mut maps = std::iter::once(&self.head).chain(&self.tail);
        maps.try_for_each(Mapping::keep_from_children)
            .map_err(Error::io("keeping the vchan pages from child processes"))
    }

    /// The same region with its first piece mapped anew.
    ///
    /// # Panics
    /// When that is not as long (an error of this crate).
    #[cfg(feature = "xen")]
    pub(crate) fn with_head(self, head: Mapping) -> Region {
        assert_eq!(self.head.len(), head.len(), "another piece");
        Region { head, ..self }
    }

    /// The orders this region was mapped for; never read back from the page.
    pub(crate) fn orders(&self) -> Orders {
        self.orders
    }

    /// Whether the pages are another domain's, see [`Region::foreign`].
    pub(crate) fn is_foreign(&self) -> bool {
        self.foreign
    }

    /// Bytes that this process has copied in and out by itself so far.
    pub(crate) fn copied(&self) -> u64 {
        self.copied.load(Ordering::Relaxed)
    }

    /// Address of `len` bytes at `offset`.
    ///
    /// # Panics
    /// When they do not lie in one mapping: an error of this crate, which no peer can cause, since
    /// every offset is masked by an order that was fixed when the region was mapped, and no ring lies
    /// in both mappings.
    pub(crate) fn address(&self, offset: usize, len: usize) -> *mut u8 {
        let (map, at) = match &self.tail {
            Some(tail) if offset >= self.head.len() => (tail, offset - self.head.len()),
            _ => (&self.head, offset),
        };
        assert!(at.checked_add(len).is_some_and(|end| end <= map.len()), "span outside the region");
        // SAFETY: the assertion above keeps `at` and the bytes behind it inside `map`, one mapped object
        // that lives as long as `self`.
        unsafe { map.as_mut_ptr().add(at) }
    }

    /// Copies bytes in by relaxed stores: the peer may be reading them.
    pub(crate) fn copy_in(&self, offset: usize, bytes: &[u8]) {
        let to = self.address(offset, bytes.len());
        self.copied.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        // SAFETY: `address` checked `bytes.len()` bytes from `to`, which are shared memory and so none of `bytes`.
        let wide = unsafe { copy_blocks(to, bytes.as_ptr(), bytes.len()) };
        // SAFETY: `wide` is at most the length that was checked.
        let (to, bytes) = (unsafe { to.add(wide) }, &bytes[wide..]);
        let (head, words) = bytes.split_at(before_words(to, bytes.len()));
        let (words, tail) = words.as_chunks::<WORD>();
        for (i, byte) in head.iter().enumerate() {
            // SAFETY: `address` checked `bytes.len()` bytes from `to`, and `i` is below that length.
            let at = unsafe { to.add(i) };
            // SAFETY: `at` is inside the live mapping, a byte needs no alignment, and every access of
            // this process to shared bytes is atomic (or the kernel's).
            unsafe { AtomicU8::from_ptr(at) }.store(*byte, Ordering::Relaxed);
        }
        for (i, word) in words.iter().enumerate() {
            // SAFETY: the word's bytes are among those that `address` checked.
            let at = unsafe { to.add(head.len() + i * WORD) };
            // SAFETY: inside the live mapping, and aligned, since `before_words` bytes lie before the first; no thread of
            // this process makes an access of another width at the same time: a producer's bytes are its own.
            unsafe { AtomicU64::from_ptr(at.cast()) }.store(u64::from_ne_bytes(*word), Ordering::Relaxed);
        }
        let done = bytes.len() - tail.len();
        for (i, byte) in tail.iter().enumerate() {
            // SAFETY: as for the first bytes.
            let at = unsafe { to.add(done + i) };
            // SAFETY: as for the first bytes.
            unsafe { AtomicU8::from_ptr(at) }.store(*byte, Ordering::Relaxed);
        }
    }

    /// Copies bytes out by relaxed loads: what is returned cannot change any more.
    pub(crate) fn copy_out(&self, offset: usize, bytes: &mut [u8]) {
        let from = self.address(offset, bytes.len());
        self.copied.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        // SAFETY: `address` checked `bytes.len()` bytes from `from`, which are shared memory and so none of `bytes`.
        let wide = unsafe { copy_blocks(bytes.as_mut_ptr(), from, bytes.len()) };
        // SAFETY: `wide` is at most the length that was checked.
        let (from, bytes) = (unsafe { from.add(wide) }, &mut bytes[wide..]);
        let len = bytes.len();
        let (head, words) = bytes.split_at_mut(before_words(from, len));
        let (words, tail) = words.as_chunks_mut::<WORD>();
        for (i, byte) in head.iter_mut().enumerate() {
            // SAFETY: `address` checked `len` bytes from `from`, and `i` is below that length.
            let at = unsafe { from.add(i) };
            // SAFETY: as in `copy_in`.
            *byte = unsafe { AtomicU8::from_ptr(at) }.load(Ordering::Relaxed);
        }
        for (i, word) in words.iter_mut().enumerate() {
            // SAFETY: the word's bytes are among those that `address` checked.
            let at = unsafe { from.add(head.len() + i * WORD) };
            // SAFETY: as in `copy_in`.
            *word = unsafe { AtomicU64::from_ptr(at.cast()) }.load(Ordering::Relaxed).to_ne_bytes();
        }
        let done = len - tail.len();
        for (i, byte) in tail.iter_mut().enumerate() {
            // SAFETY: as for the first bytes.
            let at = unsafe { from.add(done + i) };
            // SAFETY: as in `copy_in`.
            *byte = unsafe { AtomicU8::from_ptr(at) }.load(Ordering::Relaxed);
        }
    }

    fn word(&self, word: Word) -> &AtomicU32 {
        let at = self.address(word as usize, 4).cast::<u32>();
        // SAFETY: inside the first mapping for as long as `self` is borrowed; it is page-aligned and
        // each `Word` offset a multiple of four (asserted below); an atomic may be shared with any writer.
        unsafe { AtomicU32::from_ptr(at) }
    }

    fn byte(&self, flag: Flag) -> &AtomicU8 {
        let at = self.address(flag as usize, 1);
        // SAFETY: as for `word`; a byte needs no alignment.
        unsafe { AtomicU8::from_ptr(at) }
    }
}

/// Bytes that are copied at once where both ends of the ring page are aligned.
const WORD: usize = size_of::<u64>();

/// How many of `len` bytes at `at` come before the first aligned word.
fn before_words(at: *mut u8, len: usize) -> usize {
    at.align_offset(WORD).min(len)
}

const _: () = assert!(
    (Word::LeftCons as usize).is_multiple_of(4)
        && (Word::LeftProd as usize).is_multiple_of(4)
        && (Word::RightCons as usize).is_multiple_of(4)
        && (Word::RightProd as usize).is_multiple_of(4)
        && (Word::RightProd as usize) < PAGE
);

impl Page for Region {
    fn index(&self, word: Word) -> u32 {
        u32::from_le(self.word(word).load(Ordering::Acquire))
    }

    fn publish(&self, word: Word, value: u32) {
        self.word(word).store(value.to_le(), Ordering::Release);
    }

    fn flag(&self, flag: Flag) -> u8 {
        self.byte(flag).load(Ordering::Acquire)
    }

    fn set_flag(&self, flag: Flag, value: u8) {
        self.byte(flag).store(value, Ordering::Release);
    }

    fn set_bits(&self, flag: Flag, bits: u8) {
        self.byte(flag).fetch_or(bits, Ordering::SeqCst);
    }

    fn take_bits(&self, flag: Flag, bits: u8) -> u8 {
        self.byte(flag).fetch_and(!bits, Ordering::SeqCst)
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Region({:?})", self.orders)
    }
}

/// Keeps forked processes from inheriting pages that are shared with a peer: they would keep the pages alive after
/// their owner has gone, and the peer could not see that this process has ended. Devices may do so by themselves;
/// where it is not possible, nothing else is lost.
fn not_inherited(map: &MmapRaw) {
    let _ = map.advise(Advice::DontFork);
}

#[cfg(all(test, feature = "xen"))]
mod tests {
    use super::*;

    fn anonymous(pages: usize) -> Mapping {
        MmapMut::map_anon(pages * PAGE).unwrap().into()
    }

    /// What the kernel says about the mapping at an address.
    fn flags(address: *mut u8) -> String {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let start = format!("{:x}-", address as usize);
        let mut lines = maps.lines().skip_while(|line| !line.starts_with(&start));
        lines.find_map(|line| line.strip_prefix("VmFlags:")).unwrap().to_owned()
    }

    #[test]
    fn no_forked_process_keeps_shared_pages() {
        let orders = Orders::validate(12, 12).unwrap();
        let memfd = rustix::fs::memfd_create("pages", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&memfd, orders.region_bytes() as u64).unwrap();
        let shared = Region::map(std::os::fd::AsFd::as_fd(&memfd), orders).unwrap();
        let private = Region::private(orders).unwrap();
        for (region, kept) in [(&shared, false), (&private, true)] {
            let flags = flags(region.address(0, 1));
            assert_eq!(flags.split_whitespace().any(|flag| flag == "dc"), !kept, "{flags}");
        }
    }

    #[test]
    fn two_mappings_are_one_region() {
        let orders = Orders::validate(12, 13).unwrap();
        let head = Region::of(anonymous(1), None, Orders::validate(10, 11).unwrap());
        let region = head.extended(Some(anonymous(3)), orders);
        let left = region.address(orders.left_offset(), orders.left.bytes());
        let right = region.address(orders.right_offset(), orders.right.bytes());
        assert_eq!(left.wrapping_add(PAGE), right);
        region.copy_in(orders.right_offset() + 5, b"there");
        region.publish(Word::LeftProd, 7);
        let mut bytes = [0; 5];
        region.copy_out(orders.right_offset() + 5, &mut bytes);
        assert_eq!((&bytes, region.index(Word::LeftProd)), (b"there", 7));
    }

    /// From and to every alignment, in every length around that of a word, what is copied is that and nothing else.
    #[test]
    fn copies_are_exact_wherever_they_begin_and_end() {
        let region = Region::of(anonymous(3), None, Orders::validate(12, 12).unwrap());
        let bytes: Vec<u8> = (1..=40).collect();
        for (at, len) in (0..17).flat_map(|at| (0..33).map(move |len| (at, len))) {
            region.copy_in(PAGE, &[0; 64]);
            region.copy_in(PAGE + at, &bytes[at % 8..][..len]);
            let mut all = [9; 64];
            region.copy_out(PAGE, &mut all);
            let mut wanted = [0; 64];
            wanted[at..at + len].copy_from_slice(&bytes[at % 8..][..len]);
            assert_eq!(all, wanted, "{len} bytes at {at}");
            let mut part = vec![0; len];
            region.copy_out(PAGE + at, &mut part);
            assert_eq!(part, wanted[at..at + len]);
        }
    }

    /// What was written on page 0 before is on the page that takes its place, if it is the same page; the rings stay.
    #[test]
    fn a_first_piece_may_be_replaced() {
        let orders = Orders::validate(12, 12).unwrap();
        let region = Region::of(anonymous(1), Some(anonymous(2)), orders);
        region.copy_in(orders.right_offset(), b"ring");
        let ring = region.address(orders.left_offset(), 1);
        let anew = anonymous(1);
        let at = anew.as_mut_ptr();
        let region = region.with_head(anew);
        let mut bytes = [0; 4];
        region.copy_out(orders.right_offset(), &mut bytes);
        assert_eq!(
            (region.address(0, 1), region.address(orders.left_offset(), 1), &bytes),
            (at, ring, b"ring")
        );
    }

    #[test]
    #[should_panic = "span outside the region"]
    fn nothing_lies_in_both_mappings() {
        let head = Region::of(anonymous(1), None, Orders::validate(10, 11).unwrap());
        let region = head.extended(Some(anonymous(2)), Orders::validate(12, 12).unwrap());
        region.address(PAGE - 1, 2);
    }
}
