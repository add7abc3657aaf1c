//! Peers that break every rule: the worst they get is their own channel's end.
//!
//! Each test runs under a deadline. What an honest side may answer is [`Error::BadIndex`], [`Error::Closed`]
//! or, while meeting, [`Error::BadMeeting`]: never a panic, a hang, growth or an error of our own.

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
