//! Calls that a command makes in its own process, without `qrexec-client-vm` or `qrexec-client`.

use std::fmt::Debug;

use engine::direct::DirectClient;
use engine::pump::Outcome;
use ring::Channel;
use wire::version::Version;

use crate::failure::Failure;

/// A call that was allowed, up to its HELLO.
#[derive(Debug)]
pub struct Call {
    /// The caller's end of its data.
    pub client: DirectClient,
    /// What makes the call last: who allowed it considers it ended when this is dropped.
    pub held: Box<dyn Debug>,
}

impl Call {
    pub(crate) fn new((channel, version): (Channel, Version), held: impl Debug + 'static) -> Self {
        Self { client: DirectClient::new(channel, version), held: Box::new(held) }
    }
}

/// The exit status of a call that has ended, by the one rule.
///
/// # Errors
/// What went wrong besides the service and the local end.
pub fn status(outcome: &Outcome) -> Result<i32, Failure> {
    crate::failure::status_of_call(outcome)
}
