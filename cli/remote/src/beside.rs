//! Work in a thread of its own.

use std::thread::{Builder, JoinHandle};

use cli::failure::Failure;

/// Does `work` beside the caller. Fails where the system has no thread left, at which `std::thread::spawn` would panic.
pub(crate) fn beside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Failure> {
    Builder::new().spawn(work).map_err(Failure::during("one more thread"))
}
