//! Sessions that are open before there is a call for them, and stay open for the next call after it.
//!
//! The first call of a link starts a process (`qrexec-remote pool LINK`) that keeps a few sessions ready, beside the link's
//! `ssh`. A call asks it for one at its socket, and gives it back if the call has ended in order, with nothing of it left
//! on the way: so the next call needs neither a new session, a login shell and a far program, nor a round trip for them.
//! What breaks costs nobody else anything: a call without a pool opens a session by itself, a session that was not given
//! back ends with its call, and calls that are under way do not need the pool.
//!
//! | module | one job |
//! |---|---|
//! | [`message`] | what a call and the pool say to each other |
//! | [`plan`] | which connection a call gets, and when there shall be one more |
//! | [`process`] | the process that keeps the sessions |
//! | [`place`] | a call's session, and the call's side of the conversation |

mod message;
mod place;
mod plan;
mod process;

pub(crate) use place::{Meter, Place};
pub use process::run;

use std::path::PathBuf;

use crate::link::Link;

/// Where the pool of a link listens.
fn socket(link: &Link) -> PathBuf {
    link.file("pool")
}
