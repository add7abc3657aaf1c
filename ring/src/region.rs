#![allow(unsafe_code)] // The one place that dereferences shared memory: atomics on page 0, byte copies on ring pages.
//! Raw mappings: page 0 and the ring pages behind it, in one piece or in two.
//!
//! Offsets run on from the first mapping into the second, so nobody else has to know where page 0 ends.
//!
//! The peer may write any byte of it at any time. So there is never a reference to its contents: words
//! are read and written through atomics made for the one access, bytes one by one through atomics too.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

use memmap2::{MmapMut, MmapOptions, MmapRaw};

use crate::error::Error;
use crate::layout::{Orders, PAGE};
use crate::page::{Flag, Page, Word};

/// Mappings that live as long as the channel; shared by both ring halves through an `Arc`.
pub(crate) struct Region {
    /// Page 0, and whatever was mapped together with it.
    head: MmapRaw,
    /// Ring pages that were mapped apart from page 0. Its offset zero follows the last byte of `head`.
    tail: Option<MmapRaw>,
    orders: Orders,
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
        Ok(Region { head: map, tail: None, orders, copied: AtomicU64::new(0) })
    }

    /// Memory of this process alone, for transports whose peer shares none.
    pub(crate) fn private(orders: Orders) -> Result<Region, Error> {
        let map = MmapMut::map_anon(orders.region_bytes()).map_err(Error::io("mapping a private ring"))?;
        Ok(Region { head: map.into(), tail: None, orders, copied: AtomicU64::new(0) })
    }

    /// Pages that a device mapped, all in one piece.
    ///
    /// # Panics
    /// When they are not as many as `orders` say (an error of this crate).
    #[cfg(feature = "xen")]
    pub(crate) fn whole(head: MmapRaw, orders: Orders) -> Region {
        assert_eq!(head.len(), orders.region_bytes(), "a region of another size");
        Region { head, tail: None, orders, copied: AtomicU64::new(0) }
    }

    /// The same page 0 with the ring pages that it was found to speak of.
    ///
    /// # Panics
    /// When both together are not as many as `orders` say (an error of this crate).
    #[cfg(feature = "xen")]
    pub(crate) fn extended(self, tail: Option<MmapRaw>, orders: Orders) -> Region {
        let len = self.head.len() + tail.as_ref().map_or(0, MmapRaw::len);
        assert!(self.tail.is_none() && len == orders.region_bytes(), "a region of another size");
        Region { head: self.head, tail, orders, copied: self.copied }
    }

    /// The orders this region was mapped for; never read back from the page.
    pub(crate) fn orders(&self) -> Orders {
        self.orders
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

    /// Copies bytes in, one relaxed store each: the peer may be reading them.
    pub(crate) fn copy_in(&self, offset: usize, bytes: &[u8]) {
        let to = self.address(offset, bytes.len());
        self.copied.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        for (i, byte) in bytes.iter().enumerate() {
            // SAFETY: `address` checked `bytes.len()` bytes from `to`, and `i` is below that length.
            let at = unsafe { to.add(i) };
            // SAFETY: `at` is inside the live mapping, a byte needs no alignment, and every access of
            // this process to shared bytes is atomic (or the kernel's).
            unsafe { AtomicU8::from_ptr(at) }.store(*byte, Ordering::Relaxed);
        }
    }

    /// Copies bytes out, one relaxed load each: what is returned cannot change any more.
    pub(crate) fn copy_out(&self, offset: usize, bytes: &mut [u8]) {
        let from = self.address(offset, bytes.len());
        self.copied.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        for (i, byte) in bytes.iter_mut().enumerate() {
            // SAFETY: `address` checked `bytes.len()` bytes from `from`, and `i` is below that length.
            let at = unsafe { from.add(i) };
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

#[cfg(all(test, feature = "xen"))]
mod tests {
    use super::*;

    fn anonymous(pages: usize) -> MmapRaw {
        MmapMut::map_anon(pages * PAGE).unwrap().into()
    }

    /// Page 0 apart from the rings: every byte is where the same offset of one mapping would have it.
    #[test]
    fn two_mappings_are_one_region() {
        let orders = Orders::validate(12, 13).unwrap();
        let head = Region::whole(anonymous(1), Orders::validate(10, 11).unwrap());
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

    #[test]
    #[should_panic = "span outside the region"]
    fn nothing_lies_in_both_mappings() {
        let head = Region::whole(anonymous(1), Orders::validate(10, 11).unwrap());
        let region = head.extended(Some(anonymous(2)), Orders::validate(12, 12).unwrap());
        region.address(PAGE - 1, 2);
    }
}
