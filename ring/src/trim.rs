#![allow(unsafe_code)] // madvise(MADV_REMOVE) on ring pages.
//! Returning the memory of an empty ring to the system.

use rustix::mm::{Advice, madvise};

use crate::layout::PAGE;
use crate::region::Region;

/// Frees the pages behind `len` bytes at `offset`, for both sides: they read as zeroes afterwards, and
/// come back when they are written.
///
/// Does nothing where memory cannot be returned in this way: granted pages, private staging, rings inside page 0.
pub(crate) fn discard(region: &Region, offset: usize, len: usize) {
    if len < PAGE || !offset.is_multiple_of(PAGE) {
        return;
    }
    let at = region.address(offset, len);
    // SAFETY: `address` checked the range, which begins at a page; nothing refers to its contents, which
    // the caller owns and does not need: the ring is empty. The mapping stays, and its file's size too.
    let _ = unsafe { madvise(at.cast(), len, Advice::LinuxRemove) };
}
