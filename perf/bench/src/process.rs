//! Processes of a measurement.

use std::process::{Child, Command, Stdio};

use cli::failure::Failure;

/// A process of a measurement: ends with it, whatever happens.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    what: &'static str,
}

impl Running {
    /// Starts `command`; `what` it is for an error message.
    pub(super) fn start(command: &mut Command, what: &'static str) -> Result<Self, Failure> {
        let child = command.spawn().map_err(Failure::during(format_args!("starting {what}")))?;
        Ok(Self { child, what })
    }

    pub(super) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(super) fn pid(&self) -> Option<i32> {
        i32::try_from(self.child.id()).ok()
    }

    /// Waits for the end, which must be a success.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        let status = self.child.wait().map_err(Failure::during(format_args!("waiting for {}", self.what)))?;
        if status.success() {
            return Ok(());
        }
        Err(Failure::trouble(format!("{}: {status}", self.what)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Streams for a process that needs none.
pub(super) fn silent(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}
