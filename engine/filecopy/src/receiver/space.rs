//! Whether there is room for a file, before its content is received.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::fstatvfs;
use wire::filecopy::Code;

use super::{Trouble, no_room};
use crate::port::Port;
use crate::shown::Size;

/// Files smaller than this are subtracted from the last result, and the file system is not asked for each.
const SMALL: u64 = 1 << 20;
/// With less free space than this, the file system is asked for every file.
const CLOSE: u64 = 64 << 20;

/// How often to ask again while waiting.
const LOOK: Duration = Duration::from_secs(1);

/// How long to wait for room.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How much is to remain free besides the file.
    pub margin: u64,
    /// How long to wait.
    pub limit: Duration,
}

/// What is known about the free space of a file system.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// Free bytes when the file system was last asked, less what was announced since.
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

/// Waits until there is room for a file and the margin. Gives up when the sender is gone, or after a time.
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

/// Bytes that this user may fill; `None` if the file system has no such limit.
fn free(folder: &OwnedFd) -> Result<Option<u64>, Trouble> {
    let stat = fstatvfs(folder)?;
    Ok((stat.f_blocks != 0).then(|| stat.f_bavail.saturating_mul(stat.f_frsize)))
}
