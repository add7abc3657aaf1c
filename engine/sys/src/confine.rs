#![forbid(unsafe_code)]
//! What a call's process gives up before it moves bytes: from then on it can do nothing else.
//!
//! What such a process reads comes from another VM. Should a fault in this code ever let that VM take it over, it finds
//! a process that gains no privilege by starting a program (`no_new_privs`), has no file and no network (Landlock), and
//! has no system calls but those of [`filter`] (seccomp). Everything that a call needs is open before.
//!
//! The services that it has started are not confined: they began before.

mod files;
mod filter;
mod program;

use std::io;
use std::os::fd::BorrowedFd;

/// `off` leaves calls unconfined, for debugging.
const VARIABLE: &str = "QREXEC_CONFINE";

/// What a call needs beyond what every call does.
#[derive(Clone, Copy, Default, Debug)]
pub struct Needs {
    /// It lends pages to a pipe, and looks into that pipe after it was closed.
    pub reopens: bool,
    /// What it does with files that it has not open yet. Which files, [`Place`]s say.
    pub files: Files,
    /// It has an io_uring instance.
    pub uring: bool,
    /// It has an epoll instance and timers.
    pub watches: bool,
    /// Requests to devices.
    pub ioctls: &'static [u32],
    /// It runs a library of others that cannot be confined.
    pub unknown: bool,
}

/// What a call's own process does with files: most have all that they need open.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub enum Files {
    /// Nothing.
    #[default]
    Nothing,
    /// It makes what it receives.
    Make,
    /// It reads what it sends.
    Read,
    /// It reads what it sends, and removes it afterwards.
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
    /// Where, however it was opened.
    pub at: BorrowedFd<'a>,
    /// What.
    pub may: May,
}

/// Whether the processes of calls are confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confinement {
    /// As they should be.
    On,
    /// For debugging.
    Off,
}

impl Confinement {
    /// On, unless an option (`off`) or the environment says otherwise.
    #[must_use]
    pub fn unless(off: bool) -> Self {
        let off = off || std::env::var_os(VARIABLE).is_some_and(|value| value == "off");
        if off { Self::Off } else { Self::On }
    }

    /// Says once, in a program that will have calls, what is missing of their confinement.
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
    /// The kernel knows how, and would not. Nothing of a stranger's must be read then.
    pub fn close_to_streams(self) -> io::Result<()> {
        self.close(Needs::default())
    }

    /// Confines this thread and all threads that it will start, for good. It must be the only one.
    ///
    /// # Errors
    /// The kernel knows how, and would not. Nothing of a stranger's must be read then.
    pub fn close(self, needs: Needs) -> io::Result<()> {
        self.close_around(needs, &[])
    }

    /// [`Confinement::close`], but for what [`Needs::files`] says below these places.
    ///
    /// # Errors
    /// As for [`Confinement::close`].
    pub fn close_around(self, needs: Needs, places: &[Place<'_>]) -> io::Result<()> {
        if self == Self::Off || needs.unknown {
            return Ok(());
        }
        let has_no_files = files::give_up(places)?;
        // Without Landlock, whoever may open something may open anything.
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
