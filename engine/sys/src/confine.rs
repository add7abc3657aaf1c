#![forbid(unsafe_code)]
//! What a call's process gives up before it moves bytes, so that it can do nothing else afterwards.
//!
//! Such a process reads bytes from another VM. If these could exploit a fault in this code and take the process over,
//! it gains no privilege by starting a program (`no_new_privs`), can open no file and no network connection
//! (Landlock), and has no system calls but those of [`filter`] (seccomp). Everything that a call needs is opened
//! before.
//!
//! The services that it has started are not confined: they began before.

mod files;
mod filter;
mod program;

use std::io;
use std::os::fd::BorrowedFd;

/// An environment variable: `off` leaves calls unconfined, for debugging.
const VARIABLE: &str = "QREXEC_CONFINE";

/// What this call needs, beyond the needs of every call.
#[derive(Clone, Copy, Default, Debug)]
pub struct Needs {
    /// It lends pages to a pipe, and looks into that pipe after it was closed.
    pub reopens: bool,
    /// What it does with files that are not open yet. [`Place`]s say which files.
    pub files: Files,
    /// It uses an io_uring instance.
    pub uring: bool,
    /// It changes an epoll instance and sets timers.
    pub watches: bool,
    /// The ioctl requests that it makes on devices.
    pub ioctls: &'static [u32],
    /// It runs a foreign library that cannot be confined.
    pub unknown: bool,
}

/// What a call's own process does with files. Most processes have everything open that they need.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub enum Files {
    /// Nothing.
    #[default]
    Nothing,
    /// It makes the files that it receives.
    Make,
    /// It reads the files that it sends.
    Read,
    /// It reads the files that it sends, and removes them afterwards.
    Move,
}

/// What may be done below a [`Place`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum May {
    /// Files, folders and links may be made, and removed again.
    Make,
    /// Everything may be read.
    Read,
    /// Everything may be removed.
    Remove,
}

/// A folder, or a file, below which a confined process may do something.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The folder or file, however it was opened.
    pub at: BorrowedFd<'a>,
    /// What may be done below it.
    pub may: May,
}

/// Whether the processes of calls are confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confinement {
    /// They are.
    On,
    /// They are not, for debugging.
    Off,
}

impl Confinement {
    /// On, unless an option (`off`) or the environment says otherwise.
    #[must_use]
    pub fn unless(off: bool) -> Self {
        let off = off || std::env::var_os(VARIABLE).is_some_and(|value| value == "off");
        if off { Self::Off } else { Self::On }
    }

    /// Logs once, in a program that will have calls, what their confinement lacks.
    pub fn announce(self) {
        if self == Self::Off {
            tracing::warn!("calls are not confined");
        } else if !files::are_supported() {
            tracing::warn!("this kernel has no Landlock: calls are confined by their system calls only");
        }
    }

    /// Confines a process that only reads and writes what it has open.
    ///
    /// # Errors
    /// The kernel supports it and has refused. Then nothing from a peer may be read.
    pub fn close_to_streams(self) -> io::Result<()> {
        self.close(Needs::default())
    }

    /// Confines this thread for good, and all threads that it will start. It must be the only thread.
    ///
    /// # Errors
    /// The kernel supports it and has refused. Then nothing from a peer may be read.
    pub fn close(self, needs: Needs) -> io::Result<()> {
        self.close_around(needs, &[])
    }

    /// As [`Confinement::close`], except for what [`Needs::files`] allows below these places.
    ///
    /// # Errors
    /// As for [`Confinement::close`].
    pub fn close_around(self, needs: Needs, places: &[Place<'_>]) -> io::Result<()> {
        if self == Self::Off || needs.unknown {
            return Ok(());
        }
        let has_no_files = files::give_up(places)?;
        // Without Landlock, a process that may open anything may open everything.
        let needs = Needs { reopens: needs.reopens && has_no_files, ..needs };
        filter::apply(needs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_switches_it_off() {
        assert_eq!(Confinement::unless(true), Confinement::Off);
    }
}
