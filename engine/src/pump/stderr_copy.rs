#![forbid(unsafe_code)]
//! The copy of a service's error output that stays on this machine.

use std::io;
use std::os::fd::OwnedFd;

use crate::localfd::{Direction, LocalFd};

/// Where the copy goes.
#[derive(Debug)]
pub struct StderrCopy(Option<LocalFd>);

impl StderrCopy {
    /// A copy into this descriptor. If the log could not be opened, the call continues without.
    pub fn to(opened: io::Result<OwnedFd>) -> Self {
        match opened.and_then(|fd| LocalFd::adopt(fd, Direction::Out)) {
            Ok(log) => Self(Some(log)),
            Err(error) => {
                tracing::warn!("no log for a service's error output: {error}");
                Self(None)
            }
        }
    }

    /// Writes as much as fits. A log that fails, or that is not read, must not stop the call.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        if let Some(log) = self.0.as_ref().filter(|log| log.may_try()) {
            let _ = log.write(bytes);
        }
    }
}
