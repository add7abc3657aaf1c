//! Calls to qubes of another machine, through a session of OpenSSH.
//!
//! The near machine is the caller's, the far machine the service's. Each link has one connection of `ssh` between the
//! relays of both machines, and each call one session in it.
//!
//! | module | what it holds |
//! |---|---|
//! | [`mux`] | how a running `ssh` is asked for a session in its connection |
//! | [`request`] | the far side's command, which says what is asked for |
//! | [`frames`] | the streams and the exit code of a call within a session |
//! | [`names`] | which name a near machine's qube has on the far machine |

pub mod frames;
pub mod mux;
pub mod names;
pub mod request;

#[cfg(test)]
mod tests;
