#![forbid(unsafe_code)]
//! A thread that sends what a program has written while the program does something else.
//!
//! Two things cannot be finished inside a write: what a server writes before its client has connected, and what the
//! socket does not take yet. Without this thread both would wait until the program calls the library again. The thread
//! waits for the client, or for the socket, and moves the bytes then. It is started when there is something to send,
//! so most programs never have it; afterwards it sleeps until it is needed again.
//!
//! Everything is done under the vchan's lock. A call that waits keeps the lock, and moves the bytes itself.

use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::vchan::Vchan;

/// Time until the next attempt where no descriptor was free to wait on.
const PAUSE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// A vchan as the C side holds it.
pub struct Handle {
    vchan: Arc<Mutex<Vchan>>,
    writer: Option<BackgroundWriter>,
    /// The process that made it: a forked child has no such thread.
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

/// A panic has marked the vchan as broken already, so a poisoned lock needs nothing more.
fn lock(vchan: &Mutex<Vchan>) -> MutexGuard<'_, Vchan> {
    vchan.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Handle {
    pub(crate) fn new(vchan: Vchan) -> Handle {
        Handle { vchan: Arc::new(Mutex::new(vchan)), writer: None, process: std::process::id() }
    }

    /// The vchan, locked for one call.
    pub(crate) fn vchan(&self) -> MutexGuard<'_, Vchan> {
        lock(&self.vchan)
    }

    /// After a call: starts or wakes the thread if bytes wait to be sent. `quietly` starts a thread that takes no
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

    /// Whether this process is a forked child of the one that made the vchan.
    fn is_forked(&self) -> bool {
        std::process::id() != self.process
    }

    /// To be called before the vchan is dropped: waits until what was written has been sent, if the peer takes it.
    pub(crate) fn linger(mut self) {
        if let Some(writer) = self.writer.take() {
            if self.is_forked() {
                // The thread is the parent's, and the lock may be held by it, in which case it is never released here.
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

    /// Stops the thread and waits until it has ended.
    fn dismiss(self) {
        self.bell.end.store(true, Ordering::Release);
        self.bell.ring();
        let _ = self.thread.join();
    }
}

impl Bell {
    fn ring(&self) {
        // The only failure is a full counter, and then the thread is being woken already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn answer(&self) {
        let _ = rustix::io::read(&self.wake, &mut [0u8; 8]);
    }
}

/// What the thread runs.
fn carry(vchan: &Mutex<Vchan>, bell: &Bell) {
    while !bell.end.load(Ordering::Acquire) {
        // A copy of the descriptor, because the call that runs meanwhile may close the original.
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

/// Waits until one of them is ready. Returns whether the second descriptor is, and whether the first, the bell, is.
fn wait(fds: &mut [PollFd<'_>], limit: Option<&Timespec>) -> (bool, bool) {
    match poll(fds, limit) {
        Ok(_) | Err(Errno::INTR) => {}
        // Waiting again would fail in the same way.
        Err(_) => return (true, true),
    }
    let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
    let called = ready.next().unwrap_or(false);
    (ready.next().unwrap_or(false), called)
}
