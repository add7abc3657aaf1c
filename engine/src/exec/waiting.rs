//! The wait for a user's session: a service that ends when it is there.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use wire::command::{CommandError, CommandKind, ServiceCall};
use wire::names::{ServiceName, Target};

use super::account::own_name;
use super::{ExecError, ServiceConfig, Services, Stderr, Users};
use crate::process::Child;

/// The service that ends when the user whose name it reads has a session.
const SERVICE: &str = "qubes.WaitForSession";

/// A wait that is under way; its descriptor is readable as soon as it is over.
#[derive(Debug)]
pub struct SessionWait {
    child: Child,
    /// Where the service may write; nobody reads it.
    _output: OwnedFd,
}

impl SessionWait {
    /// The service's exit status if the wait is over, as [`Child::try_wait`] gives it.
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
        // It is there to the last byte and its end before the service is; the stream holds it.
        match rustix::io::write(&started.stdin, format!("{user}\n").as_bytes()) {
            // A service that waits without reading has every right to.
            Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => {}
            Err(error) => return Err(ExecError::Streams(error.into())),
        }
        // A socket service has no process, and so no end that could be waited for.
        let child = started.child.ok_or_else(|| ExecError::Streams(Errno::CHILD.into()))?;
        Ok(SessionWait { child, _output: started.stdout })
    }

    /// Waits for our own session, for a call of `source`. Whatever becomes of it, the call goes on.
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
