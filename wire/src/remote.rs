//! Calls to qubes of another machine, through a session of OpenSSH.
//!
//! The near machine is the caller's, the far machine the service's. Between their relays runs one connection of `ssh` for
//! each link, and one session of it for each call.
//!
//! | module | what it holds |
//! |---|---|
//! | [`mux`] | what is said to an `ssh` that has the connection, to get a session of it |
//! | [`request`] | what is asked for in a session: the far side's command |
//! | [`frames`] | the streams and the exit code of a call within a session |
//! | [`names`] | which of the far machine's names a near machine's qube has |

pub mod frames;
pub mod mux;
pub mod names;
pub mod request;

#[cfg(test)]
mod tests;
