//! `qrexec-agent` and `qrexec-fork-server`, the VM's side of qrexec.
//!
//! | module | what it holds |
//! |---|---|
//! | [`agent_core`] | all decisions, without I/O: a crate of its own |
//! | [`options`] | the command line |
//! | `event_loop` | the event loop that carries the decisions out |
//! | `control` | the link to the daemon: meeting, HELLO, messages, meeting again |
//! | `board` | what is told to `qrexec-top` |
//! | `board` | what it tells `qrexec-top` |
//! | `listener` | the sockets on which programs and the agent ask |
//! | `waiting_calls` | calls whose caller has not come yet |
//! | `client_slots` | how many programs may be connected at once, and how many of one user |
//! | `client` | one such program's connection |
//! | `ground` | what the processes of all calls have in common, and how each reports its end |
//! | `job` | what a command line and a service's configuration mean |
//! | `meminfo` | the signal for which memory balancing waits |
//! | `call` | the process of one call: data link, service, pump |
//! | [`fork_server`] | handing a call to a user's fork server, and that server |
//! | [`multiplexer`] | the older program that starts a service |
//! | `r2` | programs of R1 and R2, and protocol 1 |
//! | `session` | calls that wait for a graphical session |
//!
//! The agent itself stays small and has one thread. Each call is pumped by a process of its own,
//! which survives the agent and whose crash costs one call.
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // they end the program when its output is closed

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

/// Exit status: the agent was told to end.
const EXIT_DONE: i32 = 0;
/// Exit status: the agent cannot do its work.
const EXIT_FAILED: i32 = 1;

/// Runs the agent with these arguments, the program's own name first. Returns its exit status.
#[must_use]
pub fn main(args: Vec<OsString>) -> i32 {
    match Options::from_args(args) {
        Ok(options) => run(&options),
        Err(status) => status,
    }
}

/// Runs the agent until it is told to end. Returns its exit status.
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
