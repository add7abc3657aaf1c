//! Signals as readable events: a signalfd for the event loops, so that no handler ever runs.
#![allow(unsafe_code)] // signal sets and signalfd have no safe equivalent.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::Signal;

/// Size of one record that a signalfd delivers (`struct signalfd_siginfo`); the signal's number
/// comes first.
const RECORD: usize = size_of::<libc::signalfd_siginfo>();

/// A set of signals that this thread receives as events. Readable when one has arrived.
///
/// The signals are blocked in the thread that made it, and in threads that this one starts later: it must be made
/// before any thread. Dropping it restores the previous mask; a signal that is still pending then has its usual
/// effect.
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
    before: Mask,
}

impl Signals {
    /// Blocks `signals` and receives them as events from now on.
    ///
    /// # Errors
    /// What `signalfd(2)` or `pthread_sigmask(3)` said; the mask is then as it was.
    pub fn block(signals: &[Signal]) -> io::Result<Self> {
        let set = Mask::of(signals);
        // SAFETY: -1 asks for a new descriptor and the set is initialised.
        let raw = unsafe { libc::signalfd(-1, &raw const set.0, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above succeeded, so this is a new descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let before = set.apply(libc::SIG_BLOCK)?;
        Ok(Self { fd, before })
    }

    /// The next signal that has arrived, if any. Equal signals that arrived together count once.
    /// Never blocks.
    ///
    /// # Errors
    /// What `read(2)` said.
    pub fn take_next(&mut self) -> io::Result<Option<i32>> {
        Ok(self.take_next_from()?.map(|(number, _)| number))
    }

    /// As [`Signals::take_next`]. Also returns whether the kernel itself sent the signal: a key of a terminal did, and
    /// then every process in the foreground got it.
    ///
    /// # Errors
    /// What `read(2)` said.
    pub fn take_next_from(&mut self) -> io::Result<Option<(i32, bool)>> {
        let mut record = [0u8; RECORD];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut record)) {
            Ok(RECORD) => {
                // `ssi_signo`, `ssi_errno`, `ssi_code`, four bytes each.
                let [a, b, c, d, _, _, _, _, i, j, k, l, ..] = record;
                let kernel = i32::from_ne_bytes([i, j, k, l]) == libc::SI_KERNEL;
                Ok(Some((i32::from_ne_bytes([a, b, c, d]), kernel)))
            }
            Ok(_) => Ok(None),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        debug_assert!(self.fd.as_raw_fd() >= 0);
        self.fd.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // The mask came from the kernel, so setting it again cannot fail; and an error in a drop could not be
        // reported.
        let _ = self.before.apply(libc::SIG_SETMASK);
    }
}

/// Unblocks every signal in this thread: a new process must not inherit the signals that its parent's loop has
/// blocked.
pub(super) fn unblock_all() {
    let _ = Mask::of(&[]).apply(libc::SIG_SETMASK);
}

/// A signal mask.
#[derive(Clone, Copy)]
struct Mask(libc::sigset_t);

impl Mask {
    fn of(signals: &[Signal]) -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: `sigemptyset` initialises the set it is given a valid pointer to.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        for signal in signals {
            // SAFETY: the set was initialised above; an invalid number is refused by an error,
            // which cannot happen with a `Signal`.
            unsafe { libc::sigaddset(set.as_mut_ptr(), signal.as_raw()) };
        }
        // SAFETY: initialised by `sigemptyset`.
        Self(unsafe { set.assume_init() })
    }

    /// Changes this thread's mask as `how` says. Returns the previous one.
    fn apply(&self, how: libc::c_int) -> io::Result<Self> {
        let mut before = Self::of(&[]);
        // SAFETY: both point to initialised sets that live across the call.
        let error = unsafe { libc::pthread_sigmask(how, &raw const self.0, &raw mut before.0) };
        if error == 0 { Ok(before) } else { Err(io::Error::from_raw_os_error(error)) }
    }
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mask")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_becomes_an_event_and_is_gone_after_it() {
        let mut signals = Signals::block(&[Signal::USR2]).expect("signalfd");
        assert_eq!(signals.take_next().expect("read"), None);
        // SAFETY: `raise` sends a signal to this very thread, which blocks it.
        unsafe { libc::raise(libc::SIGUSR2) };
        assert_eq!(signals.take_next().expect("read"), Some(libc::SIGUSR2));
        assert_eq!(signals.take_next().expect("read"), None);
    }
}
