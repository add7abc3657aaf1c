//! The qrexec protocol without I/O: messages, names, the handshake and the data stream.
//!
//! Everything here is pure: bytes and events go in, bytes and decisions come out. No file, no
//! socket, no process and no clock is ever touched, so that the programs, the tests and the fuzzers
//! drive exactly the same code.
//!
//! Everything that comes from the other side is treated as hostile. A decoder never allocates more than it was given
//! and never panics, and its [`PeerError`] says whose fault it was: the peer broke the protocol, or it merely speaks
//! another version.
//!
//! | module | what it holds |
//! |---|---|
//! | [`header`] | the eight bytes before every message, and the message types |
//! | [`version`] | protocol versions and what depends on them |
//! | [`names`] | domain ids, ports, names and request ids, each validated once |
//! | [`control`] | the messages of control links and of the daemon's local socket |
//! | [`frame`] | cutting a byte stream into messages |
//! | [`command`] | the command line inside an exec request |
//! | [`handshake`] | agreeing on a version |
//! | [`stream`] | the data link: stdin, stdout, stderr, exit code |
//! | [`filecopy`] | bulk file copy: entries and answer |
//! | [`r2`] | protocol 1, the wire of releases R1 and R2 |
//! | [`usbip`] | USB/IP: the line before it, its messages, a filter |
//! | [`remote`] | calls to qubes of another machine: frames, requests, OpenSSH's multiplexing |
//! | [`shares`] | how many calls from outside a VM accepts from each source |
//! | [`top`] | which calls there are: their sums, and how they are sent to `qrexec-top` |
//! | [`small_map`] | a map for few entries |
//! | [`escape`] | bytes of a peer on a terminal or in a log |
//! | [`untrusted`] | the wrapper that only validation opens |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod command;
pub mod control;
pub mod error;
pub mod escape;
pub mod filecopy;
pub mod frame;
pub mod handshake;
pub mod header;
pub mod names;
pub mod r2;
pub mod remote;
pub mod shares;
pub mod small_map;
pub mod stream;
pub mod top;
pub mod trigger;
pub mod untrusted;
pub mod usbip;
pub mod version;

pub use error::{Breach, Misuse, PeerError};
pub use header::Header;
pub use version::Version;
