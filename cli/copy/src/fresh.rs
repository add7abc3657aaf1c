//! Files that were changed just before they were sent: one more change within the same tick of the clock leaves their time
//! as it was. So of them the content itself is compared.

use std::os::fd::BorrowedFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use filecopy::sum::Sum;
use rustix::fs::{Mode, OFlags, Stat, openat};
use rustix::io::{Errno, read};
use wire::filecopy::Checksum;

use crate::record::{Identity, Line};

/// No kernel's clock for times of files stands still for longer.
const TICK: Duration = Duration::from_millis(20);
/// Some file systems have whole seconds, or every other.
const COARSE: Duration = Duration::from_secs(2);

/// Whether a file may be changed from now on without its time telling.
pub(crate) fn is_fresh(stat: &Stat) -> bool {
    left(Identity::of(stat).modified) > Duration::ZERO
}

/// How long until a change is sure to give another time.
fn left(modified: i128) -> Duration {
    let tick = if modified.rem_euclid(1_000_000_000) == 0 { COARSE } else { TICK };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let until = u64::try_from(modified).map_or(Duration::ZERO, Duration::from_nanos).saturating_add(tick);
    until.saturating_sub(now)
}

/// Whether the file of this line has the content that was sent, where the line tells.
pub(crate) fn is_as_sent(parent: BorrowedFd<'_>, line: &Line) -> Result<bool, Errno> {
    let Some(sum) = line.sum else { return Ok(true) };
    // Once its tick is over a change tells by the time again. A time in the future never does: then the look is all.
    std::thread::sleep(left(line.identity.modified).min(COARSE));
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
    let fd = openat(parent, line.name.as_slice(), flags, Mode::empty())?;
    let mut now = Sum::default();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match read(&fd, &mut buffer[..]) {
            Ok(0) => break,
            Ok(len) => now.update(buffer.get(..len).unwrap_or_default()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    let after = Identity::of(&rustix::fs::fstat(&fd)?);
    Ok(now.value() == sum && after == line.identity)
}
