//! The qrexec programs: everything that people and machines start by name.
//!
//! All of them are one executable under several names, see [`multicall`].
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // they end a program whose output nobody takes

pub mod client;
pub mod client_vm;
pub mod failure;
#[cfg(fuzzing)]
pub mod fuzzing;
mod help;
pub mod local_program;
pub mod logging;
pub mod multicall;
pub mod number;
pub mod own;
pub mod policy_eval;
pub mod policy_tools;
pub mod programs;
pub mod qubesd;
pub mod status;
pub mod stdio;
pub mod top;
pub mod usage;
pub mod usb;
pub mod why;
