#![allow(unsafe_code)] // Copies between a C caller's buffer and ring memory.
//! A C caller's buffers, and the one copy between them and the ring.
//!
//! The ring's side of each copy is done by relaxed atomics, eight bytes at a time: the peer may touch the same bytes
//! at any moment, and must find or cause nothing worse than other bytes. No reference to either side is ever formed.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use ring::Spans;

use crate::failure::Failure;

/// Bytes copied at a time.
const WORD: usize = size_of::<u64>();

/// `len` readable bytes that a C caller lent us for one call.
pub(crate) struct Source<'a> {
    at: *const u8,
    len: usize,
    lent: PhantomData<&'a [u8]>,
}

/// `len` writable bytes that a C caller lent us for one call. They need not be initialised.
pub(crate) struct Target<'a> {
    at: *mut u8,
    len: usize,
    lent: PhantomData<&'a mut [u8]>,
}

/// Checks what can be checked of a buffer: results are `int`s, and only no bytes at all may be nowhere.
fn check(null: bool, len: usize) -> Result<(), Failure> {
    if (null && len > 0) || i32::try_from(len).is_err() { Err(Failure::Invalid) } else { Ok(()) }
}

impl<'a> Source<'a> {
    /// # Safety
    /// Unless it is null, `at` points to `len` bytes that can be read for as long as the result lives.
    pub(crate) unsafe fn new(at: *const c_void, len: usize) -> Result<Source<'a>, Failure> {
        check(at.is_null(), len)?;
        Ok(Source { at: at.cast(), len, lent: PhantomData })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The first `n` bytes, as our own. At most `len`.
    pub(crate) fn to_vec(&self, n: usize) -> Vec<u8> {
        let n = n.min(self.len);
        let mut bytes = vec![0; n];
        // SAFETY: `at` is readable for `len >= n` bytes (contract of `new`; not null, since n is then 0 and nothing is
        // read), `bytes` was made with `n` bytes just now, so the two cannot overlap.
        unsafe { std::ptr::copy_nonoverlapping(self.at, bytes.as_mut_ptr(), n) };
        bytes
    }

    /// Copies the first bytes into the ring pieces: as many as the pieces hold, at most `len`.
    pub(crate) fn fill(&self, spans: &Spans<'_>) {
        let mut done = 0;
        for (to, len) in pieces(spans) {
            let len = len.min(self.len - done);
            // SAFETY: `done + len <= self.len`, so this stays within (or one past) what the caller lent.
            let from = unsafe { self.at.add(done) };
            // SAFETY: `from` is readable for `len` bytes as just shown; `to` is a live piece of at least `len` bytes.
            unsafe { into_ring(to, from, len) };
            done += len;
        }
    }
}

impl<'a> Target<'a> {
    /// # Safety
    /// Unless it is null, `at` points to `len` bytes that can be written for as long as the result lives.
    pub(crate) unsafe fn new(at: *mut c_void, len: usize) -> Result<Target<'a>, Failure> {
        check(at.is_null(), len)?;
        Ok(Target { at: at.cast(), len, lent: PhantomData })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Copies the ring pieces to the beginning of the buffer: all of them, at most `len` bytes.
    pub(crate) fn drain(&mut self, spans: &Spans<'_>) {
        let mut done = 0;
        for (from, len) in pieces(spans) {
            let len = len.min(self.len - done);
            // SAFETY: `done + len <= self.len`, so this stays within (or one past) what the caller lent.
            let to = unsafe { self.at.add(done) };
            // SAFETY: `to` is writable for `len` bytes as just shown; `from` is a live piece of at least `len` bytes.
            unsafe { out_of_ring(from, to, len) };
            done += len;
        }
    }
}

/// Address and length of each piece.
fn pieces<'s>(spans: &'s Spans<'_>) -> impl Iterator<Item = (*mut u8, usize)> + 's {
    let (list, count) = spans.as_raw();
    (0..count as usize).map(move |i| {
        // SAFETY: `as_raw` hands out `count` entries, and `i` is below it.
        let entry = unsafe { list.add(i) };
        // SAFETY: the list lies inside `spans`, which the iterator borrows; entries are plain initialised data.
        let piece = unsafe { entry.read() };
        (piece.iov_base.cast(), piece.iov_len)
    })
}

/// Bytes before the first address at or after `at` that a word may have, at most `len`.
fn head(at: *mut u8, len: usize) -> usize {
    at.align_offset(align_of::<u64>()).min(len)
}

/// # Safety
/// `to` is a live ring piece of `len` bytes, `from` is readable for `len` bytes.
unsafe fn into_ring(to: *mut u8, from: *const u8, len: usize) {
    let head = head(to, len);
    let words = (len - head) / WORD;
    let tail = head + words * WORD;
    for i in (0..head).chain(tail..len) {
        // SAFETY: `i < len`, for which both are good; a byte needs no alignment; ring bytes are accessed atomically.
        unsafe { AtomicU8::from_ptr(to.add(i)).store(*from.add(i), Ordering::Relaxed) };
    }
    for i in (head..tail).step_by(WORD) {
        // SAFETY: `i + WORD <= tail <= len`; `to + head` is aligned for a word and `i - head` a multiple of its size;
        // the source is read unaligned.
        unsafe {
            AtomicU64::from_ptr(to.add(i).cast()).store(from.add(i).cast::<u64>().read_unaligned(), Ordering::Relaxed);
        };
    }
}

/// # Safety
/// `from` is a live ring piece of `len` bytes, `to` is writable for `len` bytes.
unsafe fn out_of_ring(from: *mut u8, to: *mut u8, len: usize) {
    let head = head(from, len);
    let words = (len - head) / WORD;
    let tail = head + words * WORD;
    for i in (0..head).chain(tail..len) {
        // SAFETY: `i < len`, for which both are good; a byte needs no alignment; ring bytes are accessed atomically.
        unsafe { to.add(i).write(AtomicU8::from_ptr(from.add(i)).load(Ordering::Relaxed)) };
    }
    for i in (head..tail).step_by(WORD) {
        // SAFETY: `i + WORD <= tail <= len`; `from + head` is aligned for a word and `i - head` a multiple of its size;
        // the target is written unaligned.
        unsafe {
            let word = AtomicU64::from_ptr(from.add(i).cast()).load(Ordering::Relaxed);
            to.add(i).cast::<u64>().write_unaligned(word);
        };
    }
}
