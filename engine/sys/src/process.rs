//! Processes: one type for every child, however it was started.
//!
//! A child is watched through its pidfd, so there is no `SIGCHLD` handler, no race between a signal
//! and a wait, and no way to reap somebody else's child. `PR_SET_PDEATHSIG` is deliberately absent:
//! a call outlives a restart of the agent or of the daemon, and a service outlives its call if it
//! wants to.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus};

mod begin;
mod closed_stdio;
mod closing;
mod files;
mod fork;
mod heap;
mod own_executable;
mod placement;
mod signals;
mod spawn;

pub use begin::{begin_deaf_to_file_limits, begin_on_terminal, begin_unblocked};
pub use closed_stdio::stdout_was_closed;
pub use closing::close_all;
pub use files::FileLimit;
pub use fork::{
    claim_children, close_all_on_exec, close_inherited, exit_on_panic, fork_keeping, fork_pump,
    words_for_all_forks,
};
pub use heap::{trim_heap, trim_stack};
pub use own_executable::own_executable;
pub use placement::Neighbour;
pub use signals::Signals;
pub use spawn::{Program, replace, spawn};

/// Exit status of a child that could not do its work for a reason of our own (spec section 5:
/// trouble of qrexec itself).
pub const EXIT_TROUBLE: i32 = 125;

/// A child process that has not been forgotten: its pidfd is readable as soon as it has ended.
///
/// Dropping a `Child` neither kills nor reaps the process; a child that was never waited for stays
/// a zombie until this process ends.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    status: Option<i32>,
}

impl Child {
    /// Takes charge of a child of this process that nobody else waits for.
    ///
    /// If it cannot be watched (no descriptor left) it is killed and reaped, so that no
    /// unsupervised process remains.
    ///
    /// # Errors
    /// What `pidfd_open(2)` said.
    fn adopt(pid: Pid) -> io::Result<Self> {
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { pid, pidfd, status: None }),
            // It has ended already and nobody had to wait for it: a caller that ignores the ends of its children is no
            // caller of ours ([`claim_children`]), and its number may be somebody else's by now.
            Err(error @ rustix::io::Errno::SRCH) => Err(error.into()),
            Err(error) => {
                // The child is ours and unreaped, so this pid cannot mean anybody else.
                let _ = rustix::process::kill_process(pid, Signal::KILL);
                let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
                Err(error.into())
            }
        }
    }

    /// The process id; meaningful for messages and for `QREXEC_AGENT_PID`, not for waiting.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// The exit status if the process has ended: its exit code, or 128 plus the number of the
    /// signal that ended it. Reaps the process the first time; later calls give the same answer.
    ///
    /// # Errors
    /// What `waitid(2)` said; it cannot fail for a child that is really ours.
    pub fn try_wait(&mut self) -> io::Result<Option<i32>> {
        self.wait_with(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    /// Waits until the process has ended; the status is as in [`Child::try_wait`].
    ///
    /// # Errors
    /// What `waitid(2)` said.
    pub fn wait(&mut self) -> io::Result<i32> {
        loop {
            if let Some(status) = self.wait_with(WaitIdOptions::EXITED)? {
                return Ok(status);
            }
        }
    }

    /// Sends a signal to the process; nothing happens if it has been reaped already.
    ///
    /// # Errors
    /// What `pidfd_send_signal(2)` said, other than that the process is gone.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            other => Ok(other?),
        }
    }

    fn wait_with(&mut self, options: WaitIdOptions) -> io::Result<Option<i32>> {
        if self.status.is_none() {
            let ended = rustix::io::retry_on_intr(|| {
                rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options)
            })?;
            self.status = ended.as_ref().map(exit_status);
        }
        Ok(self.status)
    }
}

/// Takes charge of a child that the standard library started and nobody has waited for.
impl TryFrom<std::process::Child> for Child {
    type Error = io::Error;

    fn try_from(child: std::process::Child) -> io::Result<Self> {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        Self::adopt(pid.ok_or(io::ErrorKind::InvalidInput)?)
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// The shell's convention: the exit code, or 128 plus the signal.
fn exit_status(status: &WaitIdStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => signal.saturating_add(128),
        // `EXITED` reports nothing else; should the kernel learn a new way to end, it is not a
        // success.
        (None, None) => EXIT_TROUBLE,
    }
}
