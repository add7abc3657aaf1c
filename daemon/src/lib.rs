#![forbid(unsafe_code)]
//! The dom0 side of qrexec: one daemon for each VM.
//!
//! | module | one job |
//! |---|---|
//! | [`core`] | every decision of the daemon, without I/O |
//! | [`policy_source`] | decisions, from files or from a program |
//! | [`ports`] | which data ports calls use |
//! | [`question`] | what policy is asked and what it may answer |
//! | [`answer`] | the answer lines of a policy program |

pub mod answer;
pub mod core;
pub mod policy_source;
pub mod ports;
pub mod question;
