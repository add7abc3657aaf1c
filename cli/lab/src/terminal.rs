//! The caller's terminal, for a command in a lab.
//!
//! A lab that stays has left the caller's session, so a command there cannot have the caller's terminal: no job control,
//! and ^C would reach nobody. It gets a terminal of its own, and this process carries what is typed and what is shown.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use engine::process::{Signals, group};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, Signal};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{
    OptionalActions, Termios, isatty, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr, tcsetpgrp, tcsetwinsize,
};

/// Bytes that are carried at a time.
const PIECE: usize = 16 << 10;
/// How long a command that has ended may take to show its last words, if something it left behind keeps the terminal.
const LAST_WORDS: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// A command's terminal: we hold the end at which a person would sit.
pub(super) struct Terminal {
    seat: OwnedFd,
    /// How the caller's terminal was.
    before: Termios,
    /// Typed, and not taken yet.
    typed: Vec<u8>,
}

impl Terminal {
    /// A terminal like the caller's, and the end for the command; `None` unless the caller is in front of one.
    pub(super) fn like_the_callers() -> io::Result<Option<(Self, OwnedFd)>> {
        let (stdin, stdout) = (io::stdin(), io::stdout());
        if !isatty(&stdin) || !isatty(&stdout) || !is_in_front() {
            return Ok(None);
        }
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let seat = openpt(flags)?;
        unlockpt(&seat)?;
        let stage = ioctl_tiocgptpeer(&seat, flags)?;
        let before = tcgetattr(&stdin)?;
        tcsetattr(&stage, OptionalActions::Now, &before)?;
        fcntl_setfl(&seat, fcntl_getfl(&seat)? | OFlags::NONBLOCK)?;
        let terminal = Self { seat, before, typed: Vec::new() };
        terminal.resize();
        let mut raw = terminal.before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Drain, &raw)?;
        Ok(Some((terminal, stage)))
    }

    /// The window has another size now.
    pub(super) fn resize(&self) {
        // A terminal without a size is one all the same.
        let _ = tcgetwinsize(io::stdin()).and_then(|size| tcsetwinsize(&self.seat, size));
    }

    /// Takes what was typed. `false`: nobody types any more.
    pub(super) fn take_typed(&mut self) -> bool {
        let mut buffer = [0u8; PIECE];
        match rustix::io::retry_on_intr(|| rustix::io::read(io::stdin(), &mut buffer)) {
            Ok(n) if n > 0 => {
                self.typed.extend_from_slice(buffer.get(..n).unwrap_or_default());
                self.pass_typed();
                true
            }
            Err(rustix::io::Errno::AGAIN) => true,
            _ => false,
        }
    }

    /// Passes on what was typed, as much as is taken.
    pub(super) fn pass_typed(&mut self) {
        match rustix::io::retry_on_intr(|| rustix::io::write(&self.seat, &self.typed)) {
            Ok(n) => drop(self.typed.drain(..n.min(self.typed.len()))),
            Err(rustix::io::Errno::AGAIN) => {}
            // Nobody reads there any more.
            Err(_) => self.typed.clear(),
        }
    }

    /// Whether something typed still waits.
    pub(super) fn is_behind(&self) -> bool {
        !self.typed.is_empty()
    }

    /// Shows what there is to be shown. `false`: the command and all it left behind have closed the terminal.
    pub(super) fn show(&mut self) -> io::Result<bool> {
        let mut buffer = [0u8; PIECE];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.seat, &mut buffer)) {
            Ok(0) => Ok(false),
            Ok(n) => write_all(buffer.get(..n).unwrap_or_default()).map(|()| true),
            Err(rustix::io::Errno::AGAIN) => Ok(true),
            Err(_) => Ok(false),
        }
    }

    /// After the command's end: shows its last words.
    pub(super) fn show_the_rest(&mut self) {
        // What it left behind may talk for ever.
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until {
            let mut wanted = [PollFd::new(&self.seat, PollFlags::IN)];
            if !poll(&mut wanted, Some(&LAST_WORDS)).is_ok_and(|ready| ready > 0) {
                return;
            }
            if !self.show().unwrap_or(false) {
                return;
            }
        }
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.seat.as_fd()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A terminal that went away has no state to restore.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
    }
}

/// Writes to the caller's terminal, which somebody may have made non-blocking.
fn write_all(mut bytes: &[u8]) -> io::Result<()> {
    let stdout = io::stdout();
    while !bytes.is_empty() {
        match rustix::io::write(&stdout, bytes) {
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(&stdout, PollFlags::OUT)], None))?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn front() -> Option<Pid> {
    tcgetpgrp(io::stdin()).ok()
}

fn is_in_front() -> bool {
    group().is_some_and(|group| front() == Some(group))
}

/// Gives the caller's terminal back to this process group: a shell that ran in front of it with job control, in the
/// session of the caller, has left it to a group that is gone.
pub(super) struct Front {
    ours: bool,
}

impl Front {
    pub(super) fn remember() -> Self {
        Self { ours: is_in_front() }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if self.ours && !is_in_front() {
            // Whoever is not in front and says so is stopped, unless the signal for that is blocked.
            let _blocked = Signals::block(&[Signal::TTOU]);
            let _ = group().map(|group| tcsetpgrp(io::stdin(), group));
        }
    }
}
