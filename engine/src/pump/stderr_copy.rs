#![forbid(unsafe_code)]
//! The copy of a service's error output that stays on this machine.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

use crate::localfd::{Direction, LocalFd};

/// Where the copy goes. It is opened when there is something to copy: most services say nothing.
pub struct StderrCopy(State);

type Opener = Box<dyn FnOnce() -> io::Result<OwnedFd> + Send>;

enum State {
    Unopened(Opener),
    Open(LocalFd),
    Lost,
}

impl StderrCopy {
    /// A copy to what `open` gives.
    pub fn to(open: impl FnOnce() -> io::Result<OwnedFd> + Send + 'static) -> Self {
        Self(State::Unopened(Box::new(open)))
    }

    /// Opens it now, for whoever can open nothing later.
    pub(crate) fn open(&mut self) {
        self.0 = match std::mem::replace(&mut self.0, State::Lost) {
            State::Unopened(open) => open_with(open),
            opened => opened,
        };
    }

    /// Writes what fits. A log that fails, or that nobody reads, must not stop the call.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.open();
        if let State::Open(log) = &self.0
            && log.may_try()
        {
            let _ = log.write(bytes);
        }
    }
}

fn open_with(open: Opener) -> State {
    match open().and_then(|fd| LocalFd::adopt(fd, Direction::Out)) {
        Ok(log) => State::Open(log),
        Err(error) => {
            tracing::warn!("no log for a service's error output: {error}");
            State::Lost
        }
    }
}

impl fmt::Debug for StderrCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            State::Unopened(_) => "StderrCopy(unopened)",
            State::Open(_) => "StderrCopy(open)",
            State::Lost => "StderrCopy(lost)",
        })
    }
}
