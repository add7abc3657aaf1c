//! Reading and writing descriptors that block, whoever opened them.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};

use engine::localfd::is_gone;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use wire::remote::frames::{self, MAX_LEN};
use wire::remote::request::MAX_LINE;
use wire::stream::Kind;

/// What one read takes at most.
pub(crate) const BUFFER: usize = 256 << 10;
/// What a session's pipes hold, where the system allows it: several frames, so that a wake-up moves more than one.
const PIPE: usize = 1 << 20;

/// Reads what is there, waiting for the first byte; 0 is the end.
pub(crate) fn read(from: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::io::read(from, &mut *buffer) {
            Ok(len) => return Ok(len),
            Err(Errno::INTR) => {}
            // Somebody else's flag on an inherited descriptor.
            Err(Errno::AGAIN) => wait(from, PollFlags::IN)?,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes all of it.
pub(crate) fn write(to: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    write_both(to, bytes, &[])
}

/// Writes a header and what belongs to it, in one piece where the descriptor takes it.
pub(crate) fn write_both(to: &OwnedFd, mut first: &[u8], mut second: &[u8]) -> io::Result<()> {
    while !first.is_empty() || !second.is_empty() {
        match rustix::io::writev(to, &[IoSlice::new(first), IoSlice::new(second)]) {
            Ok(len) => {
                let of_second = len.saturating_sub(first.len());
                first = first.get(len..).unwrap_or_default();
                second = second.get(of_second..).unwrap_or_default();
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(to, PollFlags::OUT)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether a write of a few bytes to this pipe would not wait.
pub(crate) fn has_room(to: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(to, PollFlags::OUT)];
    let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&at_once)).is_ok() && fds.iter().all(|fd| fd.revents() == PollFlags::OUT)
}

fn wait(fd: &OwnedFd, what: PollFlags) -> io::Result<()> {
    match poll(&mut [PollFd::new(fd, what)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A pipe that holds several frames: the end to read, the end to write.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    widen(&write);
    Ok((read, write))
}

/// Lets a pipe hold several frames.
pub(crate) fn widen(pipe: impl AsFd) {
    // A user has only so many large pipes; an ordinary one does as well.
    let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE);
}

/// Sends `from` to its end as frames of this stream, each in one piece by `send`.
///
/// # Errors
/// Nobody takes the frames any more. A failing read is the stream's end.
pub(crate) fn send_frames(
    from: &OwnedFd,
    kind: Kind,
    mut send: impl FnMut(&[u8], &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; MAX_LEN as usize];
    loop {
        let len = read(from, &mut buffer).unwrap_or(0);
        let bytes = buffer.get(..len).unwrap_or_default();
        let header = frames::header(kind, u32::try_from(len).unwrap_or(MAX_LEN));
        send(&header, bytes)?;
        if len == 0 {
            return Ok(());
        }
    }
}

/// Copies `from` to its end. Whether `to` took everything.
pub(crate) fn copy(from: &OwnedFd, to: &OwnedFd) -> bool {
    let mut buffer = vec![0; BUFFER];
    loop {
        let len = read(from, &mut buffer).unwrap_or(0);
        match buffer.get(..len) {
            None | Some([]) => return true,
            Some(bytes) if write(to, bytes).is_err() => return false,
            Some(_) => {}
        }
    }
}

/// Where a stream of the other side goes: bytes that nobody takes any more are dropped, as in a call on one machine.
pub(crate) struct Sink(Option<OwnedFd>);

impl Sink {
    pub(crate) const fn new(to: Option<OwnedFd>) -> Self {
        Self(to)
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(to) = &self.0 else { return Ok(()) };
        match write(to, bytes) {
            Err(error) if is_gone(&error) => {
                self.0 = None;
                Ok(())
            }
            result => result,
        }
    }

    pub(crate) fn end(&mut self) {
        self.0 = None;
    }
}

/// What comes from the other side, of which more may have been read than was used.
pub(crate) struct Input {
    from: OwnedFd,
    held: Vec<u8>,
}

impl Input {
    pub(crate) const fn new(from: OwnedFd) -> Self {
        Self { from, held: Vec::new() }
    }

    /// Reads what is there, waiting for the first byte; 0 is the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.held.is_empty() {
            return read(&self.from, buffer);
        }
        let len = self.held.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(self.held.drain(..len)) {
            *to = from;
        }
        Ok(len)
    }

    /// Keeps what was read and not used: it comes again with the next read.
    pub(crate) fn put_back(&mut self, rest: &[u8]) {
        drop(self.held.splice(..0, rest.iter().copied()));
    }

    /// The bytes before a newline.
    pub(crate) fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        let mut buffer = [0; 4096];
        while line.len() < MAX_LINE {
            let len = self.read(&mut buffer)?;
            let got = buffer.get(..len).unwrap_or_default();
            if got.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut parts = got.splitn(2, |byte| *byte == b'\n');
            line.extend_from_slice(parts.next().unwrap_or_default());
            if let Some(rest) = parts.next() {
                self.put_back(rest);
                return Ok(line);
            }
        }
        Err(io::ErrorKind::InvalidData.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_was_read_is_lost() {
        let (from, to) = pipe().unwrap();
        write(&to, b"qrexec-remote 1 a b c\nrest").unwrap();
        drop(to);
        let mut input = Input::new(from);
        assert_eq!(input.line().unwrap(), b"qrexec-remote 1 a b c");
        let mut rest = [0; 2];
        assert_eq!((input.read(&mut rest).unwrap(), rest), (2, *b"re"));
        input.put_back(b"\nb");
        assert_eq!(input.line().unwrap(), b"");
        let mut rest = [0; 8];
        assert_eq!((input.read(&mut rest).unwrap(), &rest[..3]), (3, &b"bst"[..]));
        assert_eq!(input.line().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
