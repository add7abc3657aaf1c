//! Folders below a folder, reached without following any link, however long the path is.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::{Errno, dup};

/// Longest part of a path that is given to the kernel at once; its own limit is 4,095.
const PIECE: usize = 4_000;
/// How often a resolution is tried again after a rename elsewhere has disturbed it.
const TRIES: u32 = 64;

/// Opens the folder `path`, which passed [`wire::filecopy::check_name`] or is empty, below `root`.
///
/// # Errors
/// `ENOTDIR` where a component is a link or a file, `ENOENT` where one is missing or is moved again and again.
pub fn open(root: BorrowedFd<'_>, path: &[u8], last: OFlags) -> Result<OwnedFd, Errno> {
    let last = last | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if path.is_empty() {
        return openat(root, c".", last, Mode::empty());
    }
    let mut at: Option<OwnedFd> = None;
    let mut rest = path;
    loop {
        let (piece, behind) = split(rest);
        let flags = if behind.is_empty() { last } else { OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC };
        let from = at.as_ref().map_or(root, |fd| fd.as_fd());
        let next = step(from, piece, flags)?;
        if behind.is_empty() {
            return Ok(next);
        }
        (at, rest) = (Some(next), behind);
    }
}

/// Cuts a path at a `/` so that the first piece is as long as the kernel accepts; no component is longer than that.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    if path.len() <= PIECE {
        return (path, &[]);
    }
    let head = path.get(..PIECE).unwrap_or(path);
    match head.iter().rposition(|byte| *byte == b'/') {
        Some(at) => {
            (path.get(..at).unwrap_or_default(), path.get(at.saturating_add(1)..).unwrap_or_default())
        }
        None => (path, &[]),
    }
}

fn step(from: BorrowedFd<'_>, piece: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..TRIES {
        match openat2(from, piece, flags, Mode::empty(), how) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::NOSYS) => return by_components(from, piece, flags),
            Err(Errno::LOOP) => return Err(Errno::NOTDIR),
            Err(Errno::XDEV) => return Err(Errno::NOENT),
            other => return other,
        }
    }
    Err(Errno::NOENT)
}

/// For kernels without `openat2`.
fn by_components(from: BorrowedFd<'_>, piece: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut at = dup(from)?;
    let mut parts = piece.split(|byte| *byte == b'/').peekable();
    while let Some(part) = parts.next() {
        let flags =
            if parts.peek().is_none() { flags } else { OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC };
        at = openat(&at, part, flags | OFlags::NOFOLLOW, Mode::empty()).map_err(|error| match error {
            Errno::LOOP => Errno::NOTDIR,
            other => other,
        })?;
    }
    Ok(at)
}

/// The path of the folder that contains `path`, and the last component.
pub fn parent(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => {
            (path.get(..at).unwrap_or_default(), path.get(at.saturating_add(1)..).unwrap_or_default())
        }
        None => (&[], path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_and_files_are_no_way() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("f"), "").unwrap();
        symlink("/", dir.path().join("a/out")).unwrap();
        symlink("b", dir.path().join("a/in")).unwrap();
        let root = fs::File::open(dir.path()).unwrap();
        for by_steps in [false, true] {
            let code = |path: &str| {
                let how = if by_steps { by_components } else { open };
                how(root.as_fd(), path.as_bytes(), OFlags::PATH | OFlags::DIRECTORY).err()
            };
            assert_eq!(code("a/b"), None);
            assert_eq!(code("a/out/etc"), Some(Errno::NOTDIR));
            assert_eq!(code("a/out"), Some(Errno::NOTDIR));
            assert_eq!(code("a/in"), Some(Errno::NOTDIR));
            assert_eq!(code("f/x"), Some(Errno::NOTDIR));
            assert_eq!(code("a/c"), Some(Errno::NOENT));
        }
    }

    #[test]
    fn a_path_is_cut_between_components() {
        let long = ["x".repeat(250), "/".to_owned()].concat().repeat(40);
        let long = long.trim_end_matches('/').as_bytes();
        let (mut rest, mut joined) = (long, Vec::new());
        while !rest.is_empty() {
            let (piece, behind) = split(rest);
            assert!(piece.len() <= PIECE && !piece.ends_with(b"/"));
            if !joined.is_empty() {
                joined.push(b'/');
            }
            joined.extend(piece);
            rest = behind;
        }
        assert_eq!(joined, long);
        assert_eq!(parent(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(parent(b"c"), (&b""[..], &b"c"[..]));
    }
}
