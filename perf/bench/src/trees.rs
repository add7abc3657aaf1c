//! Files that are copied, and whether a copy is what they are.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

/// Files of one folder: more, and folders are what is measured.
const A_FOLDER: u32 = 1000;
/// What is written and compared at a time.
const PIECE: usize = 1 << 20;
/// A sparse file has one such block of data...
const DATA: u64 = 64 << 10;
/// ...in as many bytes.
const EACH: u64 = 16 << 20;

/// What there is to copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Set {
    /// One file.
    Large(u64),
    /// So many files of so many bytes, in folders.
    Files(u32, u64),
    /// One file with more holes than data.
    Sparse(u64),
    /// What is in this folder.
    Tree(PathBuf),
}

/// How much something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    /// Files, folders not counted.
    pub(super) files: u64,
    /// Bytes of their content.
    pub(super) bytes: u64,
}

impl Set {
    /// Makes it, as `path`. Random bytes: nothing on the way can make them fewer.
    pub(super) fn make(&self, path: &Path) -> io::Result<()> {
        let mut random = File::open("/dev/urandom")?;
        match self {
            Self::Large(bytes) => fill(&mut File::create(path)?, &mut random, *bytes),
            Self::Files(count, bytes) => {
                for file in 0..*count {
                    let folder = path.join((file / A_FOLDER).to_string());
                    if file.is_multiple_of(A_FOLDER) {
                        fs::create_dir_all(&folder)?;
                    }
                    let mut file = File::create(folder.join((file % A_FOLDER).to_string()))?;
                    fill(&mut file, &mut random, *bytes)?;
                }
                Ok(())
            }
            Self::Sparse(bytes) => {
                let file = File::create(path)?;
                file.set_len(*bytes)?;
                let mut data = vec![0; usize::try_from(DATA.min(*bytes)).unwrap_or(0)];
                random.read_exact(&mut data)?;
                (0..*bytes / EACH).try_for_each(|block| file.write_all_at(&data, block * EACH))
            }
            Self::Tree(folder) => take(folder, path),
        }
    }
}

fn fill(to: &mut File, random: &mut File, bytes: u64) -> io::Result<()> {
    let mut piece = vec![0; usize::try_from(bytes).unwrap_or(PIECE).min(PIECE)];
    let mut left = bytes;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let piece = piece.get_mut(..now).unwrap_or_default();
        random.read_exact(piece)?;
        to.write_all(piece)?;
        left -= now as u64;
    }
    Ok(())
}

/// Copies files, folders, and links that stay inside by their looks; the rest is no part of a measurement.
fn take(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, place) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            take(&entry.path(), &place)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &place)?;
        } else if kind.is_symlink() {
            let target = fs::read_link(entry.path())?;
            if target.components().all(|part| matches!(part, std::path::Component::Normal(_))) {
                symlink(target, &place)?;
            }
        }
    }
    Ok(())
}

/// How much there is at `path`.
pub(super) fn amount(path: &Path) -> io::Result<Amount> {
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_dir() {
        return Ok(Amount { files: 1, bytes: if meta.is_file() { meta.len() } else { 0 } });
    }
    fs::read_dir(path)?.try_fold(Amount::default(), |sum, entry| {
        let more = amount(&entry?.path())?;
        Ok(Amount { files: sum.files + more.files, bytes: sum.bytes + more.bytes })
    })
}

/// Fails unless `copy` has every name, type and byte of `original`, and for files its time and permissions where `exact`.
pub(super) fn compare(original: &Path, copy: &Path, exact: bool) -> io::Result<()> {
    let differs = |how: &str| Err(io::Error::other(format!("{} differs: {how}", copy.display())));
    let (theirs, ours) = (fs::symlink_metadata(original)?, fs::symlink_metadata(copy)?);
    if theirs.file_type() != ours.file_type() {
        return differs("its type");
    }
    if theirs.is_symlink() {
        return if fs::read_link(original)? == fs::read_link(copy)? { Ok(()) } else { differs("its target") };
    }
    let same = (theirs.mtime(), theirs.mtime_nsec(), theirs.mode() & 0o777)
        == (ours.mtime(), ours.mtime_nsec(), ours.mode() & 0o777);
    if exact && !same {
        return differs("its time or mode");
    }
    if theirs.is_dir() {
        if fs::read_dir(original)?.count() != fs::read_dir(copy)?.count() {
            return differs("how much is in it");
        }
        return fs::read_dir(original)?.try_for_each(|entry| {
            let entry = entry?;
            compare(&entry.path(), &copy.join(entry.file_name()), exact)
        });
    }
    if theirs.len() != ours.len() || !is_same(&File::open(original)?, &File::open(copy)?)? {
        return differs("its content");
    }
    Ok(())
}

fn is_same(mut left: &File, mut right: &File) -> io::Result<bool> {
    let (mut ours, mut theirs) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let len = left.read(&mut ours)?;
        let Some(theirs) = theirs.get_mut(..len) else { return Ok(false) };
        right.read_exact(theirs)?;
        if ours.get(..len) != Some(&*theirs) {
            return Ok(false);
        }
        if len == 0 {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_as_large_as_they_say_and_copies_are_compared() {
        let place = tempfile::tempdir().unwrap();
        let (one, two) = (place.path().join("one"), place.path().join("two"));
        Set::Files(3, 5).make(&one).unwrap();
        assert_eq!(amount(&one).unwrap(), Amount { files: 3, bytes: 15 });
        symlink("0", one.join("in")).unwrap();
        symlink("/", one.join("out")).unwrap();
        Set::Tree(one.clone()).make(&two).unwrap();
        assert!(compare(&one, &two, false).is_err(), "a link less");
        fs::remove_file(one.join("out")).unwrap();
        compare(&one, &two, false).unwrap();
        fs::write(two.join("0/1"), "other").unwrap();
        assert!(compare(&one, &two, false).unwrap_err().to_string().contains("content"));

        let sparse = place.path().join("sparse");
        Set::Sparse(2 * EACH).make(&sparse).unwrap();
        let meta = fs::metadata(&sparse).unwrap();
        assert!(meta.len() == 2 * EACH && meta.blocks() * 512 <= 4 * DATA, "{} blocks", meta.blocks());
        let large = place.path().join("large");
        Set::Large(PIECE as u64 + 1).make(&large).unwrap();
        assert_eq!(amount(&large).unwrap(), Amount { files: 1, bytes: PIECE as u64 + 1 });
        compare(&large, &large, true).unwrap();
    }
}
