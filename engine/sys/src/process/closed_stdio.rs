#![allow(unsafe_code)] // One function runs before `main`, which only a linker's section can ask for.
//! What a process was not given. The standard library opens `/dev/null` in the place of a standard stream that is closed,
//! before `main`: whoever was started without a stdout would write into nothing and find that all is well.

use std::sync::atomic::{AtomicBool, Ordering};

static STDOUT: AtomicBool = AtomicBool::new(false);

// SAFETY: the section holds pointers to functions without result, which the C library calls once, one after the other,
// in a process with one thread; what it passes them is of no interest to one that takes nothing. `look` makes one
// system call and sets one atomic: it needs nothing that `main` would find prepared.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = look;

extern "C" fn look() {
    STDOUT.store(rustix::io::fcntl_getfd(rustix::stdio::stdout()).is_err(), Ordering::Relaxed);
}

/// Whether this process was started with its stdout closed.
#[must_use]
pub fn stdout_was_closed() -> bool {
    STDOUT.load(Ordering::Relaxed)
}
