//! Waiting for somebody's short answer, for as long as anybody wants it.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use engine::process::{Child, Program, spawn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::pipe::PipeFlags;
use rustix::process::Signal;

/// Longest reply that makes sense, in bytes.
const MAX_REPLY: u64 = 4096;

/// A process that does not outlive whoever waits for it.
pub(super) struct Ended(Child);

impl Ended {
    /// Starts `words`, the first of which is its name, from `file`, with `input` to read; what can be read then is what
    /// it says. Not by the standard library, by which it would have the signals blocked that we take as events: whoever
    /// wants to end a dialog or a client must be able to.
    pub(super) fn start(file: &Path, words: &[OsString], input: Option<&[u8]>) -> io::Result<(Self, File)> {
        let stdin = match input {
            Some(text) => memory(text)?,
            None => File::open("/dev/null")?,
        };
        let (output, stdout) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::from);
        let entry = |(name, value): (OsString, OsString)| {
            CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok()
        };
        let child = spawn(&Program {
            file: &text(file.as_os_str())?,
            args: &words.iter().map(|word| text(word)).collect::<io::Result<Vec<_>>>()?,
            env: &std::env::vars_os().filter_map(entry).collect::<Vec<_>>(),
            streams: [stdin.as_fd(), stdout.as_fd(), rustix::stdio::stderr()],
        })?;
        Ok((Self(child), output.into()))
    }

    /// Its exit status, or 128 and the signal that ended it.
    pub(super) fn status(&mut self) -> io::Result<i32> {
        self.0.wait()
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        // It has ended already, or nobody wants its reply any more.
        let _ = self.0.signal(Signal::KILL);
        let _ = self.0.wait();
    }
}

/// A text as the standard input of a process. It is in memory, so that a process that does not read holds
/// nobody up.
pub(super) fn in_memory(text: &[u8]) -> io::Result<Stdio> {
    memory(text).map(Stdio::from)
}

fn memory(text: &[u8]) -> io::Result<File> {
    let mut input = File::from(rustix::fs::memfd_create("question", MemfdFlags::CLOEXEC)?);
    input.write_all(text)?;
    io::Seek::rewind(&mut input)?;
    Ok(input)
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

#[cfg(test)]
mod tests {
    use engine::process::Signals;

    use super::*;

    #[test]
    fn a_child_gets_its_input_and_no_blocked_signals() {
        let _signals = Signals::block(&[Signal::TERM, Signal::INT]).unwrap();
        let script = "cat; set -- $(grep SigBlk /proc/self/status); printf %s $2; exit 3";
        let words = ["sh", "-c", script].map(OsString::from);
        let (mut child, said) = Ended::start(Path::new("/bin/sh"), &words, Some(b"text ")).unwrap();
        assert_eq!(read_reply(said, None, None).unwrap(), "text 0000000000000000");
        assert_eq!(child.status().unwrap(), 3);
        assert!(Ended::start(Path::new("/none"), &words, None).is_err());
    }
}
