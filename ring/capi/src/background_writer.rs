#![forbid(unsafe_code)]
//! The thread that carries what a program has written, while the program is elsewhere.
//!
//! Two things cannot be done at once by a write: what a server writes before its client comes, and what a socket does
//! not take yet. Both used to wait for the program's next call, which may be long in coming. The writer waits for the
//! client, or for the socket, and moves the bytes then. It is started when there is something to carry, so most
//! programs never have it; afterwards it sleeps until it is needed again.
//!
//! Everything is done under the vchan's lock. A call that sleeps keeps the lock, and moves the bytes itself.

use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::vchan::Vchan;

/// Pause before another look where no descriptor could be had to wait on.
const PAUSE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// A vchan as the C side holds it.
pub struct Handle {
    vchan: Arc<Mutex<Vchan>>,
    writer: Option<BackgroundWriter>,
    /// The process that made it: in a forked child there is no writer.
    process: u32,
}

struct BackgroundWriter {
    bell: Arc<Bell>,
    thread: JoinHandle<()>,
}

struct Bell {
    wake: OwnedFd,
    end: AtomicBool,
}

/// A thread that panicked has ruined its vchan already; the lock says nothing more.
fn lock(vchan: &Mutex<Vchan>) -> MutexGuard<'_, Vchan> {
    vchan.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Handle {
    pub(crate) fn new(vchan: Vchan) -> Handle {
        Handle { vchan: Arc::new(Mutex::new(vchan)), writer: None, process: std::process::id() }
    }

    /// The vchan, for one call.
    pub(crate) fn vchan(&self) -> MutexGuard<'_, Vchan> {
        lock(&self.vchan)
    }

    /// After a call: sends the writer out if there is something to carry. `quietly` starts a thread that takes no
    /// signals. Without a thread the bytes move at the next call.
    pub(crate) fn tend(&mut self, quietly: impl FnOnce(&mut dyn FnMut())) {
        if !lock(&self.vchan).wants_writer() || self.is_forked() {
            return;
        }
        match &self.writer {
            Some(writer) => writer.bell.ring(),
            None => quietly(&mut || self.writer = BackgroundWriter::start(&self.vchan)),
        }
    }

    /// In a child of the process that made it.
    fn is_forked(&self) -> bool {
        std::process::id() != self.process
    }

    /// Before it is dropped: what was written leaves, as far as the peer takes it.
    pub(crate) fn linger(mut self) {
        if let Some(writer) = self.writer.take() {
            if self.is_forked() {
                // The thread is the parent's, and so is a lock that it may hold.
                std::mem::forget(writer);
                std::mem::forget(self);
                return;
            }
            writer.dismiss();
        }
        lock(&self.vchan).linger();
    }
}

impl BackgroundWriter {
    fn start(vchan: &Arc<Mutex<Vchan>>) -> Option<BackgroundWriter> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()?;
        let bell = Arc::new(Bell { wake, end: AtomicBool::new(false) });
        let (vchan, own) = (Arc::clone(vchan), Arc::clone(&bell));
        let builder = std::thread::Builder::new().name("libvchan".into()).stack_size(128 << 10);
        let thread = builder.spawn(move || carry(&vchan, &own)).ok()?;
        Some(BackgroundWriter { bell, thread })
    }

    /// Ends it, and waits for that.
    fn dismiss(self) {
        self.bell.end.store(true, Ordering::Release);
        self.bell.ring();
        let _ = self.thread.join();
    }
}

impl Bell {
    fn ring(&self) {
        // Full: rung often enough.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn answer(&self) {
        let _ = rustix::io::read(&self.wake, &mut [0u8; 8]);
    }
}

/// The writer's life.
fn carry(vchan: &Mutex<Vchan>, bell: &Bell) {
    while !bell.end.load(Ordering::Acquire) {
        // A descriptor of our own: the call that is under way may close the other one.
        let errand = lock(vchan).errand().map(|(fd, what)| (fd.try_clone_to_owned(), what));
        let (due, called) = match &errand {
            Some((Ok(fd), what)) => {
                wait(&mut [PollFd::new(&bell.wake, PollFlags::IN), PollFd::new(fd, *what)], None)
            }
            Some((Err(_), _)) => {
                let (_, called) = wait(&mut [PollFd::new(&bell.wake, PollFlags::IN)], Some(&PAUSE));
                (true, called)
            }
            None => wait(&mut [PollFd::new(&bell.wake, PollFlags::IN)], None),
        };
        drop(errand);
        if called {
            bell.answer();
        }
        if due && !bell.end.load(Ordering::Acquire) {
            let mut vchan = lock(vchan);
            if catch_unwind(AssertUnwindSafe(|| vchan.run_errand())).is_err() {
                vchan.ruin();
            }
        }
    }
}

/// Sleeps. Whether the second descriptor is ready, and whether the first, the bell, is.
fn wait(fds: &mut [PollFd<'_>], limit: Option<&Timespec>) -> (bool, bool) {
    match poll(fds, limit) {
        Ok(_) | Err(Errno::INTR) => {}
        // Nothing that waiting longer would mend.
        Err(_) => return (true, true),
    }
    let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
    let called = ready.next().unwrap_or(false);
    (ready.next().unwrap_or(false), called)
}
