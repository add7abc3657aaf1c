//! The content of one file: exactly as many bytes as were announced, holes without reading them.

use std::os::fd::OwnedFd;

use rustix::fs::{SeekFrom, Stat, seek};
use rustix::io::{Errno, pread};
use wire::filecopy::Checksum;

use super::{CannotSend, End, Sending, failed, misused};

/// Files of fewer bytes are read whole, holes and all.
const SPARSE: u64 = 256 << 10;

/// Sends the content; whether the file has more than was announced.
pub(super) fn send(to: &mut Sending<'_>, path: &[u8], fd: &OwnedFd, stat: &Stat) -> Result<bool, End> {
    let len = u64::try_from(stat.st_size).unwrap_or(0);
    if len == 0 {
        // Some file systems do not know the size before they are asked for the content.
        return Ok(matches!(pread(fd, &mut [0; 1][..], 0), Ok(read) if read > 0));
    }
    let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
    let sparse = len >= SPARSE && blocks.saturating_mul(512) < len;
    let mut at = 0;
    let mut data_until = if sparse { 0 } else { len };
    while at < len {
        if at == data_until {
            let hole = hole(fd, at, len);
            let now = rustix::fs::fstat(fd).map_err(|error| failed(path, error))?.st_size;
            if u64::try_from(now).unwrap_or(0) < len {
                return Err(End::Failed(CannotSend::Shorter(path.to_vec())));
            }
            zeros(to, hole.saturating_sub(at));
            to.outlet.put_zeros(hole.saturating_sub(at))?;
            count(to, path, hole.saturating_sub(at))?;
            at = hole;
            data_until = data_end(fd, at, len);
            continue;
        }
        let left = data_until.saturating_sub(at);
        let room = to.outlet.room()?;
        let wanted = room.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        // One byte more than is left, where there is room for it, tells a file that has grown from one that has not.
        let asked = if at.saturating_add(wanted as u64) == len {
            wanted.saturating_add(1).min(room.len())
        } else {
            wanted
        };
        let read = match pread(fd, room.get_mut(..asked).unwrap_or_default(), at) {
            Ok(0) => return Err(End::Failed(CannotSend::Shorter(path.to_vec()))),
            Ok(read) => read,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(failed(path, error)),
        };
        if let Some(sum) = &mut to.content {
            sum.update(room.get(..read.min(wanted)).unwrap_or_default());
        }
        to.outlet.filled(read.min(wanted));
        at = at.saturating_add(read.min(wanted) as u64);
        count(to, path, read.min(wanted) as u64)?;
        if read > wanted {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Takes a hole into the file's own sum, where that is needed.
fn zeros(to: &mut Sending<'_>, mut count: u64) {
    let Some(sum) = &mut to.content else { return };
    while count > 0 {
        let now = count.min(4096);
        sum.update([0; 4096].get(..usize::try_from(now).unwrap_or(0)).unwrap_or_default());
        count = count.saturating_sub(now);
    }
}

fn count(to: &mut Sending<'_>, path: &[u8], bytes: u64) -> Result<(), End> {
    to.machine.handle_body(bytes).map_err(|error| misused(path, error))?;
    if to.progress.sent(bytes) { Ok(()) } else { Err(End::Cancelled) }
}

/// Where the next data begins. A hint of what needs no reading: file systems that cannot tell say that all is data.
fn hole(fd: &OwnedFd, at: u64, len: u64) -> u64 {
    match seek(fd, SeekFrom::Data(at)) {
        Ok(data) => data.clamp(at, len),
        // No data behind this place.
        Err(Errno::NXIO) => len,
        Err(_) => at,
    }
}

/// Where that data ends.
fn data_end(fd: &OwnedFd, at: u64, len: u64) -> u64 {
    seek(fd, SeekFrom::Hole(at)).ok().filter(|end| *end > at).map_or(len, |end| end.min(len))
}
