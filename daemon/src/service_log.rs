//! What a service of dom0 says on standard error, in the daemon's log.
//!
//! It comes through a pipe to a process of its own, which writes it line by line: escaped, with the service and the
//! caller in front, and no more than the caller's share of the log. What a VM makes a service say can neither look like a
//! line of the daemon's nor push others out. Like the call's process, this one can do nothing else.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use engine::confine::Confinement;
use engine::process::{EXIT_TROUBLE, fork_keeping};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use wire::command::ServiceCall;
use wire::escape::{Escaped, LOG_LIMIT};

/// Bytes of one read, and reads that empty a full pipe.
const READ: usize = 4096;
const READS: usize = (64 << 10) / READ + 1;

/// The log of one service, for as long as its call lasts.
#[derive(Debug)]
pub struct ServiceLog {
    /// Closed when the call has ended.
    lifeline: OwnedFd,
    /// Ends when what had been said by then is written.
    written: OwnedFd,
}

/// How the reading stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// Nobody can say anything any more.
    All,
    /// Somebody holds the other end.
    SoFar,
}

impl ServiceLog {
    /// Logs what comes from `stderr`, in a process that ends when nobody can say anything any more. `None`: there is no
    /// such process, and nobody hears the service.
    pub fn begin(call: &ServiceCall, stderr: OwnedFd, confinement: Confinement) -> Option<Self> {
        let who =
            format!("{} for {}", Escaped::new(call.service.as_str()), Escaped::new(call.source.as_str()));
        Self::try_begin(&who, call.source.as_str(), stderr, confinement)
            .inspect_err(|error| tracing::warn!("nobody hears {who}: {error}"))
            .ok()
    }

    fn try_begin(who: &str, source: &str, stderr: OwnedFd, confinement: Confinement) -> io::Result<Self> {
        let (ended, lifeline) = pipe_with(PipeFlags::CLOEXEC)?;
        let (written, writes) = pipe_with(PipeFlags::CLOEXEC)?;
        let keep = [stderr.as_fd(), ended.as_fd(), writes.as_fd()];
        fork_keeping(&keep, || {
            engine::log_source::speak_for(source);
            if let Err(error) = confinement.close_to_streams() {
                tracing::warn!("nobody hears {who}: confining the log: {error}");
                return EXIT_TROUBLE;
            }
            let mut lines = Lines::of(who);
            let heard = lines.follow(stderr.as_fd(), Some(ended.as_fd()));
            // Somebody waits for this word or for our end.
            let _ = rustix::io::write(&writes, b"!");
            if heard == Heard::SoFar {
                // What the service left running may go on to speak.
                lines.follow(stderr.as_fd(), None);
            }
            0
        })?;
        Ok(Self { lifeline, written })
    }

    /// The call has ended: what its service has said by now is written.
    pub fn end(self) {
        drop(self.lifeline);
        let _ = rustix::io::retry_on_intr(|| rustix::io::read(&self.written, &mut [0_u8; 1]));
    }
}

/// Makes lines of what it reads.
#[derive(Debug)]
struct Lines {
    /// `SERVICE for SOURCE`.
    who: String,
    /// The beginning of a line.
    begun: Vec<u8>,
}

impl Lines {
    fn of(who: &str) -> Self {
        Self { who: who.to_owned(), begun: Vec::new() }
    }

    /// Reads to the end of the output; once `call` has ended, no further than what is there.
    fn follow(&mut self, stderr: BorrowedFd<'_>, call: Option<BorrowedFd<'_>>) -> Heard {
        let mut heard = Heard::SoFar;
        while heard == Heard::SoFar && !is_over(stderr, call) {
            heard = self.read(stderr);
        }
        // What a pipe holds: who floods on after its call keeps nobody.
        for _ in 0..READS {
            if heard == Heard::All || !is_readable(stderr) {
                break;
            }
            heard = self.read(stderr);
        }
        let rest = std::mem::take(&mut self.begun);
        self.write(&rest);
        heard
    }

    fn read(&mut self, stderr: BorrowedFd<'_>) -> Heard {
        let mut buffer = [0_u8; READ];
        match rustix::io::read(stderr, &mut buffer) {
            Ok(0) => return Heard::All,
            Ok(count) => self.take(buffer.get(..count).unwrap_or_default()),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => return Heard::All,
        }
        Heard::SoFar
    }

    fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte != b'\n' {
                self.begun.push(byte);
            }
            // A line that is too long for the log becomes several.
            if byte == b'\n' || self.begun.len() >= LOG_LIMIT {
                let line = std::mem::take(&mut self.begun);
                self.write(&line);
            }
        }
    }

    fn write(&self, line: &[u8]) {
        if !line.is_empty() {
            tracing::info!("{}: {}", self.who, Escaped::new(line));
        }
    }
}

/// Waits until there is output, or until the `call` is over.
fn is_over(stderr: BorrowedFd<'_>, call: Option<BorrowedFd<'_>>) -> bool {
    let both = [Some(stderr), call];
    let mut fds: Vec<_> = both.iter().flatten().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    while let Err(Errno::INTR) = poll(&mut fds, None) {}
    fds.get(1).is_some_and(|call| !call.revents().is_empty())
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&at_once)).is_ok_and(|ready| ready > 0)
}
