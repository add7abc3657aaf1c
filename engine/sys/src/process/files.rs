#![forbid(unsafe_code)]
//! How many descriptors a process may have: more for who serves many, the usual number for whom it starts.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit that a process began with, for the processes that it starts.
#[derive(Clone, Copy, Debug)]
pub struct FileLimit(Rlimit);

impl FileLimit {
    /// Allows this process as many descriptors as it may allow itself: every call under way needs one at least.
    pub fn raise() -> Self {
        let before = Self(getrlimit(Resource::Nofile));
        before.raise_again();
        before
    }

    /// Sets the limit that was there before: a program that was written for few descriptors may break with many.
    pub fn restore(self) {
        // Within what was allowed before, so it is allowed now.
        let _ = setrlimit(Resource::Nofile, self.0);
    }

    /// Raises it after [`FileLimit::restore`].
    pub fn raise_again(self) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: self.0.maximum, maximum: self.0.maximum });
    }
}
