//! Waiting for somebody's short answer, for as long as anybody wants it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;

/// Longest reply that makes sense, in bytes.
const MAX_REPLY: u64 = 4096;

/// A process that does not outlive whoever waits for it.
pub(super) struct Ended(pub(super) Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It has ended already, or nobody wants its reply any more.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A text as the standard input of a process. It is in memory, so that a process that does not read holds
/// nobody up.
pub(super) fn in_memory(text: &[u8]) -> io::Result<Stdio> {
    let mut input = File::from(rustix::fs::memfd_create("question", MemfdFlags::CLOEXEC)?);
    input.write_all(text)?;
    io::Seek::rewind(&mut input)?;
    Ok(input.into())
}

/// Reads to the end, unless the caller goes or the time is over first.
pub(super) fn read_reply(
    mut from: File,
    caller: Option<BorrowedFd<'_>>,
    limit: Option<Duration>,
) -> io::Result<String> {
    let until = limit.and_then(|limit| Instant::now().checked_add(limit));
    let mut text = Vec::new();
    loop {
        wait_readable(&from, caller, until)?;
        let mut buffer = [0_u8; 512];
        let count = from.read(&mut buffer)?;
        text.extend_from_slice(buffer.get(..count).unwrap_or_default());
        if count == 0 {
            break;
        }
        if text.len() as u64 > MAX_REPLY {
            return Err(io::Error::other("the reply is too long"));
        }
    }
    String::from_utf8(text).map_err(|_| io::Error::other("the reply is no text"))
}

/// Waits until something can be read.
///
/// # Errors
/// The other end of `caller` was closed, or it is later than `until`.
pub(super) fn wait_readable(
    from: &File,
    caller: Option<BorrowedFd<'_>>,
    until: Option<Instant>,
) -> io::Result<()> {
    // Without a caller the same descriptor is watched twice, which does no harm.
    let other = caller.unwrap_or_else(|| from.as_fd());
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut fds = [PollFd::new(from, PollFlags::IN), PollFd::new(&other, PollFlags::empty())];
        match poll(&mut fds, left.as_ref()) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let [ours, theirs] = fds.map(|fd| fd.revents());
        if caller.is_some() && theirs.intersects(PollFlags::HUP | PollFlags::ERR) {
            return Err(io::Error::other("the caller is gone"));
        }
        if !ours.is_empty() {
            return Ok(());
        }
    }
}
