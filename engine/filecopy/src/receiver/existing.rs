//! What happens to names that exist already: a rule of the receiving qube, which no sender chooses.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::SystemTime;

use engine::exec::Existing;
use rustix::fs::{AtFlags, Mode, OFlags, Stat, fstat, mkdirat, openat, statat, unlinkat};
use rustix::io::{Errno, pread};
use wire::filecopy::Time;

/// How many numbers are tried for one entry whose name is taken.
const TRIES: u32 = 1_000;
/// How many names' last numbers are remembered, so that for a name that is sent again and again the numbers are not
/// all tried anew each time.
const COUNTED: usize = 256;
/// How many tries of numbers may fail in one copy: so many, and a few more for each entry. Only a sender that chooses
/// its names for this purpose needs more.
const BUDGET: u32 = 20_000;
const FOR_EACH: u32 = 16;
/// Folders of the first level whose new names are remembered: a sender returns to some of them, but their number is
/// limited.
const REMEMBERED: usize = 1024;

/// Decides under which names things are made.
#[derive(Debug)]
pub(super) struct Names {
    rule: Existing,
    /// Folders of the first level that this stream has made: the sender's name, and the name that was chosen here.
    folders: VecDeque<(Vec<u8>, Vec<u8>)>,
    numbers: Numbers,
    /// The path of the current entry.
    path: Vec<u8>,
}

impl Names {
    pub(super) const fn new(rule: Existing) -> Self {
        Self { rule, folders: VecDeque::new(), numbers: Numbers::new(), path: Vec::new() }
    }

    /// Finds the path for a new entry. Returns whether it differs from the sender's.
    pub(super) fn place(&mut self, root: BorrowedFd<'_>, name: &[u8], folder: bool) -> Result<bool, Errno> {
        if self.rule != Existing::Rename {
            return Ok(false);
        }
        let top = name.split(|byte| *byte == b'/').next().unwrap_or_default();
        let rest = name.get(top.len()..).unwrap_or_default();
        let known = self.folders.iter().find(|(theirs, _)| theirs == top).map(|(_, ours)| ours.clone());
        let is_top = rest.is_empty();
        let (ours, renamed) = match known.filter(|_| !is_top || folder) {
            Some(ours) => (ours, false),
            None if is_top => {
                let ours = self.numbers.free_name(root, top, folder)?;
                if folder {
                    if self.folders.len() >= REMEMBERED {
                        self.folders.pop_front();
                    }
                    self.folders.push_back((top.to_vec(), ours.clone()));
                }
                let renamed = ours != top;
                (ours, renamed)
            }
            // Its folder never came, or too many came after it.
            None => (top.to_vec(), false),
        };
        self.path.clear();
        self.path.extend_from_slice(&ours);
        self.path.extend_from_slice(rest);
        Ok(renamed)
    }

    /// The path of the current entry, which the sender calls `name`.
    pub(super) fn path<'a>(&'a self, name: &'a [u8]) -> &'a [u8] {
        if self.rule == Existing::Rename { &self.path } else { name }
    }
}

/// From which number to continue, by the form of the name.
#[derive(Debug)]
struct Numbers {
    last: VecDeque<(Vec<u8>, u32)>,
    left: u32,
}

impl Numbers {
    const fn new() -> Self {
        Self { last: VecDeque::new(), left: BUDGET }
    }

    /// `name`, or `name (2)` and so on: a file's extension stays at its end.
    fn free_name(&mut self, root: BorrowedFd<'_>, name: &[u8], folder: bool) -> Result<Vec<u8>, Errno> {
        if is_free(root, name)? {
            return Ok(name.to_vec());
        }
        self.left = self.left.saturating_add(FOR_EACH);
        let dot = name.iter().rposition(|byte| *byte == b'.').filter(|dot| *dot > 0 && !folder);
        let (stem, extension) = name.split_at_checked(dot.unwrap_or(name.len())).unwrap_or((name, b""));
        // A folder and a file with the same name get their numbers in different places.
        let form = [stem, b"/", extension].concat();
        let known = self.last.iter().position(|(known, _)| *known == form);
        let first = known.and_then(|at| self.last.remove(at)).map_or(2, |(_, number)| number);
        for number in (first..u32::MAX).take(TRIES as usize) {
            let tried = [stem, format!(" ({number})").as_bytes(), extension].concat();
            if is_free(root, &tried)? {
                if self.last.len() >= COUNTED {
                    self.last.pop_front();
                }
                self.last.push_back((form, number.saturating_add(1)));
                return Ok(tried);
            }
            self.left = self.left.checked_sub(1).ok_or(Errno::EXIST)?;
        }
        Err(Errno::EXIST)
    }
}

fn is_free(root: BorrowedFd<'_>, name: &[u8]) -> Result<bool, Errno> {
    match statat(root, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(true),
        Err(error) => Err(error),
        Ok(_) => Ok(false),
    }
}

/// A separate folder for one copy, named by the time. It is removed again if nothing is put into it.
#[derive(Debug)]
pub(super) struct Fresh {
    root: OwnedFd,
    name: Vec<u8>,
}

impl Fresh {
    /// Makes the folder, opened for reading as the root is.
    pub(super) fn make(root: OwnedFd) -> Result<(OwnedFd, Self), Errno> {
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let name = Numbers::new().free_name(root.as_fd(), now.replace(':', "-").as_bytes(), true)?;
        mkdirat(&root, name.as_slice(), Mode::from_raw_mode(0o700))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = openat(&root, name.as_slice(), flags, Mode::empty())?;
        Ok((folder, Self { root, name }))
    }

    /// Removes it if it is empty.
    pub(super) fn end(self) {
        let _ = unlinkat(&self.root, self.name.as_slice(), AtFlags::REMOVEDIR);
    }
}

/// A file that exists already and seems to be the one that is being sent: the bytes that come are compared with it.
#[derive(Debug)]
pub(super) struct Same {
    fd: OwnedFd,
    at: u64,
}

impl Same {
    /// Whether there is a file of this length and time.
    pub(super) fn find(parent: BorrowedFd<'_>, name: &[u8], len: u64, modified: Time) -> Option<Self> {
        // `NONBLOCK`: a FIFO in its place must not make this process wait.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = openat(parent, name, flags, Mode::empty()).ok()?;
        let stat = fstat(&fd).ok()?;
        is_same(&stat, len, modified).then_some(Self { fd, at: 0 })
    }

    /// Compares the next bytes with the file's.
    pub(super) fn content(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let mut there = vec![0; bytes.len()];
        let mut have = 0;
        while let Some(room) = there.get_mut(have..).filter(|room| !room.is_empty()) {
            match pread(&self.fd, room, self.at) {
                Ok(0) => return Err(Errno::EXIST),
                Ok(len) => {
                    have = have.saturating_add(len);
                    self.at = self.at.saturating_add(len as u64);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        if there == bytes { Ok(()) } else { Err(Errno::EXIST) }
    }

    /// Whether the name still leads to that file at the end.
    pub(super) fn finish(&self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        let (ours, there) = (fstat(&self.fd)?, statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?);
        let same = (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino);
        if same { Ok(()) } else { Err(Errno::EXIST) }
    }
}

fn is_same(stat: &Stat, len: u64, modified: Time) -> bool {
    use rustix::fs::FileType;
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && u64::try_from(stat.st_size) == Ok(len)
        && stat.st_mtime == i64::from(modified.seconds)
        && i64::try_from(stat.st_mtime_nsec) == Ok(i64::from(modified.nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn taken_names_get_a_number_and_folders_keep_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::File::open(dir.path()).unwrap();
        for name in ["a.txt", "a (2).txt", ".x", "d.d"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let mut names = Names::new(Existing::Rename);
        let mut place = |name: &str, folder| {
            let renamed = names.place(root.as_fd(), name.as_bytes(), folder).unwrap();
            (String::from_utf8(names.path(b"").to_vec()).unwrap(), renamed)
        };
        assert_eq!(place("a.txt", false), ("a (3).txt".into(), true));
        assert_eq!(place(".x", false), (".x (2)".into(), true));
        assert_eq!(place("new", false), ("new".into(), false));
        assert_eq!(place("d.d", true), ("d.d (2)".into(), true));
        fs::create_dir(dir.path().join("d.d (2)")).unwrap();
        assert_eq!(place("d.d/f", false), ("d.d (2)/f".into(), false));
        assert_eq!(place("d.d", true), ("d.d (2)".into(), false));
        // A file with the name of an earlier folder counts as another entry with that name.
        assert_eq!(place("d.d", false), ("d (2).d".into(), true));
        for number in 0..3 * REMEMBERED {
            place(&number.to_string(), true);
        }
        assert!(names.folders.len() <= REMEMBERED);
    }

    /// A sender chooses names so that many numbers have to be tried for each entry.
    #[test]
    fn looking_for_free_numbers_has_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::File::open(dir.path()).unwrap();
        let make = |name: &[u8]| fs::write(dir.path().join(std::str::from_utf8(name).unwrap()), "").unwrap();
        make(b"f");
        let mut numbers = Numbers::new();
        for _ in 0..200 {
            make(&numbers.free_name(root.as_fd(), b"f", false).unwrap());
        }
        assert_eq!(numbers.left, BUDGET + 200 * FOR_EACH, "none in vain: it counts on");
        // Names that are no longer remembered.
        for name in 0..COUNTED {
            make(name.to_string().as_bytes());
            numbers.free_name(root.as_fd(), name.to_string().as_bytes(), false).unwrap();
        }
        let mut tried = 0;
        while numbers.free_name(root.as_fd(), b"f", false).is_ok() {
            tried += 1;
            numbers.last.clear();
        }
        assert!(tried < BUDGET / 100, "{tried} times 200 tries");
    }

    #[test]
    fn a_folder_for_one_copy_goes_if_nothing_came() {
        let dir = tempfile::tempdir().unwrap();
        let root = || OwnedFd::from(fs::File::open(dir.path()).unwrap());
        let (_, fresh) = Fresh::make(root()).unwrap();
        let (other, second) = Fresh::make(root()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        mkdirat(&other, c"x", Mode::from_raw_mode(0o700)).unwrap();
        fresh.end();
        second.end();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
