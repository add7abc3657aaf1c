//! A tree of files in the order in which the folders give them, with a bounded number of descriptors, and memory that
//! grows with the depth only.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Dir, FileType, Mode, OFlags, Stat, fstat, openat};
use rustix::io::Errno;

/// Most folders that are open at once; those above are opened again on the way back.
const OPEN_MAX: usize = 32;

/// Something that a walk has come to.
#[derive(Debug)]
pub struct Entry<'a> {
    /// The folder that it is in.
    pub parent: BorrowedFd<'a>,
    /// Its name there.
    pub name: &'a CStr,
    /// Its path from the beginning of the walk, the first name included.
    pub path: &'a [u8],
    /// What the folder says that it is; perhaps unknown.
    pub hint: FileType,
}

/// Who is shown a tree.
pub trait Visitor {
    /// Why a walk ends early.
    type Error;

    /// Looks at something. For a folder to go into, gives it, opened, and what `fstat` says of it.
    fn visit(&mut self, entry: &Entry<'_>) -> Result<Option<(OwnedFd, Stat)>, Self::Error>;

    /// All of a folder has been seen; `parent` and `name` as in its own entry.
    fn leave(&mut self, path: &[u8], stat: &Stat) -> Result<(), Self::Error>;

    /// The folder at `path` cannot be read on.
    fn unreadable(&mut self, path: &[u8], error: Errno) -> Self::Error;
}

struct Level {
    /// `None` while it is closed.
    dir: Option<Dir>,
    stat: Stat,
    /// Where to go on in the folder.
    cookie: i64,
    /// Bytes of the walk's path that lead here.
    path_len: usize,
}

/// Shows `visitor` what `name` in `parent` is, and everything below.
///
/// # Errors
/// What the visitor ended the walk with.
pub fn walk<V: Visitor>(parent: BorrowedFd<'_>, name: &CStr, visitor: &mut V) -> Result<(), V::Error> {
    let mut path = name.to_bytes().to_vec();
    let mut levels: Vec<Level> = Vec::new();
    let entry = Entry { parent, name, path: &path, hint: FileType::Unknown };
    if let Some((fd, stat)) = visitor.visit(&entry)? {
        let dir = Dir::new(fd).map_err(|error| visitor.unreadable(&path, error))?;
        levels.push(Level { dir: Some(dir), stat, cookie: 0, path_len: path.len() });
    }
    while let Some(level) = levels.last_mut() {
        path.truncate(level.path_len);
        let Some(dir) = level.dir.as_mut() else {
            return Err(visitor.unreadable(&path, Errno::BADF));
        };
        let next = match dir.read() {
            Some(Ok(next)) => next,
            Some(Err(Errno::INTR)) => continue,
            Some(Err(error)) => return Err(visitor.unreadable(&path, error)),
            None => {
                visitor.leave(&path, &level.stat)?;
                up(&mut levels).map_err(|error| visitor.unreadable(&path, error))?;
                continue;
            }
        };
        let name = next.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        level.cookie = next.offset();
        path.push(b'/');
        path.extend_from_slice(name.to_bytes());
        let parent = dir.fd().map_err(|error| visitor.unreadable(&path, error))?;
        let entry = Entry { parent, name, path: &path, hint: next.file_type() };
        if let Some((fd, stat)) = visitor.visit(&entry)? {
            let dir = Dir::new(fd).map_err(|error| visitor.unreadable(&path, error))?;
            levels.push(Level { dir: Some(dir), stat, cookie: 0, path_len: path.len() });
            let depth = levels.len();
            if let Some(above) = depth.checked_sub(OPEN_MAX).and_then(|at| at.checked_sub(1)) {
                levels.get_mut(above).map(|level| level.dir.take());
            }
        }
    }
    Ok(())
}

/// Ends the lowest level; the one above is opened again if it had to be closed, through the one that ends.
fn up(levels: &mut Vec<Level>) -> Result<(), Errno> {
    let (Some(ended), Some(above)) = (levels.pop(), levels.last_mut()) else { return Ok(()) };
    if above.dir.is_some() {
        return Ok(());
    }
    let ended = ended.dir.ok_or(Errno::BADF)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = openat(ended.fd()?, c"..", flags, Mode::empty())?;
    let stat = fstat(fd.as_fd())?;
    // Somebody moved the folder meanwhile: what is above it now is not what was being read.
    if (stat.st_dev, stat.st_ino) != (above.stat.st_dev, above.stat.st_ino) {
        return Err(Errno::STALE);
    }
    let mut dir = Dir::new(fd)?;
    dir.seek(above.cookie)?;
    above.dir = Some(dir);
    Ok(())
}

/// Cuts an argument into the folder to open and the name in it, as `dirname` and `basename` do.
pub fn split_argument(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = path.iter().rposition(|byte| *byte != b'/');
    let Some(path) = end.and_then(|end| path.get(..=end)) else {
        return path.first().map(|_| (&b"/"[..], &b"/"[..]));
    };
    Some(match path.iter().rposition(|byte| *byte == b'/') {
        None => (b".", path),
        Some(0) => (b"/", path.get(1..)?),
        Some(at) => (path.get(..at)?, path.get(at.saturating_add(1)..)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_cut_as_dirname_and_basename_do() {
        let cut = |path: &'static str| {
            let (folder, name) = split_argument(path.as_bytes()).unwrap();
            (std::str::from_utf8(folder).unwrap(), std::str::from_utf8(name).unwrap())
        };
        assert_eq!(cut("a/b/c"), ("a/b", "c"));
        assert_eq!(cut("x//"), (".", "x"));
        assert_eq!(cut("/x"), ("/", "x"));
        assert_eq!(cut("/"), ("/", "/"));
        assert_eq!(cut("."), (".", "."));
        assert_eq!(split_argument(b""), None);
    }
}
