//! Peers that break every rule: nothing worse may come of it than the end of their own channel.
//!
//! Each test runs under a deadline. An honest side may answer with [`Error::BadIndex`], [`Error::Closed`] or, while
//! meeting, [`Error::BadMeeting`]: never with a panic, a hang, growth or an error of its own.

#[path = "../common/mod.rs"]
mod common;
mod meeting;
mod page;
mod random;
mod raw;
mod stream;

use std::time::Duration;

use ring::Sizes;

/// No test may take longer, whatever its peer does.
const DEADLINE: Duration = Duration::from_secs(30);
const SMALL: Sizes = Sizes { left: 4096, right: 4096 };
