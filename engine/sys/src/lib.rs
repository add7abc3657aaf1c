//! What the programs ask of Linux, each thing in one place. No other crate does these things itself: `cargo xtask
//! check` finds a second place that makes an epoll instance or a timer, gives a socket a name, forks, or looks up an
//! account.
//!
//! | module | one job |
//! |---|---|
//! | [`unix`] | unix stream sockets at paths of any length: listen, withdraw, connect, the peer's user |
//! | [`reactor`] | waiting for many descriptors at once |
//! | [`timer`] | timers as descriptors |
//! | [`process`] | children through pidfds, the only fork, spawn, signals as events |
//! | [`confine`] | what a call's process gives up before it moves bytes |
//! | [`namespace`] | process namespaces for labs |
//! | [`usb`] | a reset of a USB device |
#![deny(clippy::print_stdout, clippy::print_stderr)] // they end the program when its output is closed

pub mod confine;
pub mod namespace;
mod peer;
pub mod process;
pub mod reactor;
pub mod timer;
pub mod unix;
pub mod usb;
