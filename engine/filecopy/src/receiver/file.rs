//! One file that is being received, which has no name until it is complete.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, fchmod, fstat, ftruncate, futimens, linkat, openat,
    statat, unlinkat,
};
use rustix::io::{Errno, pwrite};
use wire::filecopy::Time;

/// Holes consist of whole blocks of this size.
const BLOCK: usize = 4096;
/// Shorter runs of zeros between other bytes are written: a hole costs another system call.
const SHORT: usize = 4 * BLOCK;

/// How a finished file gets its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// By its descriptor.
    Descriptor,
    /// By its entry in `/proc`, for older kernels and where the process has changed its credentials since.
    Proc,
    /// It has it from the beginning, because the file system has no unnamed files.
    InPlace,
}

/// A file that is not complete yet.
#[derive(Debug)]
pub(super) struct Incoming {
    fd: OwnedFd,
    mode: Mode,
    times: Timestamps,
    len: u64,
    /// Bytes that have arrived.
    at: u64,
    /// Where the file ends so far.
    end: u64,
    in_place: bool,
}

impl Incoming {
    /// Begins the file `name` in `parent`.
    pub(super) fn begin(
        naming: &mut Naming,
        parent: BorrowedFd<'_>,
        name: &[u8],
        mode: u32,
        len: u64,
        times: [Time; 2],
    ) -> Result<Self, Errno> {
        let mode = Mode::from_raw_mode(mode & 0o1777);
        let access = OFlags::WRONLY | OFlags::CLOEXEC;
        if *naming != Naming::InPlace {
            match openat(parent, c".", access | OFlags::TMPFILE, mode) {
                // Unnamed files are not possible here: kernels and file systems without them answer EISDIR or ENOENT.
                Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => *naming = Naming::InPlace,
                opened => return Ok(Self::new(opened?, mode, len, times, false)),
            }
        }
        let new = access | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        Ok(Self::new(openat(parent, name, new, Mode::empty())?, mode, len, times, true))
    }

    fn new(fd: OwnedFd, mode: Mode, len: u64, times: [Time; 2], in_place: bool) -> Self {
        Self { fd, mode, times: timestamps(times), len, at: 0, end: 0, in_place }
    }

    /// Writes content. Blocks of zeros become holes.
    pub(super) fn content(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let run = self.run(rest);
            let (data, behind) = rest.split_at_checked(run.data).unwrap_or((rest, &[]));
            self.write(data)?;
            let skipped = run.zeros.min(behind.len());
            self.at = self.at.saturating_add(skipped as u64);
            rest = behind.get(skipped..).unwrap_or_default();
        }
        Ok(())
    }

    /// How many bytes to write, and how many zeros after them to skip.
    fn run(&self, bytes: &[u8]) -> Run {
        let first = BLOCK.saturating_sub(usize::try_from(self.at % BLOCK as u64).unwrap_or(0));
        let (mut at, mut zeros_from) = (0_usize, None);
        let mut next = first;
        while at < bytes.len() {
            let end = next.min(bytes.len());
            let zero = bytes.get(at..end).is_some_and(is_zero);
            match (zero, zeros_from) {
                (true, None) => zeros_from = Some(at),
                (false, Some(from)) if at.saturating_sub(from) >= SHORT || from == 0 => {
                    return Run { data: from, zeros: at.saturating_sub(from) };
                }
                (false, Some(_)) => zeros_from = None,
                (true, Some(_)) | (false, None) => {}
            }
            (at, next) = (end, end.saturating_add(BLOCK));
        }
        let data = zeros_from.unwrap_or(bytes.len());
        Run { data, zeros: bytes.len().saturating_sub(data) }
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), Errno> {
        while !bytes.is_empty() {
            match pwrite(&self.fd, bytes, self.at) {
                Ok(0) => return Err(Errno::IO),
                Ok(len) => {
                    self.at = self.at.saturating_add(len as u64);
                    self.end = self.at;
                    bytes = bytes.get(len..).unwrap_or_default();
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Gives the file its length, its times and its name, so that it appears complete.
    pub(super) fn finish(
        &self,
        naming: &mut Naming,
        parent: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<(), Errno> {
        if self.end != self.len {
            ftruncate(&self.fd, self.len)?;
        }
        futimens(&self.fd, &self.times)?;
        if self.in_place {
            return fchmod(&self.fd, self.mode);
        }
        if *naming == Naming::Descriptor {
            match linkat(&self.fd, c"", parent, name, AtFlags::EMPTY_PATH) {
                Err(Errno::NOENT | Errno::PERM) => *naming = Naming::Proc,
                linked => return linked,
            }
        }
        let own = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        linkat(CWD, own, parent, name, AtFlags::SYMLINK_FOLLOW)
    }

    /// The descriptor of a finished file, for the caller to close.
    pub(super) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Removes the file's name if it has one already and the name still leads to this file.
    pub(super) fn give_up(self, parent: BorrowedFd<'_>, name: &[u8]) {
        if !self.in_place {
            return;
        }
        let (Ok(ours), Ok(there)) = (fstat(self.fd.as_fd()), statat(parent, name, AtFlags::SYMLINK_NOFOLLOW))
        else {
            return;
        };
        if (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino) {
            let _ = unlinkat(parent, name, AtFlags::empty());
        }
    }
}

struct Run {
    data: usize,
    zeros: usize,
}

fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    ZEROS.get(..bytes.len()).is_some_and(|zeros| zeros == bytes)
}

/// Access and modification times in the system's form.
pub(super) fn timestamps(times: [Time; 2]) -> Timestamps {
    let [last_access, last_modification] = times.map(|time| Timespec {
        // The time on the wire has no sign: a date before 1970 arrives as one near 2106, as it does at upstream's
        // receivers.
        tv_sec: i64::from(time.seconds),
        tv_nsec: i64::from(time.nanoseconds),
    });
    Timestamps { last_access, last_modification }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    const TIMES: [Time; 2] = [Time { seconds: 1, nanoseconds: 0 }; 2];

    fn receive(pieces: &[&[u8]], mut naming: Naming) -> fs::Metadata {
        let dir = tempfile::tempdir().unwrap();
        let parent = fs::File::open(dir.path()).unwrap();
        let whole = pieces.concat();
        let len = whole.len() as u64;
        let mut file = Incoming::begin(&mut naming, parent.as_fd(), b"f", 0o640, len, TIMES).unwrap();
        for piece in pieces {
            file.content(piece).unwrap();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), usize::from(naming == Naming::InPlace));
        file.finish(&mut naming, parent.as_fd(), b"f").unwrap();
        let path = dir.path().join("f");
        assert!(fs::read(&path).unwrap() == whole);
        fs::metadata(&path).unwrap()
    }

    #[test]
    fn a_file_appears_complete_by_each_way_of_naming() {
        for naming in [Naming::Descriptor, Naming::Proc, Naming::InPlace] {
            let stat = receive(&[b"hello ", b"world"], naming);
            assert_eq!((stat.mode() & 0o7777, stat.mtime()), (0o640 & !umask(), 1), "{naming:?}");
        }
    }

    /// Other tests of this process may have changed it.
    fn umask() -> u32 {
        let now = rustix::process::umask(Mode::empty());
        rustix::process::umask(now);
        now.as_raw_mode() & 0o640
    }

    #[test]
    fn zeros_become_holes() {
        let zeros = vec![0; 1 << 20];
        let stat = receive(&[b"a", &zeros, b"b", &zeros], Naming::Descriptor);
        assert!(stat.blocks() * 512 <= 32 << 10, "{} blocks", stat.blocks());
        assert_eq!(stat.len(), (2 << 20) + 2);
    }

    proptest! {
        #[test]
        fn any_content_arrives(
            runs in proptest::collection::vec((0usize..9000, prop_oneof![Just(0u8), any::<u8>()]), 0..12),
            cut in 1usize..20_000,
        ) {
            let whole: Vec<u8> = runs.iter().flat_map(|(len, byte)| vec![*byte; *len]).collect();
            let pieces: Vec<&[u8]> = whole.chunks(cut).collect();
            receive(&pieces, Naming::Descriptor);
        }
    }

    #[test]
    fn what_was_begun_in_place_is_removed_unless_somebody_replaced_it() {
        let dir = tempfile::tempdir().unwrap();
        let parent = fs::File::open(dir.path()).unwrap();
        let begin =
            || Incoming::begin(&mut Naming::InPlace.clone(), parent.as_fd(), b"f", 0o640, 1, TIMES).unwrap();
        begin().give_up(parent.as_fd(), b"f");
        assert!(!dir.path().join("f").exists());
        let file = begin();
        fs::write(dir.path().join("g"), "other").unwrap();
        fs::rename(dir.path().join("g"), dir.path().join("f")).unwrap();
        file.give_up(parent.as_fd(), b"f");
        assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"other");
    }
}
