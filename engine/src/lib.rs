//! The pump of one call, and what every program around it shares.
//!
//! | module | one job |
//! |---|---|
//! | [`pump`] | one call's data: local descriptors ⇄ ring, by poll or io_uring |
//! | [`call`] | the three steps of one call: prepare, confine, run |
//! | [`confine`] | the door that a call's process closes behind itself |
//! | [`direct`] | one call's data for work in the call's own process: memory ⇄ ring |
//! | [`datalink`] | opening the data link of a call: meet, HELLO |
//! | [`localfd`] | local descriptors that are never blocked on and never changed |
//! | [`exec`] | service lookup, configuration, environment, start |
//! | [`process`] | children through pidfds, the one fork, spawn, signals as events |
//! | [`getopt`] | command lines as the C programs take them |
//! | [`namespace`] | process namespaces for labs |
//! | [`say`] | lines on stderr and stdout that never end a program |
//! | [`step`] | what `qrexec-bench --profile` shows of a call's way |
//! | [`voice`] | for which source a thread speaks in the log |
//! | [`reactor`], [`link`] | the event loop of agent and daemon, and their framed control links |
#![deny(clippy::print_stdout, clippy::print_stderr)] // they end a program whose output nobody takes

pub mod call;
pub mod confine;
pub mod datalink;
pub mod direct;
pub mod exec;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod getopt;
pub mod link;
pub mod localfd;
pub mod namespace;
pub mod process;
pub mod pump;
pub mod reactor;
pub mod say;
pub mod step;
pub mod voice;
