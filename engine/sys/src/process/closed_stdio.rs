#![allow(unsafe_code)] // One function runs before `main`, which only a linker's section can ask for.
//! Which standard streams this process was not given. Before `main`, the standard library opens `/dev/null` in place
//! of a standard stream that is closed: a program without a stdout would then write into nothing and report success.

use std::sync::atomic::{AtomicBool, Ordering};

static STDOUT: AtomicBool = AtomicBool::new(false);

// SAFETY: the section holds pointers to functions without result, which the C library calls once, one after the other,
// in a process with one thread; a function without parameters ignores what is passed to it. `look` makes one system
// call and sets one atomic: it needs nothing that is initialised later.
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
