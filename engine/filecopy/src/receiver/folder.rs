//! The folder into which a stream is received.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use engine::exec::Existing;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, fchmod, futimens, mkdirat, readlinkat, statat, symlinkat, syncfs,
};
use rustix::io::Errno;
use wire::filecopy::Time;

use super::batch::{Batch, Failed};
use super::existing::Same;
use super::file::{Incoming, Naming, timestamps};
use super::space::{self, Patience, Space};
use super::{Settings, Trouble};
use crate::beneath;
use crate::port::Port;

/// Makes entries below one folder.
#[derive(Debug)]
pub(super) struct Folder {
    root: OwnedFd,
    /// The folder that was used last, and its path; kept until [`Folder::forget`].
    parent: Option<OwnedFd>,
    parent_path: Vec<u8>,
    /// The path of the innermost folder whose second header may come; the folders above it are prefixes of this path.
    open: Vec<u8>,
    /// Where in `open` the paths of folders with a first header end.
    ends: Vec<usize>,
    file: Option<Incoming>,
    /// Instead of a new file: one that exists, with which the content is compared.
    same: Option<Same>,
    skips_same: bool,
    naming: Naming,
    space: Space,
}

impl Folder {
    pub(super) fn new(root: OwnedFd, settings: &Settings) -> Self {
        let naming = if settings.in_place { Naming::InPlace } else { Naming::Descriptor };
        Self {
            root,
            parent: None,
            parent_path: Vec::new(),
            open: Vec::new(),
            ends: Vec::new(),
            file: None,
            same: None,
            skips_same: settings.existing == Existing::SkipSame,
            naming,
            space: Space::default(),
        }
    }

    /// The folder in which everything is made.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Has the parent of the next entry looked up anew.
    pub(super) fn forget(&mut self) {
        self.parent = None;
    }

    /// Fails if there is no room for a file of this length, or waits for it.
    pub(super) fn make_room(
        &mut self,
        name: &[u8],
        len: u64,
        wait: Option<&Patience>,
        port: &mut dyn Port,
    ) -> Result<(), Trouble> {
        if let Some(how) = wait {
            return space::wait(&self.root, port, name, len, how);
        }
        self.space.check(&self.root, name, len)
    }

    /// Begins a file.
    pub(super) fn begin(
        &mut self,
        name: &[u8],
        mode: u32,
        len: u64,
        times: [Time; 2],
    ) -> Result<bool, Trouble> {
        let mut naming = self.naming;
        let skips_same = self.skips_same;
        let (parent, base) = self.parent(name)?;
        if skips_same && let Some(same) = Same::find(parent, base, len, times[1]) {
            self.same = Some(same);
            return Ok(false);
        }
        let file = Incoming::begin(&mut naming, parent, base, mode, len, times)?;
        (self.file, self.naming) = (Some(file), naming);
        Ok(false)
    }

    /// Makes the files of one folder, each complete; `path` is that of one of them.
    pub(super) fn make(&mut self, path: &[u8], batch: &mut Batch, buffer: &[u8]) -> Result<(), Failed> {
        let mut naming = self.naming;
        let (parent, _) = match self.parent(path) {
            Ok(parent) => parent,
            Err(errno) => return Err(batch.drop_all(errno)),
        };
        let made = batch.make(&mut naming, parent, buffer);
        self.naming = naming;
        made
    }

    /// Writes content of the current file.
    pub(super) fn content(&mut self, bytes: &[u8]) -> Result<bool, Trouble> {
        if let Some(file) = &mut self.file {
            file.content(bytes)?;
        }
        if let Some(same) = &mut self.same {
            same.content(bytes)?;
        }
        Ok(false)
    }

    /// Completes the current file, which then has its name.
    pub(super) fn finish(&mut self, name: &[u8]) -> Result<bool, Trouble> {
        if let Some(same) = self.same.take() {
            let (parent, base) = self.parent(name)?;
            same.finish(parent, base)?;
            return Ok(true);
        }
        let Some(file) = self.file.take() else { return Ok(false) };
        let mut naming = self.naming;
        let parent = self.parent(name);
        let done = parent.and_then(|(parent, base)| file.finish(&mut naming, parent, base));
        if let Err(errno) = done {
            // Kept so that `give_up` can remove it.
            self.file = Some(file);
            return Err(errno.into());
        }
        self.naming = naming;
        Ok(true)
    }

    /// Removes the unfinished file `name`.
    pub(super) fn give_up(&mut self, name: &[u8]) {
        let Some(file) = self.file.take() else { return };
        if let Ok((parent, base)) = self.parent(name) {
            file.give_up(parent, base);
        }
    }

    /// Makes a folder, or at its second header sets its mode and times.
    pub(super) fn folder(&mut self, name: &[u8], mode: u32, times: [Time; 2]) -> Result<bool, Trouble> {
        if self.is_second(name) {
            self.ends.pop();
            let folder = beneath::open(self.root.as_fd(), name, OFlags::RDONLY)?;
            fchmod(&folder, Mode::from_raw_mode(mode & 0o1777))?;
            futimens(&folder, &timestamps(times))?;
            return Ok(false);
        }
        let (parent, base) = self.parent(name)?;
        match mkdirat(parent, base, Mode::from_raw_mode(0o700)) {
            Err(Errno::EXIST) => {
                let there = statat(parent, base, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(there.st_mode) != FileType::Directory {
                    return Err(Errno::NOTDIR.into());
                }
            }
            made => made?,
        }
        self.open.clear();
        self.open.extend_from_slice(name);
        self.ends.push(name.len());
        Ok(false)
    }

    /// Makes a link.
    pub(super) fn link(&mut self, name: &[u8], target: &[u8]) -> Result<bool, Trouble> {
        let skips_same = self.skips_same;
        let (parent, base) = self.parent(name)?;
        match symlinkat(target, parent, base) {
            Err(Errno::EXIST) if skips_same => {
                let there = readlinkat(parent, base, Vec::new()).map_err(|_| Errno::EXIST)?;
                if there.to_bytes() == target { Ok(true) } else { Err(Errno::EXIST.into()) }
            }
            made => Ok(made.map(|()| true)?),
        }
    }

    /// Waits until everything is on the disk.
    pub(super) fn sync(&self) -> Result<(), Errno> {
        syncfs(&self.root)
    }

    /// Whether this is the second header of the innermost folder. Folders that do not contain `name` are closed for
    /// good: if their second header comes later it counts as the first one of an existing folder.
    fn is_second(&mut self, name: &[u8]) -> bool {
        while let Some(end) = self.ends.last().copied() {
            let above = self.open.get(..end).unwrap_or_default();
            if above == name {
                return true;
            }
            if name.strip_prefix(above).is_some_and(|rest| rest.starts_with(b"/")) {
                return false;
            }
            self.ends.pop();
        }
        false
    }

    /// The folder that contains `name`, and its last component.
    fn parent<'a>(&'a mut self, name: &'a [u8]) -> Result<(BorrowedFd<'a>, &'a [u8]), Errno> {
        let (path, base) = beneath::parent(name);
        if self.parent.is_none() || self.parent_path != path {
            self.parent = None;
            let opened = beneath::open(self.root.as_fd(), path, OFlags::PATH)?;
            self.parent_path.clear();
            self.parent_path.extend_from_slice(path);
            self.parent = Some(opened);
        }
        let parent = self.parent.as_ref().ok_or(Errno::NOENT)?;
        Ok((parent.as_fd(), base))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const TIMES: [Time; 2] = [Time { seconds: 1, nanoseconds: 0 }; 2];

    /// Receives a file into `in/d`, which is moved out of `in` while its content comes.
    fn moved_while_a_file_comes(look_again: bool) -> (Result<bool, u32>, usize) {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        fs::create_dir(&inside).unwrap();
        let mut folder = Folder::new(fs::File::open(&inside).unwrap().into(), &Settings::default());
        folder.folder(b"d", 0o755, TIMES).unwrap();
        folder.begin(b"d/f", 0o644, 1, TIMES).unwrap();
        fs::rename(inside.join("d"), &outside).unwrap();
        if look_again {
            folder.forget();
        }
        folder.content(b"x").unwrap();
        let finished = folder.finish(b"d/f").map_err(|trouble| trouble.code.0);
        (finished, fs::read_dir(&outside).unwrap().count())
    }

    #[test]
    fn a_folder_that_was_moved_out_gets_nothing_once_it_is_looked_for_again() {
        assert_eq!(moved_while_a_file_comes(true), (Err(2), 0));
        // Without the look at the parent, the file is made in the folder that was moved away.
        assert_eq!(moved_while_a_file_comes(false), (Ok(true), 1));
    }

    #[test]
    fn a_file_that_cannot_be_finished_in_place_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = Folder::new(
            fs::File::open(dir.path()).unwrap().into(),
            &Settings { in_place: true, ..Settings::default() },
        );
        // No file can have this length.
        folder.begin(b"f", 0o644, u64::MAX, TIMES).unwrap();
        assert!(dir.path().join("f").exists());
        assert!(folder.finish(b"f").is_err());
        folder.give_up(b"f");
        assert!(!dir.path().join("f").exists());
    }

    #[test]
    fn only_the_innermost_folder_has_a_second_header() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = Folder::new(fs::File::open(dir.path()).unwrap().into(), &Settings::default());
        let mode = |name: &str| {
            use std::os::unix::fs::PermissionsExt;
            fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o7777
        };
        for name in ["a", "a/b", "ab", "a/b", "a"] {
            folder.folder(name.as_bytes(), 0o755, TIMES).unwrap();
            assert_eq!(mode(name), 0o700, "{name}");
        }
        folder.folder(b"a", 0o755, TIMES).unwrap();
        assert_eq!(mode("a"), 0o755);
        assert!(folder.ends.is_empty());
    }
}
