//! Processes: one type for every child, however it was started.
//!
//! A child is watched through its pidfd. So there is no `SIGCHLD` handler, no race between a signal and a wait, and no
//! way to reap the child of another part of the program. `PR_SET_PDEATHSIG` is not used on purpose: a call outlives a
//! restart of the agent or of the daemon, and a service may outlive its call.

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

pub use begin::{begin_deaf_to_file_limits, begin_on_terminal, begin_unblocked, group};
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

/// Exit status of a child that could not do its work because of an error of qrexec itself.
pub const EXIT_TROUBLE: i32 = 125;

/// A child process; its pidfd is readable as soon as it has ended.
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
    /// Takes over a child of this process that no other code waits for.
    ///
    /// If it cannot be watched (no descriptor is left) it is killed and reaped, so that no process runs unsupervised.
    ///
    /// # Errors
    /// What `pidfd_open(2)` said.
    fn adopt(pid: Pid) -> io::Result<Self> {
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { pid, pidfd, status: None }),
            // It has ended already and was reaped by the kernel, because this program ignores the ends of its
            // children: it has not called [`claim_children`], and the number may be another process's by now.
            Err(error @ rustix::io::Errno::SRCH) => Err(error.into()),
            Err(error) => {
                // The child is this process's and was not reaped, so the number cannot be another process's.
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
    /// What `waitid(2)` said; it cannot fail for a child of this process.
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

/// Takes over a child that the standard library started and that was not waited for.
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
        // `EXITED` reports nothing else. If the kernel learns another way to end, it counts as a failure.
        (None, None) => EXIT_TROUBLE,
    }
}
