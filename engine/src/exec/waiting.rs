//! Waiting for a user's session: by a service that ends when the session exists.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use wire::command::{CommandError, CommandKind, ServiceCall};
use wire::names::{ServiceName, Target};

use super::account::own_name;
use super::{ExecError, ServiceConfig, Services, Stderr, Users};
use crate::process::Child;

/// The service reads a user's name, and ends when that user has a session.
const SERVICE: &str = "qubes.WaitForSession";

/// A wait in progress; its descriptor becomes readable when it is over.
#[derive(Debug)]
pub struct SessionWait {
    child: Child,
    /// What the service may write to; it is not read.
    _output: OwnedFd,
}

impl SessionWait {
    /// The service's exit status if it has ended, as [`Child::try_wait`] gives it.
    ///
    /// # Errors
    /// Waiting itself failed.
    pub fn try_wait(&mut self) -> io::Result<Option<i32>> {
        self.child.try_wait()
    }
}

impl AsFd for SessionWait {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.as_fd()
    }
}

impl Services {
    /// Begins to wait for the session of `user`, for a call of `source`.
    ///
    /// # Errors
    /// There is no such service, or it does not start.
    pub fn begin_session_wait(&self, user: &str, source: &Target) -> Result<SessionWait, ExecError> {
        let service = ServiceName::sanitize(SERVICE.as_bytes())
            .map_err(|error| ExecError::Command(CommandError::Service(error)))?;
        let call = ServiceCall::new(service, source.clone(), None);
        let services = Self { users: Users::Any, ..self.clone() };
        let prepared = services.prepare(&CommandKind::Service(call), &ServiceConfig::default())?;
        let started = services.start(&prepared, None, Stderr::Ours)?;
        // The stream has room for the whole name, so this does not wait for the service.
        match rustix::io::write(&started.stdin, format!("{user}\n").as_bytes()) {
            // A service may wait for the session without reading the name.
            Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => {}
            Err(error) => return Err(ExecError::Streams(error.into())),
        }
        // A socket service has no process whose end could be waited for.
        let child = started.child.ok_or_else(|| ExecError::Streams(Errno::CHILD.into()))?;
        Ok(SessionWait { child, _output: started.stdout })
    }

    /// Waits for the session of this process's user, for a call of `source`. Whatever the result, the call continues.
    pub fn wait_for_own_session(&self, source: &Target) {
        let ended = self
            .begin_session_wait(&own_name(), source)
            .and_then(|mut wait| wait.child.wait().map_err(ExecError::Streams));
        match ended {
            Ok(0) => {}
            Ok(status) => tracing::warn!("{SERVICE} ended with {status}"),
            Err(error) => tracing::warn!("cannot wait for a session: {error}"),
        }
    }
}
