#![allow(unsafe_code)] // signal sets and masks have no safe equivalent
//! A library must not change what signals do to the program that uses it.
//!
//! A C program dies of `SIGPIPE` unless it has asked otherwise, so the library must not raise one: not by its line on
//! a stderr whose reader is gone, not by a xenstore connection that was closed. And the library's own thread must not
//! take a signal that was meant for the program.

use std::mem::MaybeUninit;

struct Set(libc::sigset_t);

impl Set {
    fn new(fill: unsafe extern "C" fn(*mut libc::sigset_t) -> libc::c_int) -> Set {
        let mut raw = MaybeUninit::uninit();
        // SAFETY: both functions that are passed here initialise the whole set behind the pointer.
        unsafe { fill(raw.as_mut_ptr()) };
        // SAFETY: initialised by the line above.
        Set(unsafe { raw.assume_init() })
    }

    fn all() -> Set {
        Set::new(libc::sigfillset)
    }

    fn pipe() -> Set {
        let mut set = Set::new(libc::sigemptyset);
        // SAFETY: an initialised set and a valid number.
        unsafe { libc::sigaddset(&raw mut set.0, libc::SIGPIPE) };
        set
    }

    /// Whether `SIGPIPE` is pending for this thread or its process.
    fn pipe_is_pending() -> bool {
        let pending = Set::new(libc::sigpending);
        // SAFETY: an initialised set and a valid number.
        unsafe { libc::sigismember(&raw const pending.0, libc::SIGPIPE) == 1 }
    }
}

/// A signal mask to return to.
struct Mask(Set);

impl Mask {
    fn change(how: libc::c_int, set: &Set) -> Mask {
        let mut before = Set::new(libc::sigemptyset);
        // SAFETY: both sets are initialised; the call writes the second only.
        unsafe { libc::pthread_sigmask(how, &raw const set.0, &raw mut before.0) };
        Mask(before)
    }
}

impl Drop for Mask {
    fn drop(&mut self) {
        // SAFETY: the mask came from the kernel; a null pointer asks for nothing back.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0.0, std::ptr::null_mut()) };
    }
}

/// Runs `work` with every signal blocked in this thread: a thread that is started there inherits that.
pub(crate) fn quietly(work: &mut dyn FnMut()) {
    let _mask = Mask::change(libc::SIG_BLOCK, &Set::all());
    work();
}

/// Runs `work`; a `SIGPIPE` that it caused never reaches the program.
pub(crate) fn without_sigpipe<R>(work: impl FnOnce() -> R) -> R {
    let pipe = Set::pipe();
    let pending = Set::pipe_is_pending();
    let _mask = Mask::change(libc::SIG_BLOCK, &pipe);
    let result = work();
    if !pending && Set::pipe_is_pending() {
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: an initialised set, no place for details, and a live time: takes the signal without waiting.
        unsafe { libc::sigtimedwait(&raw const pipe.0, std::ptr::null_mut(), &raw const now) };
    }
    result
}
