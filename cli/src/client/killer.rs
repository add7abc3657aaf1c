//! Who kills the qube when its call has ended: a process of its own, since the one that has moved a stranger's bytes can
//! connect to nobody any more.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use engine::localfd::take_stdin_stdout;
use engine::process::fork_keeping;
use engine::say;
use rustix::io::{read, retry_on_intr, write};
use rustix::pipe::{PipeFlags, pipe_with};
use wire::names::Target;

use super::PROGRAM;
use crate::qubesd;

/// It waits, and ends without a deed if this process does without a word.
pub(super) struct Killer {
    word: OwnedFd,
    done: OwnedFd,
}

impl Killer {
    pub(super) fn begin(qube: &Target) -> io::Result<Self> {
        let (hears, word) = pipe_with(PipeFlags::CLOEXEC)?;
        let (done, tells) = pipe_with(PipeFlags::CLOEXEC)?;
        fork_keeping(&[hears.as_fd(), tells.as_fd()], || {
            // Whoever is at the other ends must see it when the call has closed them.
            let streams = take_stdin_stdout().map(drop);
            let told = retry_on_intr(|| read(&hears, &mut [0_u8; 1])) == Ok(1);
            drop(streams);
            if told { kill(qube) } else { 0 }
        })?;
        Ok(Self { word, done })
    }

    /// Has the qube killed, and waits for that.
    pub(super) fn kill(self) {
        let _ = write(&self.word, b"!");
        let _ = retry_on_intr(|| read(&self.done, &mut [0_u8; 1]));
    }
}

fn kill(qube: &Target) -> i32 {
    match qubesd::call(qubesd::Socket::Admin, "admin.vm.Kill", qube, b"") {
        Ok(_) => 0,
        Err(error) => {
            say::error(format_args!("{PROGRAM}: cannot kill {qube}: {error}"));
            1
        }
    }
}
