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

/// Checks what can be checked of a buffer: results are `int`s, and only an empty buffer may have a null pointer.
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

    #[cfg(test)]
    pub(crate) fn of(bytes: &'a [u8]) -> Source<'a> {
        Source { at: bytes.as_ptr(), len: bytes.len(), lent: PhantomData }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// What follows the first `n` bytes.
    pub(crate) fn after(&self, n: usize) -> Source<'a> {
        let n = n.min(self.len);
        Source { at: self.at.wrapping_add(n), len: self.len - n, lent: PhantomData }
    }

    /// The first `n` bytes, as our own. At most `len`.
    pub(crate) fn to_vec(&self, n: usize) -> Vec<u8> {
        // SAFETY: `i < len`, for which `at` is readable.
        (0..n.min(self.len)).map(|i| unsafe { self.at.wrapping_add(i).read() }).collect()
    }

    /// Copies the first bytes into the ring pieces: as many as the pieces hold, at most `len`.
    pub(crate) fn fill(&self, spans: &Spans<'_>) {
        let mut done = 0;
        for (to, len) in pieces(spans) {
            let len = len.min(self.len - done);
            // SAFETY: `to` is a live piece of at least `len` bytes; what was lent is readable for
            // `self.len >= done + len` bytes.
            unsafe { into_ring(to, self.at.wrapping_add(done), len) };
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
            // SAFETY: `from` is a live piece of at least `len` bytes; what was lent is writable for
            // `self.len >= done + len` bytes.
            unsafe { out_of_ring(from, self.at.wrapping_add(done), len) };
            done += len;
        }
    }
}

/// Address and length of each piece.
fn pieces<'s>(spans: &'s Spans<'_>) -> impl Iterator<Item = (*mut u8, usize)> + 's {
    let (list, count) = spans.as_raw();
    (0..count as usize).map(move |i| {
        // SAFETY: `as_raw` hands out `count` initialised entries, and `i` is below it; they lie inside `spans`, which
        // the iterator borrows.
        let piece = unsafe { list.wrapping_add(i).read() };
        (piece.iov_base.cast(), piece.iov_len)
    })
}

/// How `len` bytes at a ring address divide: single bytes before `.0` and from `.1` on, aligned words between.
fn split(at: *mut u8, len: usize) -> (usize, usize) {
    let head = at.align_offset(align_of::<u64>()).min(len);
    (head, head + (len - head) / WORD * WORD)
}

/// # Safety
/// `to` is a live ring piece of `len` bytes, `from` is readable for `len` bytes.
unsafe fn into_ring(to: *mut u8, from: *const u8, len: usize) {
    let (head, tail) = split(to, len);
    for i in (0..head).chain(tail..len) {
        // SAFETY: `i < len`, for which the caller vouches.
        let byte = unsafe { from.wrapping_add(i).read() };
        // SAFETY: likewise; a byte needs no alignment, and ring bytes are accessed by atomics only.
        unsafe { AtomicU8::from_ptr(to.wrapping_add(i)) }.store(byte, Ordering::Relaxed);
    }
    for i in (head..tail).step_by(WORD) {
        // SAFETY: `i + WORD <= tail <= len`, for which the caller vouches; unaligned.
        let word = unsafe { from.wrapping_add(i).cast::<u64>().read_unaligned() };
        // SAFETY: likewise; `to + head` is aligned for a word, and `i - head` is a multiple of its size.
        unsafe { AtomicU64::from_ptr(to.wrapping_add(i).cast()) }.store(word, Ordering::Relaxed);
    }
}

/// # Safety
/// `from` is a live ring piece of `len` bytes, `to` is writable for `len` bytes.
unsafe fn out_of_ring(from: *mut u8, to: *mut u8, len: usize) {
    let (head, tail) = split(from, len);
    for i in (0..head).chain(tail..len) {
        // SAFETY: `i < len`, for which the caller vouches; a byte needs no alignment.
        let byte = unsafe { AtomicU8::from_ptr(from.wrapping_add(i)) }.load(Ordering::Relaxed);
        // SAFETY: likewise.
        unsafe { to.wrapping_add(i).write(byte) };
    }
    for i in (head..tail).step_by(WORD) {
        // SAFETY: `i + WORD <= tail <= len`, for which the caller vouches; `from + head` is aligned for a word, and
        // `i - head` is a multiple of its size.
        let word = unsafe { AtomicU64::from_ptr(from.wrapping_add(i).cast()) }.load(Ordering::Relaxed);
        // SAFETY: likewise for `to`; unaligned.
        unsafe { to.wrapping_add(i).cast::<u64>().write_unaligned(word) };
    }
}
