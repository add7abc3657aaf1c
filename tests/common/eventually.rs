//! Waiting for what another process is about to do where nothing announces it. A file of its own, so that other
//! packages' tests can take it in.

use std::thread;
use std::time::{Duration, Instant};

/// Far longer than anything takes: it turns a hang into a failure with a name.
const PATIENCE: Duration = Duration::from_secs(30);

/// Looks until it is there, and fails when that takes too long.
pub(crate) fn eventually(what: &str, there: impl FnMut() -> bool) {
    eventually_within(PATIENCE, what, there);
}

/// The same where it takes longer, or must not.
pub(crate) fn eventually_within(limit: Duration, what: &str, mut there: impl FnMut() -> bool) {
    let until = Instant::now() + limit;
    while !there() {
        assert!(Instant::now() < until, "waited in vain for: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
