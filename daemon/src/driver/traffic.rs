//! What the processes of services in dom0 moved: each says it once, at its end, for the line about its call.
//!
//! One pipe for all of them, so that a call needs no descriptor more. A word is written in one piece, and before its
//! process ends; one that finds the pipe full, or never comes because the process was killed, is only missing in the log.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use daemon_core::{CallId, Moved};
use rustix::pipe::{PipeFlags, pipe_with};

/// A call's number and two counts.
const WORD: usize = 24;

/// The daemon's end, and the one that the processes inherit.
#[derive(Debug)]
pub(super) struct Traffic {
    reader: OwnedFd,
    writer: OwnedFd,
    heard: BTreeMap<CallId, Moved>,
}

impl Traffic {
    pub(super) fn new() -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self { reader, writer, heard: BTreeMap::new() })
    }

    /// Where a service's process says it, with [`tell`].
    pub(super) fn writer(&self) -> BorrowedFd<'_> {
        self.writer.as_fd()
    }

    /// What the process of this call has said. To be asked when it has ended.
    pub(super) fn take(&mut self, id: CallId) -> Option<Moved> {
        let mut words = [0; 64 * WORD];
        while let Ok(length @ 1..) = rustix::io::retry_on_intr(|| rustix::io::read(&self.reader, &mut words))
        {
            let read = words.get(..length).unwrap_or_default();
            self.heard.extend(read.chunks_exact(WORD).filter_map(parse));
        }
        self.heard.remove(&id)
    }
}

/// Says what a call moved, from its process.
pub(super) fn tell(writer: BorrowedFd<'_>, id: CallId, moved: Moved) {
    let word = [id.0, moved.bytes_in, moved.bytes_out].map(u64::to_ne_bytes);
    // A full pipe costs the log two numbers.
    let _ = rustix::io::write(writer, word.as_flattened());
}

fn parse(word: &[u8]) -> Option<(CallId, Moved)> {
    let (numbers, _) = word.as_chunks::<8>();
    let [id, bytes_in, bytes_out] = <[[u8; 8]; 3]>::try_from(numbers).ok()?.map(u64::from_ne_bytes);
    Some((CallId(id), Moved { bytes_in, bytes_out }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_has_its_own_numbers_and_a_full_pipe_harms_nobody() {
        let mut traffic = Traffic::new().unwrap();
        let moved = |n| Moved { bytes_in: n, bytes_out: n * 2 };
        for n in 0..10_000 {
            tell(traffic.writer(), CallId(n), moved(n));
        }
        assert_eq!(traffic.take(CallId(1)), Some(moved(1)));
        assert_eq!(traffic.take(CallId(1)), None);
        assert_eq!(traffic.take(CallId(9_999)), None);
        tell(traffic.writer(), CallId(9_999), moved(7));
        assert_eq!(traffic.take(CallId(9_999)), Some(moved(7)));
        assert_eq!(traffic.take(CallId(0)), Some(moved(0)));
    }
}
