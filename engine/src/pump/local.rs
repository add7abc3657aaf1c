#![forbid(unsafe_code)]
//! The local process of a call: a service, or a client's `PROGRAM`.

use std::os::fd::{AsFd, BorrowedFd};

use super::call::Outlived;
use super::ending::{Ending, Failure};
use crate::process::{Child, Neighbour};

/// The state of the local process.
enum Process {
    /// There is no process.
    None,
    Running {
        child: Child,
        /// Its descriptor was ready: ask whether it has ended.
        may_have_ended: bool,
    },
    /// It has ended with this code.
    Ended(i32),
}

/// The local process, if the call has one.
pub(super) struct Local {
    process: Process,
    outlived: Option<Outlived>,
}

impl Local {
    pub(super) fn new(child: Option<Child>, outlived: Option<Outlived>) -> Local {
        let process = child.map_or(Process::None, |child| Process::Running { child, may_have_ended: false });
        Local { process, outlived }
    }

    /// Whether there is or was a process.
    pub(super) fn is_process(&self) -> bool {
        !matches!(self.process, Process::None)
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.process, Process::Running { .. })
    }

    /// Its exit code, once it has ended.
    pub(super) fn code(&self) -> Option<i32> {
        match self.process {
            Process::Ended(code) => Some(code),
            Process::None | Process::Running { .. } => None,
        }
    }

    /// The descriptor that becomes ready when it ends.
    pub(super) fn pollable(&self) -> Option<BorrowedFd<'_>> {
        match &self.process {
            Process::Running { child, .. } => Some(child.as_fd()),
            Process::None | Process::Ended(_) => None,
        }
    }

    /// Its descriptor is ready: the next [`Local::ends`] asks.
    pub(super) fn woken(&mut self) {
        if let Process::Running { may_have_ended, .. } = &mut self.process {
            *may_have_ended = true;
        }
    }

    /// Whether it has ended since the last call.
    pub(super) fn ends(&mut self) -> Result<bool, Ending> {
        let Process::Running { child, may_have_ended } = &mut self.process else { return Ok(false) };
        if !std::mem::take(may_have_ended) {
            return Ok(false);
        }
        let code = child.try_wait().map_err(Failure::during("waiting for the local process"))?;
        if let Some(code) = code {
            self.process = Process::Ended(code);
        }
        Ok(code.is_some())
    }

    /// The process as the neighbour of the pump, if bytes come from it or go to it.
    pub(super) fn neighbour(&self) -> Option<Neighbour> {
        match &self.process {
            Process::Running { child, .. } => Neighbour::process(child.pid().unsigned_abs()),
            Process::None | Process::Ended(_) => None,
        }
    }

    /// The link has ended: waits for the process, which is never killed, and returns its code.
    pub(super) fn wait(self) -> Option<i32> {
        match self.process {
            Process::None => None,
            Process::Ended(code) => Some(code),
            Process::Running { mut child, .. } => child.try_wait().unwrap_or_default().or_else(|| {
                self.outlived.into_iter().for_each(Outlived::happens);
                child.wait().ok()
            }),
        }
    }
}
