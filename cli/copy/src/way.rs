//! How a sender reaches its receiver: by two descriptors, or by the data link of its own process's call.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use engine::direct::DirectClient;
use engine::localfd::{Direction, LocalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Bytes that are collected before they are sent.
pub(crate) const BUFFER: usize = 256 << 10;

/// A way there and back.
#[derive(Debug)]
pub(crate) enum Way {
    /// Two descriptors, perhaps the same socket.
    Streams {
        output: LocalFd,
        /// `None` where no answer can be read, or no more of it.
        input: Option<LocalFd>,
    },
    /// A call of this process.
    Call(Box<DirectClient>),
}

impl Way {
    pub(crate) fn streams(input: Option<OwnedFd>, output: OwnedFd) -> io::Result<Self> {
        let output = LocalFd::adopt(output, Direction::Out)?;
        output.grow(BUFFER);
        let input = input.map(|fd| LocalFd::adopt(fd, Direction::In)).transpose()?;
        Ok(Self::Streams { output, input })
    }

    /// Whether an answer may still come.
    pub(crate) const fn listens(&self) -> bool {
        matches!(self, Self::Call(_) | Self::Streams { input: Some(_), .. })
    }

    /// Whether a write may be tried before it was waited for.
    pub(crate) fn may_try(&self) -> bool {
        match self {
            Self::Streams { output, .. } => output.may_try(),
            Self::Call(_) => true,
        }
    }

    /// Writes what is taken at once; `WouldBlock` for nothing, `BrokenPipe` where nobody takes anything any more.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Streams { output, .. } => output.write(bytes),
            Self::Call(call) => match call.try_write(bytes) {
                Ok(0) => Err(io::ErrorKind::WouldBlock.into()),
                Ok(len) => Ok(len),
                Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
            },
        }
    }

    /// Takes what has come of the answer: `WouldBlock` for nothing, `Ok(0)` once nothing more will.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Streams { input, .. } => {
                let len = input.as_ref().map_or(Ok(0), |input| input.read(buffer))?;
                if len == 0 {
                    *input = None;
                }
                Ok(len)
            }
            Self::Call(call) => match call.try_read(buffer) {
                Ok(0) if !call.has_ended().unwrap_or(true) => Err(io::ErrorKind::WouldBlock.into()),
                other => Ok(other.unwrap_or(0)),
            },
        }
    }

    /// Waits until `room` bytes (0: none) can be written or something can be read, at most so long. Whether there may be
    /// something to read.
    pub(crate) fn wait(&mut self, room: usize, limit: Option<Duration>) -> io::Result<bool> {
        match self {
            Self::Streams { output, input } => wait(output, input.as_ref(), room > 0, limit),
            Self::Call(_) if limit == Some(Duration::ZERO) => Ok(true),
            Self::Call(call) => {
                // Who is gone is no error here: reading tells.
                let _ = call.wait(room, limit);
                Ok(true)
            }
        }
    }
}

fn wait(
    output: &LocalFd,
    input: Option<&LocalFd>,
    writes: bool,
    limit: Option<Duration>,
) -> io::Result<bool> {
    let limit = limit.map(|limit| Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(limit.subsec_nanos()),
    });
    let mut fds = Vec::with_capacity(2);
    if let Some(input) = input {
        fds.push(PollFd::from_borrowed_fd(input.as_fd(), PollFlags::IN));
    }
    if writes {
        fds.push(PollFd::from_borrowed_fd(output.as_fd(), PollFlags::OUT));
    }
    match poll(&mut fds, limit.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let came = fds.first().map(PollFd::revents).unwrap_or_else(PollFlags::empty);
    Ok(input.is_some() && came.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR))
}
