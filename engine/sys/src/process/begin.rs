//! In which state programs begin that are started with [`std::process::Command`], which passes on the caller's
//! settings of signals and terminal.
#![allow(unsafe_code)] // `pre_exec`, and signal dispositions, have no safe equivalent

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, ioctl_tiocsctty, setsid};

/// The process group of this process. `None`: its leader is outside of this PID namespace, where groups have other numbers.
pub fn group() -> Option<Pid> {
    // SAFETY: it takes nothing and cannot fail. rustix's takes 0 for impossible.
    Pid::from_raw(unsafe { libc::getpgrp() })
}

/// Lets `command` begin with no signal blocked, although the event loop that starts it has blocked some.
pub fn begin_unblocked(command: &mut Command) {
    let begin = || {
        super::signals::unblock_all();
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; this is one, on a set of its own.
    unsafe { command.pre_exec(begin) };
}

/// Lets `command` begin as the leader of a session on the terminal that is its standard input, so that the terminal's
/// keys send it signals, even if its caller was started in the background and ignores those. It must not be given a
/// process group: the leader of a group cannot start a session.
pub fn begin_on_terminal(command: &mut Command) {
    let begin = || -> io::Result<()> {
        for signal in [libc::SIGINT, libc::SIGQUIT] {
            // SAFETY: a valid signal and disposition; no handler is installed.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        setsid()?;
        // SAFETY: descriptor 0 is open here: the command's standard input is in its place before this is run.
        let terminal = unsafe { BorrowedFd::borrow_raw(0) };
        Ok(ioctl_tiocsctty(terminal)?)
    };
    // SAFETY: as above; all of these go to the kernel directly and take no lock.
    unsafe { command.pre_exec(begin) };
}

/// Makes a file size limit an error for `command` instead of its end, so that a full log ends no agent.
pub fn begin_deaf_to_file_limits(command: &mut Command) {
    let begin = || {
        // SAFETY: a valid signal and disposition; no handler is installed.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        Ok(())
    };
    // SAFETY: as above; signal(2) is async-signal-safe.
    unsafe { command.pre_exec(begin) };
}
