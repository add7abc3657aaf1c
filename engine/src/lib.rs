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
//! | [`say`] | lines on stderr and stdout that never end a program |
//! | [`step`] | what `qrexec-bench --profile` shows of a call's way |
//! | [`log_source`] | for which source a thread speaks in the log |
//! | [`link`] | the framed control links of agent and daemon |
//!
//! What is below, in the crate `sys`, goes by its names here, too.
#![deny(clippy::print_stdout, clippy::print_stderr)] // they end a program whose output nobody takes

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
