//! Calls between qubes of different machines, over OpenSSH.
//!
//! The near machine is the caller's, the far machine the service's; a relay is a qube of each that has network. On the near
//! relay `qubesair.SSHProxy` is the service to which dom0 sends a call for a remote qube; on the far relay sshd starts
//! `qrexec-remote far LINK` for it, whatever the near side asks for.
//!
//! | module | one job |
//! |---|---|
//! | [`link`] | the folder of a link: who is reached by it, and under which names |
//! | [`master`] | the one `ssh` of a link, and sessions of it |
//! | [`session`] | one session: the conversation with that `ssh`, and the session's descriptors |
//! | [`pool`] | sessions that are ready before there is a call, and are used again |
//! | [`near`] | the caller's end of a call |
//! | [`far`] | the service's end |
//! | [`waiting`] | sessions that wait for calls the other way |
//! | [`invite`] | how two machines are joined |
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // they end a program whose output nobody takes

use cli::programs::{Page, Program};

mod args;
mod beside;
mod bytes;
pub mod far;
mod idle;
pub mod invite;
mod link;
mod log;
pub mod master;
pub mod near;
pub mod pool;
pub mod session;
pub mod waiting;

pub use args::{command, main};

/// What this crate adds to an executable.
pub const PROGRAMS: &[Program] = &[
    Program::new("qrexec-remote", main, Page::new(1, command)),
    Program::bare("qubesair.SSHProxy", near::service),
];
