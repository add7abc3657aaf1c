//! What a receiver is connected to: two descriptors, or the data link of its own process's call.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use engine::direct::DirectService;
use engine::say;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// How much is read at once: what fits into a processor's second-level cache is summed and written from there.
pub const BUFFER: usize = 256 << 10;

/// Where a receiver's bytes come from and where its answer goes.
pub trait Port {
    /// Reads what there is, waiting for the first byte. 0: the end, which also comes when the sender is gone.
    ///
    /// # Errors
    /// The system failed.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Errno>;

    /// Called when nothing more will be read.
    fn end_input(&mut self);

    /// Sends the answer to the sender, if it is still there.
    fn answer(&mut self, bytes: &[u8]);

    /// Shows a line to people.
    fn say(&mut self, line: &str);

    /// Whether the sender is gone; waits at most this long for that.
    ///
    /// # Errors
    /// The system failed.
    fn is_alone(&mut self, limit: Duration) -> Result<bool, Errno>;
}

/// A program's stdin and stdout; lines go to its stderr.
#[derive(Debug)]
pub struct Streams {
    input: Option<OwnedFd>,
    output: OwnedFd,
}

impl Streams {
    /// Takes the two descriptors over.
    pub fn new(input: OwnedFd, output: OwnedFd) -> Self {
        let _ = rustix::pipe::fcntl_setpipe_size(&input, BUFFER);
        Self { input: Some(input), output }
    }
}

impl Port for Streams {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let Some(input) = &self.input else { return Ok(0) };
        loop {
            match rustix::io::read(input, &mut *buffer) {
                Err(Errno::INTR) => {}
                // The descriptor may be non-blocking: its flags are the caller's.
                Err(Errno::AGAIN) => wait(input, PollFlags::IN)?,
                other => return other,
            }
        }
    }

    fn end_input(&mut self) {
        self.input = None;
    }

    fn answer(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match rustix::io::write(&self.output, bytes) {
                Ok(len) => bytes = bytes.get(len..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if wait(&self.output, PollFlags::OUT).is_ok() => {}
                Err(_) => return,
            }
        }
    }

    fn say(&mut self, line: &str) {
        say::error(line);
    }

    fn is_alone(&mut self, limit: Duration) -> Result<bool, Errno> {
        let Some(input) = &self.input else { return Ok(true) };
        let limit = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(limit.subsec_nanos()),
        };
        match poll(&mut [PollFd::from_borrowed_fd(input.as_fd(), PollFlags::RDHUP)], Some(&limit)) {
            Ok(0) | Err(Errno::INTR) => Ok(false),
            Ok(_) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

fn wait(fd: &OwnedFd, for_what: PollFlags) -> Result<(), Errno> {
    match poll(&mut [PollFd::from_borrowed_fd(fd.as_fd(), for_what)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error),
    }
}

impl Port for DirectService {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        Ok(DirectService::read(self, buffer).unwrap_or(0))
    }

    fn end_input(&mut self) {}

    fn answer(&mut self, bytes: &[u8]) {
        let _ = self.write(bytes);
    }

    fn say(&mut self, line: &str) {
        let _ = DirectService::say(self, line);
    }

    fn is_alone(&mut self, limit: Duration) -> Result<bool, Errno> {
        Ok(DirectService::is_alone(self, limit).unwrap_or(true))
    }
}
