//! Whether there is room for a file, before its content is taken.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::fstatvfs;
use wire::filecopy::Code;

use super::{Trouble, no_room};
use crate::port::Port;
use crate::shown::Size;

/// Files smaller than this are counted against the last look.
const SMALL: u64 = 1 << 20;
/// With less than this left every file is worth a look.
const CLOSE: u64 = 64 << 20;

/// How often to look again.
const LOOK: Duration = Duration::from_secs(1);

/// How long to wait for room.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// What is to stay free besides the file.
    pub margin: u64,
    /// When to give up.
    pub limit: Duration,
}

/// What is known about the room in a file system.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// Bytes that were free at the last look, less what was announced since.
    left: u64,
}

impl Space {
    /// Fails with [`Code::FULL`] if a file of this length cannot fit.
    pub(super) fn check(&mut self, folder: &OwnedFd, name: &[u8], len: u64) -> Result<(), Trouble> {
        if len >= SMALL || self.left < len.saturating_add(CLOSE) {
            let Some(free) = free(folder)? else { return Ok(()) };
            self.left = free;
            if len > free {
                return Err(Trouble { code: Code::FULL, more: Some(no_room(name, len, free)) });
            }
        }
        self.left = self.left.saturating_sub(len.saturating_add(4096));
        Ok(())
    }
}

/// Waits until there is room for a file and the margin. Ends with the sender, and after a time.
pub(super) fn wait(
    folder: &OwnedFd,
    port: &mut dyn Port,
    name: &[u8],
    len: u64,
    how: &Patience,
) -> Result<(), Trouble> {
    let needed = len.saturating_add(how.margin);
    let began = Instant::now();
    let mut said = false;
    loop {
        let Some(free) = free(folder)? else { return Ok(()) };
        if free >= needed {
            return Ok(());
        }
        if began.elapsed() >= how.limit {
            return Err(Trouble { code: Code::FULL, more: Some(no_room(name, needed, free)) });
        }
        if !said {
            said = true;
            port.say(&format!("waiting for room: {} needed, {} free", Size(needed), Size(free)));
        }
        if port.is_alone(LOOK)? {
            return Err(Trouble { code: Code::BROKEN, more: None });
        }
    }
}

/// Bytes that are free to us; `None` where the file system has no such limit.
fn free(folder: &OwnedFd) -> Result<Option<u64>, Trouble> {
    let stat = fstatvfs(folder)?;
    Ok((stat.f_blocks != 0).then(|| stat.f_bavail.saturating_mul(stat.f_frsize)))
}
