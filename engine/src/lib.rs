//! The pump of one call, and what every program around it shares.
//!
//! | module | one job |
//! |---|---|
//! | [`pump`] | one call's data: local descriptors ⇄ ring, by poll or io_uring |
//! | [`call`] | the three steps of one call: prepare, confine, run |
//! | [`direct`] | one call's data for work in the call's own process: memory ⇄ ring |
//! | [`datalink`] | opening the data link of a call: meet, HELLO |
//! | [`localfd`] | local descriptors that are never blocked on and never changed |
//! | [`exec`] | service lookup, configuration, environment, start |
//! | [`installation`] | what this program is a part of: a system, or a lab |
//! | [`getopt`] | command lines as the C programs take them |
//! | [`say`] | lines on stderr and stdout whose failure never ends a program |
//! | [`step`] | log lines for `qrexec-bench --profile`, with the time of each step of a call |
//! | [`log_source`] | which source a thread's log lines are about |
//! | [`link`] | the framed control links of agent and daemon |
//!
//! The modules of the crate `sys`, which is below this one, can be used by their names here, too.
#![deny(clippy::print_stdout, clippy::print_stderr)] // they end the program when its output is closed

pub mod call;
pub mod datalink;
pub mod direct;
pub mod exec;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod getopt;
pub mod installation;
pub mod link;
pub mod localfd;
pub mod log_source;
pub mod meter;
pub mod pump;
pub mod r2;
pub mod say;
pub mod step;
pub mod top_socket;

pub use installation::Installation;
pub use sys::{confine, namespace, process, reactor, unix, usb};
