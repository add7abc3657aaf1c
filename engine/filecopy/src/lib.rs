//! The receiver of bulk file copy, for a program of its own and for the process of a call.
//!
//! | module | one job |
//! |---|---|
//! | [`receiver`] | a stream into a folder, and nowhere else |
//! | [`port`] | where the stream comes from: descriptors, or the call's data link |
//! | [`service`] | `qubes.Filecopy` in the call's own process |
//! | [`incoming`] | the folder that files of a qube go to |
//! | [`beneath`] | folders below a folder |
//! | [`sum`], [`shown`] | the checksum; names and sizes for people |
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // they end the program when its output is closed

pub mod beneath;
pub mod incoming;
pub mod port;
pub mod receiver;
pub mod service;
pub mod shown;
pub mod sum;
