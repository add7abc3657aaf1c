//! `qrexec-agent` and `qrexec-fork-server`, the VM's side of qrexec.
//!
//! | module | what it holds |
//! |---|---|
//! | [`agent_core`] | all decisions, without I/O: a crate of its own |
//! | [`options`] | the command line |
//! | `event_loop` | the event loop that carries the decisions out |
//! | `control` | the link to the daemon: meeting, HELLO, messages, meeting again |
//! | `admission` | how many calls from outside there may be, and of whom |
//! | `board` | what it tells `qrexec-top` |
//! | `listener` | the sockets on which others ask |
//! | `waiting_calls` | where calls wait whose caller is not there yet |
//! | `client_slots` | how many programs may ask at once, and how many of one user |
//! | `client` | one such program's connection |
//! | `ground` | what the processes of all calls share, and how each says its end |
//! | `job` | what a command line and a service's configuration amount to |
//! | `meminfo` | the word that memory balancing waits for |
//! | `call` | the process of one call: data link, service, pump |
//! | [`fork_server`] | handing a call to a user's fork server, and that server |
//! | [`multiplexer`] | the old entry of a service |
//! | `r2` | programs of R1 and R2, and protocol 1 |
//! | `session` | calls that wait for a graphical session |
//!
//! The agent itself stays small and has one thread. Each call is pumped by a process of its own,
//! which survives the agent and whose crash costs one call.
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // they end a program whose output nobody takes

use std::ffi::OsString;

mod admission;
mod board;
mod built_in;
mod call;
mod client;
mod client_slots;
mod command_line;
mod control;
mod event_loop;
pub mod fork_server;
#[cfg(fuzzing)]
pub mod fuzzing;
mod ground;
mod job;
mod listener;
mod meminfo;
pub mod multiplexer;
pub mod options;
mod r2;
mod session;
mod waiting_calls;

pub use options::Options;

/// Exit status: the agent ended because it was told to.
const EXIT_DONE: i32 = 0;
/// Exit status: the agent cannot do its work.
const EXIT_FAILED: i32 = 1;

/// Runs the agent with these arguments, the program's own name first; gives its exit status.
#[must_use]
pub fn main(args: Vec<OsString>) -> i32 {
    match Options::from_args(args) {
        Ok(options) => run(&options),
        Err(status) => status,
    }
}

/// Runs the agent until it is told to end; gives its exit status.
#[must_use]
pub fn run(options: &Options) -> i32 {
    let ended = match options.protocol {
        Some(_) => r2::multiplexed::run(options),
        None => event_loop::run(options),
    };
    match ended {
        Ok(()) => EXIT_DONE,
        Err(error) => {
            tracing::error!("{error}");
            EXIT_FAILED
        }
    }
}
