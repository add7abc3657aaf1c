//! The ground floor: what the programs ask of Linux, each thing in one place. Nobody beside or above writes these again:
//! `cargo xtask check` finds a second place that makes an epoll instance or a timer, gives a socket a name, forks, or asks for an account.
//!
//! | module | one job |
//! |---|---|
//! | [`unix`] | unix stream sockets at paths of any length: listen, withdraw, connect, who is there |
//! | [`reactor`] | waiting for many descriptors at once |
//! | [`timer`] | timers as descriptors |
//! | [`process`] | children through pidfds, the one fork, spawn, signals as events |
//! | [`confine`] | what a call's process gives up before it moves bytes |
//! | [`namespace`] | process namespaces for labs |
//! | [`usb`] | a reset of a USB device |
#![deny(clippy::print_stdout, clippy::print_stderr)] // they end a program whose output nobody takes

pub mod confine;
pub mod namespace;
mod peer;
pub mod process;
pub mod reactor;
pub mod timer;
pub mod unix;
pub mod usb;
