#![allow(unsafe_code)] // Pushes submission queue entries.
//! The io_uring driver: one system call to sleep on everything.
//!
//! Transfers are plain system calls. A pipe that was opened anew cannot be asked not to wait through a ring; where it
//! can be asked, two transfers by one `io_uring_enter` take longer than by two system calls (see
//! `docs/performance.md`). Polls stay armed from one sleep to the next. An armed poll holds its open file, so that the
//! other end of a pipe does not see its end: once a place was closed, its poll is removed in the same turn.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use io_uring::register::Restriction;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::event::PollFlags;
use rustix::io::Errno;

use super::driver::{Driver, PLACES, Ready, Results, Transfer, Wants, poll_all};

/// Entries of the submission queue: at most an add and a remove for each place.
const ENTRIES: u32 = 16;
const _: () = assert!(ENTRIES as usize >= 2 * PLACES);

/// `IORING_REGISTER_ENABLE_RINGS`
const ENABLE_RINGS: u8 = 12;

/// The `user_data` of entries whose completion is not needed.
const SILENT: u64 = u64::MAX;

/// A poll that is armed in the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Armed {
    fd: RawFd,
    events: PollFlags,
    tag: u64,
}

pub(super) struct Uring {
    /// `None` after an error of the io_uring instance, with everything that was queued in it: then `poll` does the
    /// work.
    ring: Option<IoUring>,
    armed: [Option<Armed>; PLACES],
    /// Poll results that arrived while transfers were reaped.
    early: Ready,
    serial: u64,
    syscalls: u64,
}

impl Uring {
    /// An instance that continues the count of the driver before it. Fails where none can be made. Forked processes do
    /// not inherit it, nor the polls that are armed in it: they get no descriptor but those they are given.
    pub(super) fn new(syscalls: u64) -> io::Result<Uring> {
        Ok(Uring::over(IoUring::builder().setup_clamp().dontfork().build(ENTRIES)?, syscalls + 3))
    }

    /// An instance that allows only the operations of this file, because seccomp does not see them.
    pub(super) fn restricted() -> io::Result<Uring> {
        let ring = IoUring::builder().setup_clamp().dontfork().setup_r_disabled().build(ENTRIES)?;
        let operations = [opcode::PollAdd::CODE, opcode::PollRemove::CODE];
        let mut restrictions = Vec::from(operations.map(Restriction::sqe_op));
        // Up to Linux 6.18 a list without any register operation forbids all of them; later kernels then allow all.
        restrictions.push(Restriction::register_op(ENABLE_RINGS));
        ring.submitter().register_restrictions(&mut restrictions)?;
        ring.submitter().register_enable_rings()?;
        Ok(Uring::over(ring, 5))
    }

    fn over(ring: IoUring, syscalls: u64) -> Uring {
        Uring {
            ring: Some(ring),
            armed: [None; PLACES],
            early: [PollFlags::empty(); PLACES],
            serial: 0,
            syscalls,
        }
    }

    fn ring(&mut self) -> io::Result<&mut IoUring> {
        self.ring.as_mut().ok_or_else(|| io::Error::other("the io_uring instance was given up"))
    }

    /// Queues an entry, which uses a descriptor and no memory.
    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        let ring = self.ring()?;
        // SAFETY: entries of this file use descriptors only, and no memory that would have to outlive them.
        unsafe { ring.submission().push(entry) }
            .map_err(|_| io::Error::other("the io_uring submission queue is full"))
    }

    /// Closes the instance for good.
    fn give_up(&mut self) {
        self.ring = None;
        self.armed = [None; PLACES];
    }

    /// Submits what is queued and waits for completions, or until `limit` has passed.
    fn enter(&mut self, wait: usize, limit: Option<Duration>) -> io::Result<()> {
        self.syscalls += 1;
        let ring = self.ring()?;
        let entered = match limit.map(types::Timespec::from) {
            None => ring.submit_and_wait(wait),
            Some(limit) => {
                let args = types::SubmitArgs::new().timespec(&limit);
                ring.submitter().submit_with_args(wait, &args)
            }
        };
        match entered {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(e) if e.raw_os_error() == Some(Errno::TIME.raw_os_error()) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Arms and removes polls until they match what is wanted.
    fn arm(&mut self, wants: &Wants<'_>) -> io::Result<()> {
        for (place, want) in wants.iter().enumerate() {
            let wanted = want.map(|(fd, events)| (fd.as_raw_fd(), events));
            let held = self.armed[place];
            if held.map(|a| (a.fd, a.events)) == wanted {
                continue;
            }
            self.disarm(place)?;
            if let Some((fd, events)) = wanted {
                self.serial += 1;
                let tag = self.serial << 3 | place as u64;
                // A descriptor that is only watched for its end stays armed: io_uring also reports a half-closed
                // socket, which remains half-closed, so a poll for one event would be armed and reported again and
                // again.
                let lasting = events.is_empty();
                let add = opcode::PollAdd::new(types::Fd(fd), u32::from(events.bits())).multi(lasting);
                self.push(&add.build().user_data(tag))?;
                self.armed[place] = Some(Armed { fd, events, tag });
            }
        }
        Ok(())
    }

    /// Queues the removal of the poll at this place.
    fn disarm(&mut self, place: usize) -> io::Result<()> {
        let Some(old) = self.armed[place] else { return Ok(()) };
        self.push(&opcode::PollRemove::new(old.tag).build().user_data(SILENT))?;
        self.armed[place] = None;
        Ok(())
    }

    fn disarm_closed(&mut self, open: &[bool; PLACES]) -> io::Result<()> {
        for (place, open) in open.iter().enumerate() {
            if !open {
                self.disarm(place)?;
            }
        }
        self.syscalls += 1;
        self.ring()?.submit()?;
        let mut early = std::mem::replace(&mut self.early, [PollFlags::empty(); PLACES]);
        self.reap(&mut early);
        self.early = early;
        Ok(())
    }

    /// Takes completions into `ready`.
    fn reap(&mut self, ready: &mut Ready) {
        let Some(ring) = &mut self.ring else { return };
        for entry in ring.completion() {
            let tag = entry.user_data();
            let place = (tag & 7) as usize;
            // Any other completion is that of a poll that was removed.
            if tag != SILENT && place < PLACES && self.armed[place].is_some_and(|a| a.tag == tag) {
                if !cqueue::more(entry.flags()) {
                    self.armed[place] = None;
                }
                // A descriptor that cannot be polled counts as ready, so that a transfer is tried.
                ready[place] |= match entry.result() {
                    events if events > 0 => PollFlags::from_bits_retain(events as u16),
                    _ => PollFlags::IN | PollFlags::OUT,
                };
            }
        }
    }
}

impl Driver for Uring {
    fn transfer(&mut self, transfers: [Option<Transfer<'_>>; 2]) -> Results {
        transfers.map(|t| {
            t.map(|t| {
                self.syscalls += 1;
                t.run()
            })
        })
    }

    fn wait(&mut self, wants: &Wants<'_>, limit: Option<Duration>) -> io::Result<Ready> {
        if self.ring.is_some() {
            match self.wait_by_ring(wants, limit) {
                Ok(ready) => return Ok(ready),
                Err(error) => tracing::debug!("io_uring is given up: {error}"),
            }
            self.give_up();
        }
        self.syscalls += 1;
        poll_all(wants, limit)
    }

    fn let_go(&mut self, open: &[bool; PLACES]) {
        let holds = self.armed.iter().zip(open).any(|(armed, open)| armed.is_some() && !open);
        // Without the instance there are no polls either.
        if holds && let Err(error) = self.disarm_closed(open) {
            tracing::debug!("io_uring is given up: {error}");
            self.give_up();
        }
    }

    fn look(&mut self, wants: &Wants<'_>) -> io::Result<Ready> {
        self.syscalls += 2;
        poll_all(wants, Some(Duration::ZERO))
    }

    fn syscalls(&self) -> u64 {
        self.syscalls
    }

    fn name(&self) -> &'static str {
        "io_uring"
    }
}

impl Uring {
    fn wait_by_ring(&mut self, wants: &Wants<'_>, limit: Option<Duration>) -> io::Result<Ready> {
        let mut ready = std::mem::replace(&mut self.early, [PollFlags::empty(); PLACES]);
        self.arm(wants)?;
        // A completion without news ends a wait too, and a wait that has submitted something does not report that its
        // time is up; so the clock decides.
        let deadline = limit.map(|limit| Instant::now() + limit);
        while ready.iter().all(|r| r.is_empty()) {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            self.enter(1, left)?;
            self.reap(&mut ready);
            if left.is_some_and(|left| left.is_zero()) {
                break;
            }
        }
        Ok(ready)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};

    use rustix::event::{PollFd, Timespec, poll};

    use super::super::driver::{SINK, SOURCE};
    use super::*;

    /// One instance at a time: a new one may still be inherited by a fork, and these tests look at all of this
    /// process.
    fn alone() -> std::sync::MutexGuard<'static, ()> {
        static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
        ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What a descriptor reports now.
    fn now(fd: &OwnedFd) -> PollFlags {
        let mut fds = [PollFd::new(fd, PollFlags::IN | PollFlags::OUT)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).expect("poll");
        fds[0].revents()
    }

    /// An armed poll holds a pipe's end, so that the other end does not see it closed.
    #[test]
    fn a_place_that_is_closed_is_let_go_at_once() {
        let _alone = alone();
        let Ok(mut driver) = Uring::new(0) else { return };
        let (reader, sink) = rustix::pipe::pipe().expect("pipe");
        let (source, writer) = rustix::pipe::pipe().expect("pipe");
        let mut wants: Wants<'_> = [None; PLACES];
        wants[SINK] = Some((sink.as_fd(), PollFlags::empty()));
        wants[SOURCE] = Some((source.as_fd(), PollFlags::IN));
        driver.wait(&wants, Some(Duration::from_millis(1))).expect("nothing happens");
        drop((sink, source));
        assert!(!now(&reader).contains(PollFlags::HUP) && !now(&writer).contains(PollFlags::ERR), "held");
        let mut open = [true; PLACES];
        for (place, other, sees) in [(SINK, &reader, PollFlags::HUP), (SOURCE, &writer, PollFlags::ERR)] {
            open[place] = false;
            driver.let_go(&open);
            assert!(now(other).contains(sees), "{place}");
        }
        let before = driver.syscalls();
        driver.let_go(&open);
        assert_eq!(driver.syscalls(), before, "there is nothing more to do");
    }

    /// Seccomp does not see its operations, so all others must be impossible.
    #[test]
    fn a_restricted_instance_waits_and_opens_nothing() {
        let _alone = alone();
        let Ok(mut driver) = Uring::restricted() else { return };
        let (_reader, sink) = rustix::pipe::pipe().expect("pipe");
        let mut wants: Wants<'_> = [None; PLACES];
        wants[SINK] = Some((sink.as_fd(), PollFlags::OUT));
        let ready = driver.wait(&wants, None).expect("it can be written");
        assert!(ready[SINK].contains(PollFlags::OUT) && driver.ring.is_some(), "the ring has said so");
        let open = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), c"/dev/null".as_ptr());
        driver.push(&open.build().user_data(SILENT)).expect("queued");
        let ring = driver.ring().expect("there");
        ring.submit_and_wait(1).expect("submitted");
        let refused = ring.completion().find(|entry| entry.user_data() == SILENT).expect("answered");
        assert_eq!(refused.result(), -libc::EACCES);
    }

    /// Each transfer is one system call, and is not tried in the io_uring instance before.
    #[test]
    fn a_transfer_is_one_system_call() {
        let _alone = alone();
        use crate::localfd::{Direction, LocalFd};
        use ring::Spans;
        let Ok(mut driver) = Uring::new(0) else { return };
        let ((source, _in), (_out, sink)) =
            (rustix::pipe::pipe().expect("pipe"), rustix::pipe::pipe().expect("pipe"));
        let source = LocalFd::adopt(source, Direction::In).expect("ours");
        let sink = LocalFd::adopt(sink, Direction::Out).expect("ours");
        let before = driver.syscalls();
        let (fill, drain) = (Spans::new(), Spans::new());
        let results =
            driver.transfer([Some(Transfer::Drain(&sink, &drain)), Some(Transfer::Fill(&source, &fill))]);
        assert!(results.iter().all(Option::is_some), "both were made");
        assert_eq!(driver.syscalls() - before, 2);
    }

    #[test]
    fn no_forked_process_keeps_an_instance() {
        let _alone = alone();
        let Ok(_driver) = Uring::new(0) else { return };
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("maps");
        let mut lines = maps.lines();
        let mut rings = 0;
        while let Some(line) = lines.next() {
            if line.ends_with("[io_uring]") {
                let flags = lines.find_map(|line| line.strip_prefix("VmFlags:")).expect("flags");
                assert!(flags.split_whitespace().any(|flag| flag == "dc"), "{line}: {flags}");
                rings += 1;
            }
        }
        assert!(rings > 0, "{maps}");
    }
}
