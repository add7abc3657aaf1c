#![forbid(unsafe_code)]
//! How many descriptors a process may have: more for a program with many calls, the usual number for the programs it
//! starts.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit with which this process began, for the programs that it starts.
#[derive(Clone, Copy, Debug)]
pub struct FileLimit(Rlimit);

impl FileLimit {
    /// Raises this process's limit as far as it may: every running call needs one descriptor at least.
    pub fn raise() -> Self {
        let before = Self(getrlimit(Resource::Nofile));
        before.raise_again();
        before
    }

    /// Sets the previous limit again: a program that was written for few descriptors may fail with many.
    pub fn restore(self) {
        // Not above the previous limit, so it is allowed.
        let _ = setrlimit(Resource::Nofile, self.0);
    }

    /// Raises it after [`FileLimit::restore`].
    pub fn raise_again(self) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: self.0.maximum, maximum: self.0.maximum });
    }
}
