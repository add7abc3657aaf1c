//! Reading policy from the file system, and knowing whether what was read is still true.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use policy::{Source, SourceError};
use rustix::fs::{Mode, OFlags};

use super::watch::Watch;

/// The clock that stamps files ticks as rarely as this: two changes within one tick look alike.
const TICK: Duration = Duration::from_millis(50);

/// What tells one state of a file or folder from another; `None` while there is none.
type Identity = Option<[i64; 7]>;

/// Everything that was looked at, with the state in which it was found.
#[derive(Debug, Default)]
pub(super) struct Footprint {
    seen: Vec<(PathBuf, Identity)>,
    /// How many of those are folders that were listed; they come first.
    folders: usize,
    /// Something changed so shortly before it was read that a further change might not show.
    unsettled: bool,
    /// Something could not be read, and may be readable the next time without any change that shows.
    unread: bool,
    /// Tells of changes, as long as everything that was looked at can be watched.
    watch: Option<Watch>,
}

impl Footprint {
    /// Nothing was looked at yet; what will be is watched, as far as that is possible.
    pub(super) fn watched() -> Self {
        Self { watch: Watch::new(), ..Self::default() }
    }

    /// Notes the state of `path`. To be called before it is read: a change in between then shows.
    pub(super) fn note(&mut self, path: &Path) {
        self.watch = self.watch.take().filter(|watch| watch.add(path));
        let (identity, changed) = look(path);
        let horizon = SystemTime::now().checked_sub(TICK).unwrap_or(SystemTime::UNIX_EPOCH);
        self.unsettled |= changed.is_some_and(|at| at >= horizon);
        self.seen.push((path.to_owned(), identity));
    }

    /// Notes a folder that is about to be listed.
    pub(super) fn note_folder(&mut self, path: &Path) {
        self.note(path);
        let last = self.seen.len().saturating_sub(1);
        self.seen.swap(self.folders, last);
        self.folders = self.folders.saturating_add(1);
    }

    /// Whether changes are told by the kernel, so that files need not be looked at.
    pub(super) fn is_watched(&self) -> bool {
        self.watch.is_some()
    }

    /// Whether everything is as it was found. Folders are looked at in any case: another one may have
    /// been mounted over them, of which no watch tells.
    pub(super) fn holds(&self) -> bool {
        let (settled, looked_at) = match &self.watch {
            Some(watch) => (watch.is_quiet(), self.folders),
            None => (!self.unsettled, self.seen.len()),
        };
        settled
            && !self.unread
            && self.seen.iter().take(looked_at).all(|(path, identity)| look(path).0 == *identity)
    }
}

/// The state of what `path` leads to, and when that last changed.
fn look(path: &Path) -> (Identity, Option<SystemTime>) {
    let Ok(meta) = std::fs::metadata(path) else { return (None, None) };
    let number = |n: u64| n.cast_signed();
    let identity = [
        number(meta.dev()),
        number(meta.ino()),
        number(meta.size()),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec(),
    ];
    let seconds = u64::try_from(meta.ctime()).unwrap_or(0);
    let nanos = u32::try_from(meta.ctime_nsec()).unwrap_or(0);
    (Some(identity), SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos)))
}

/// Policy folders on disk. Notes everything that it is asked for.
#[derive(Debug)]
pub struct Disk<'a> {
    folders: &'a [PathBuf],
    old: Option<&'a Path>,
    footprint: RefCell<Footprint>,
}

impl<'a> Disk<'a> {
    /// These folders, the one that hides the others first.
    #[must_use]
    pub fn new(folders: &'a [PathBuf]) -> Self {
        Self { folders, old: None, footprint: RefCell::default() }
    }

    /// The same, with another folder of the old format.
    #[must_use]
    pub fn with_old_folder(self, old: &'a Path) -> Self {
        Self { old: Some(old), ..self }
    }

    /// The same folders, watched from before it is read.
    pub(super) fn watched(folders: &'a [PathBuf]) -> Self {
        Self { folders, old: None, footprint: RefCell::new(Footprint::watched()) }
    }

    /// What was looked at so far.
    pub(super) fn into_footprint(self) -> Footprint {
        self.footprint.into_inner()
    }

    fn note(&self, path: &Path) {
        self.footprint.borrow_mut().note(path);
    }

    /// The real path of what a directive names, if it is what it should be.
    fn resolve(
        &self,
        base: &str,
        path: &str,
        right: fn(&std::fs::Metadata) -> bool,
        what: &str,
    ) -> Result<String, SourceError> {
        let path = Path::new(base).join(path);
        self.note(&path);
        let found = || -> io::Result<PathBuf> {
            let real = path.canonicalize()?;
            if right(&std::fs::metadata(&real)?) { Ok(real) } else { Err(io::Error::other(what)) }
        };
        text(&found().map_err(|error| failed(&path, &error))?)
    }
}

impl Source for Disk<'_> {
    fn folders(&self) -> Vec<String> {
        self.folders.iter().map(|folder| folder.to_string_lossy().into_owned()).collect()
    }

    fn old_folder(&self) -> String {
        let old = self.old.unwrap_or(Path::new(policy::load::OLD_POLICY_FOLDER));
        old.to_string_lossy().into_owned()
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, SourceError> {
        let folder = Path::new(folder);
        self.footprint.borrow_mut().note_folder(folder);
        let entries = std::fs::read_dir(folder).map_err(|error| failed(folder, &error))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| failed(folder, &error))?;
            let path = entry.path();
            // A dangling link that comes to life changes nothing in the folder itself.
            self.note(&path);
            if std::fs::metadata(&path).is_ok_and(|meta| meta.is_file()) {
                // A name that is no text is a bad name, and stays one with its odd bytes replaced.
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }

    fn resolve_file(&self, base: &str, path: &str) -> Result<String, SourceError> {
        self.resolve(base, path, std::fs::Metadata::is_file, "not a regular file")
    }

    fn resolve_folder(&self, base: &str, path: &str) -> Result<String, SourceError> {
        self.resolve(base, path, std::fs::Metadata::is_dir, "not a folder")
    }

    fn read(&self, path: &str, most: usize) -> Result<Vec<u8>, SourceError> {
        let path = Path::new(path);
        self.note(path);
        read_file(path, most).map_err(|error| {
            self.footprint.borrow_mut().unread = true;
            failed(path, &error)
        })
    }
}

/// The bytes of a regular file, `most` of them at most. Whatever somebody puts in its place, this neither waits nor
/// reads on without end.
///
/// # Errors
/// It is no regular file, is longer, would have to be waited for, or cannot be read.
pub fn read_file(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take((most as u64).saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() > most {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {most} bytes"))),
        false => Ok(bytes),
    }
}

fn text(path: &Path) -> Result<String, SourceError> {
    match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(SourceError(format!("{path:?} is not text"))),
    }
}

fn failed(path: &Path, error: &io::Error) -> SourceError {
    SourceError(format!("{}: {error}", path.display()))
}
