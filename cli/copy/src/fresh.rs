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
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    until_told(modified, now)
}

fn until_told(modified: i128, now: Duration) -> Duration {
    let until = u64::try_from(modified).map_or(Duration::ZERO, Duration::from_nanos);
    until.saturating_add(tick(modified)).saturating_sub(now)
}

fn tick(modified: i128) -> Duration {
    if modified.rem_euclid(1_000_000_000) == 0 { COARSE } else { TICK }
}

/// How long it is worth to wait for that: a tick at most. A time in the future comes too late for any wait.
fn worth_waiting(modified: i128, left: Duration) -> Duration {
    if left > tick(modified) { Duration::ZERO } else { left }
}

/// Whether the file of this line has the content that was sent, where the line tells.
pub(crate) fn is_as_sent(parent: BorrowedFd<'_>, line: &Line) -> Result<bool, Errno> {
    let Some(sum) = line.sum else { return Ok(true) };
    // Once its tick is over a change tells by the time again; that is no event. Files of one copy share the wait.
    let modified = line.identity.modified;
    std::thread::sleep(worth_waiting(modified, left(modified)));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_a_time_in_the_future() {
        let now = Duration::new(1_000, 5);
        let wait = |modified: i128| worth_waiting(modified, until_told(modified, now));
        assert_eq!(wait(1_000_000_000_005), TICK);
        assert_eq!(wait(1_000_000_000_000), COARSE - Duration::from_nanos(5), "whole seconds");
        assert_eq!(wait(1_001_000_000_001), Duration::ZERO, "a second ahead");
        assert_eq!(wait(2_000_000_000_000), Duration::ZERO);
        assert_eq!((wait(990_000_000_001), wait(-5)), (Duration::ZERO, Duration::ZERO), "long over");
        // Its time tells nothing all the same.
        assert!(until_told(2_000_000_000_000, now) > Duration::ZERO);
    }
}
