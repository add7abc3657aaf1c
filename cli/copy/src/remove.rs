//! Removes what a record says was sent and confirmed, and nothing else: by the folder's descriptor, the inode, the size
//! and the time of the last change.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, statat, unlinkat};
use rustix::io::Errno;

use crate::fresh;
use crate::record::{Identity, Line, Reader, What};
use filecopy::beneath;
use filecopy::shown::{self, Name};

/// Most lines about what was kept; the rest is counted.
const MOST: usize = 100;

/// What was not removed.
#[derive(Debug, Default)]
pub struct Kept {
    /// A line for each.
    pub lines: Vec<String>,
    /// How many more.
    pub more: u64,
}

impl Kept {
    fn add(&mut self, path: &[u8], why: &str) {
        if self.lines.len() < MOST {
            self.lines.push(format!("{} stays: {why}", Name(path)));
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    /// Whether all that was sent is gone.
    pub const fn is_nothing(&self) -> bool {
        self.lines.is_empty() && self.more == 0
    }
}

/// Removes everything in the record.
///
/// # Errors
/// The record does not say that everything was confirmed; nothing was removed.
pub fn remove(mut reader: Reader) -> io::Result<Kept> {
    if reader.totals()?.is_none() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not everything was confirmed"));
    }
    let mut removal = Removal::default();
    while let Some(line) = reader.next_line()? {
        removal.line(&line);
    }
    Ok(removal.kept)
}

#[derive(Debug, Default)]
struct Removal {
    /// The folder that an argument was in.
    base: Option<OwnedFd>,
    base_path: Vec<u8>,
    /// Where in it we are.
    path: Vec<u8>,
    /// That folder, once it is needed.
    parent: Option<OwnedFd>,
    kept: Kept,
}

impl Removal {
    fn line(&mut self, line: &Line) {
        match line.what {
            What::From => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                self.base = openat(CWD, line.name.as_slice(), flags, Mode::empty()).ok();
                self.base_path.clone_from(&line.name);
                self.path.clear();
                self.parent = None;
            }
            What::File | What::Link => self.file(line),
            What::Enter => {
                if !self.path.is_empty() {
                    self.path.push(b'/');
                }
                self.path.extend_from_slice(&line.name);
                self.parent = None;
            }
            What::Leave => {
                let up = beneath::parent(&self.path).0.len();
                self.path.truncate(up);
                self.parent = None;
                self.folder(line);
            }
            What::Confirmed => {}
        }
    }

    fn file(&mut self, line: &Line) {
        let removed = self.parent().and_then(|parent| {
            let there = Identity::of(&statat(parent, line.name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?);
            if there != line.identity || !fresh::is_as_sent(parent, line)? {
                return Ok(false);
            }
            unlinkat(parent, line.name.as_slice(), AtFlags::empty()).map(|()| true)
        });
        match removed {
            Ok(true) => {}
            Ok(false) => self.keep(line, "it was changed after it was sent"),
            Err(Errno::NOENT) => {}
            Err(error) => self.keep(line, &shown::errno(error)),
        }
    }

    fn folder(&mut self, line: &Line) {
        let removed = self.parent().and_then(|parent| {
            let there = Identity::of(&statat(parent, line.name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?);
            if !there.is_same_inode(&line.identity) {
                return Ok(false);
            }
            unlinkat(parent, line.name.as_slice(), AtFlags::REMOVEDIR).map(|()| true)
        });
        match removed {
            Ok(true) => {}
            Ok(false) => self.keep(line, "it was replaced after it was sent"),
            Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => self.left_in(line),
            Err(error) => self.keep(line, &shown::errno(error)),
        }
    }

    /// Names what a folder still holds.
    fn left_in(&mut self, line: &Line) {
        let names = self.parent().and_then(|parent| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut dir = Dir::new(openat(parent, line.name.as_slice(), flags, Mode::empty())?)?;
            let mut names = Vec::new();
            while let Some(Ok(entry)) = dir.read() {
                let name = entry.file_name().to_bytes();
                if !matches!(name, b"." | b"..") && names.len() < MOST {
                    names.push(name.to_vec());
                }
            }
            Ok(names)
        });
        let folder = self.full(&line.name);
        for name in names.unwrap_or_default() {
            let path = [&folder[..], b"/", &name].concat();
            // Folders that hold something have been named with it.
            let known = self
                .kept
                .lines
                .iter()
                .any(|line| line.starts_with(Name(&path).to_string().trim_end_matches('"')));
            if !known {
                self.kept.add(&path, "it was not sent");
            }
        }
    }

    fn keep(&mut self, line: &Line, why: &str) {
        let path = self.full(&line.name);
        self.kept.add(&path, why);
    }

    fn full(&self, name: &[u8]) -> Vec<u8> {
        let parts = [&self.base_path[..], &self.path, name];
        let parts: Vec<&[u8]> = parts.into_iter().filter(|part| !part.is_empty() && *part != b".").collect();
        parts.join(&b'/')
    }

    fn parent(&mut self) -> Result<BorrowedFd<'_>, Errno> {
        if self.parent.is_none() {
            let base = self.base.as_ref().ok_or(Errno::NOENT)?;
            self.parent = Some(beneath::open(base.as_fd(), &self.path, OFlags::PATH)?);
        }
        self.parent.as_ref().map(|fd| fd.as_fd()).ok_or(Errno::NOENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Totals, Writer};
    use rustix::fs::stat;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;

    /// A folder `t` with two files and a record that says that all of it was sent, with sums or without.
    fn sent(confirmed: bool, sum: Option<u32>) -> (tempfile::TempDir, Reader) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("t")).unwrap();
        for name in ["t/a", "t/b"] {
            fs::write(dir.path().join(name), "abc").unwrap();
        }
        let mut writer = Writer::new().unwrap();
        let identity = |name: &str| Identity::of(&stat(dir.path().join(name)).unwrap());
        let base = dir.path().as_os_str().as_bytes().to_vec();
        writer.line(What::From, &Identity::default(), None, &base).unwrap();
        writer.line(What::Enter, &identity("t"), None, b"t").unwrap();
        for name in ["a", "b"] {
            writer.line(What::File, &identity(&format!("t/{name}")), sum, name.as_bytes()).unwrap();
        }
        writer.line(What::Leave, &identity("t"), None, b"t").unwrap();
        if confirmed {
            writer.confirm(&Totals::default()).unwrap();
        }
        (dir, writer.into_reader().unwrap())
    }

    #[test]
    fn where_the_time_tells_nothing_the_content_does() {
        for (content, stays) in [("abc", false), ("abd", true)] {
            let (dir, record) = sent(true, Some(0x3524_41c2)); // CRC-32 of "abc"
            let path = dir.path().join("t/a");
            // Overwritten within the tick of the clock that its time is of.
            let time = fs::metadata(&path).unwrap().modified().unwrap();
            fs::write(&path, content).unwrap();
            let times = fs::FileTimes::new().set_modified(time);
            fs::File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
            let kept = remove(record).unwrap();
            assert_eq!((path.exists(), kept.is_nothing()), (stays, !stays), "{kept:?}");
        }
    }

    #[test]
    fn what_was_sent_and_confirmed_is_removed() {
        let (dir, record) = sent(true, None);
        assert!(remove(record).unwrap().is_nothing());
        assert!(!dir.path().join("t").exists());
    }

    #[test]
    fn without_the_confirmation_nothing_is_removed() {
        let (dir, record) = sent(false, None);
        assert!(remove(record).is_err());
        assert!(dir.path().join("t/a").exists() && dir.path().join("t/b").exists());
    }

    #[test]
    fn what_was_changed_replaced_or_added_stays_and_is_named() {
        let (dir, record) = sent(true, None);
        let at = |name: &str| dir.path().join(name);
        fs::write(at("t/a"), "abcd").unwrap();
        fs::write(at("t/new"), "").unwrap();
        let said = remove(record).unwrap().lines.join("\n");
        assert!(at("t/a").exists() && at("t/new").exists() && !at("t/b").exists());
        assert!(
            said.contains("t/a\" stays: it was changed") && said.contains("t/new\" stays: it was not sent"),
            "{said}"
        );

        let (dir, record) = sent(true, None);
        let at = |name: &str| dir.path().join(name);
        // The same bytes and time, but another file.
        let times = fs::FileTimes::new().set_modified(fs::metadata(at("t/a")).unwrap().modified().unwrap());
        fs::write(at("other"), "abc").unwrap();
        fs::File::options().write(true).open(at("other")).unwrap().set_times(times).unwrap();
        fs::rename(at("other"), at("t/a")).unwrap();
        assert_eq!(remove(record).unwrap().lines.len(), 1);
        assert!(at("t/a").exists());
    }

    #[test]
    fn a_folder_that_became_a_link_leads_nowhere() {
        let (dir, record) = sent(true, None);
        let at = |name: &str| dir.path().join(name);
        fs::rename(at("t"), at("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", at("t")).unwrap();
        assert!(!remove(record).unwrap().is_nothing());
        assert!(at("elsewhere/a").exists() && at("elsewhere/b").exists());
    }
}
