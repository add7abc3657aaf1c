//! Which process is the program itself, where processes of calls are forks of it.

use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

/// Its process id; 0 as long as nobody said so.
static PROGRAM: AtomicU32 = AtomicU32::new(0);

/// This process is the program from now on: to be said at its start, and again after it went into the background, which
/// makes another process of it.
pub fn be_the_program() {
    PROGRAM.store(process::id(), Ordering::Relaxed);
}

/// Whether this process is the program, and none that it made for a call.
#[must_use]
pub fn is_the_program() -> bool {
    PROGRAM.load(Ordering::Relaxed) == process::id()
}
