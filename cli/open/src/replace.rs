//! What came back from another qube takes the place of the original, or is kept beside it.

use std::fs::{File, Metadata, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Names that are tried for a file that is kept.
const NAMES: u32 = 1000;

/// A file as it was when it was sent.
#[derive(Debug)]
pub struct Original {
    /// Itself, not a link to it.
    path: PathBuf,
    before: Metadata,
}

impl Original {
    /// Opens a file, behind a link if it is one.
    ///
    /// # Errors
    /// It is no file, or cannot be read.
    pub fn open(path: &Path) -> io::Result<(Self, File)> {
        let path = path.canonicalize()?;
        let kind = path.metadata()?.file_type();
        if !kind.is_file() {
            let what = if kind.is_dir() { "is a folder" } else { "is no file" };
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let file = File::open(&path)?;
        let before = file.metadata()?;
        Ok((Self { path, before }, file))
    }

    /// Whether it is still what was sent.
    fn is_unchanged(&self) -> bool {
        let said = |meta: &Metadata| {
            (
                meta.dev(),
                meta.ino(),
                meta.size(),
                meta.mtime(),
                meta.mtime_nsec(),
                meta.ctime(),
                meta.ctime_nsec(),
            )
        };
        self.path.symlink_metadata().is_ok_and(|now| said(&now) == said(&self.before))
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }
}

/// Bytes that have come back, in a file of their own.
#[derive(Debug)]
pub struct Received {
    file: NamedTempFile,
    /// How many.
    pub bytes: u64,
    /// Whether there were more than are taken.
    pub too_much: bool,
}

impl Received {
    /// Takes what comes, at most so much. Nothing is made if nothing comes.
    ///
    /// # Errors
    /// The file cannot be written; the first error of the system.
    pub fn take(original: &Original, from: &mut impl Read, max: u64) -> io::Result<Option<Self>> {
        let mut buffer = vec![0; 64 << 10];
        let mut received: Option<Self> = None;
        loop {
            let len = from.read(&mut buffer)?;
            if len == 0 {
                return Ok(received);
            }
            let this = match &mut received {
                Some(this) => this,
                None => received.insert(Self::beside(original)?),
            };
            let room = usize::try_from(max.saturating_sub(this.bytes)).unwrap_or(usize::MAX);
            let now = buffer.get(..len.min(room)).unwrap_or_default();
            this.file.write_all(now)?;
            this.bytes = this.bytes.saturating_add(now.len() as u64);
            if room < len {
                this.too_much = true;
                return Ok(received);
            }
        }
    }

    /// In the folder of the original, or where everybody may write.
    fn beside(original: &Original) -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".received-");
        let file = builder.tempfile_in(original.folder()).or_else(|_| builder.tempfile())?;
        Ok(Self { file, bytes: 0, too_much: false })
    }

    /// Puts it in the place of the original: with its mode, and its owner where that may be.
    ///
    /// # Errors
    /// Why not, and the file again.
    pub fn replace(self, original: &Original) -> Result<(), (String, Self)> {
        if !original.is_unchanged() {
            return Err(("the original was changed meanwhile".into(), self));
        }
        let file = self.file.as_file();
        let before = &original.before;
        let own = file.metadata().map(|meta| (meta.uid(), meta.gid()));
        if own.is_ok_and(|own| own != (before.uid(), before.gid())) {
            // Only root may give files away; a group may be possible where an owner is not.
            let _ = fchown(file, Some(before.uid()), Some(before.gid()))
                .or_else(|_| fchown(file, None, Some(before.gid())));
        }
        let done = file
            .set_permissions(Permissions::from_mode(before.mode() & 0o7777))
            .and_then(|()| file.sync_all());
        if let Err(error) = done {
            return Err((error.to_string(), self));
        }
        let (bytes, too_much) = (self.bytes, self.too_much);
        match self.file.persist(&original.path) {
            Ok(_) => {
                let _ = File::open(original.folder()).and_then(|folder| folder.sync_all());
                Ok(())
            }
            Err(error) => Err((error.error.to_string(), Self { file: error.file, bytes, too_much })),
        }
    }

    /// Keeps it beside the original, with the qube's name behind; where it is.
    ///
    /// # Errors
    /// No name is free, or the system failed.
    pub fn keep(self, original: &Original, qube: &str) -> io::Result<PathBuf> {
        let name = original.path.file_name().unwrap_or_default();
        let folder = self.file.path().parent().unwrap_or(Path::new("/")).to_owned();
        let mut file = self.file;
        file.as_file().sync_all()?;
        for number in 0..NAMES {
            let mut other = name.to_owned();
            other.push(format!(".from-{qube}"));
            if number > 0 {
                other.push(format!(".{number}"));
            }
            let path = folder.join(other);
            match file.persist_noclobber(&path) {
                Ok(_) => return Ok(path),
                Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => file = error.file,
                Err(error) => return Err(error.error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn original(folder: &Path) -> Original {
        let path = folder.join("f.txt");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        Original::open(&path).unwrap().0
    }

    fn received(original: &Original) -> Received {
        Received::take(original, &mut &b"new content"[..], 100).unwrap().unwrap()
    }

    #[test]
    fn the_mode_stays_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let original = original(folder.path());
        received(&original).replace(&original).unwrap();
        assert_eq!(fs::read_to_string(&original.path).unwrap(), "new content");
        assert_eq!(fs::metadata(&original.path).unwrap().permissions().mode() & 0o7777, 0o640);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_original_that_has_changed_stays() {
        let folder = tempfile::tempdir().unwrap();
        let original = original(folder.path());
        let one = received(&original);
        fs::write(&original.path, "mine").unwrap();
        let (why, one) = one.replace(&original).unwrap_err();
        assert!(why.contains("meanwhile"));
        assert_eq!(one.keep(&original, "vault").unwrap(), folder.path().join("f.txt.from-vault"));
        let two = received(&original).keep(&original, "vault").unwrap();
        assert_eq!(two, folder.path().join("f.txt.from-vault.1"));
        assert_eq!(fs::read_to_string(&original.path).unwrap(), "mine");
    }

    #[test]
    fn nothing_makes_no_file_and_too_much_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let original = original(folder.path());
        assert!(Received::take(&original, &mut &b""[..], 100).unwrap().is_none());
        let much = Received::take(&original, &mut &b"12345"[..], 4).unwrap().unwrap();
        assert!(much.too_much && much.bytes == 4);
        let all = Received::take(&original, &mut &b"1234"[..], 4).unwrap().unwrap();
        assert!(!all.too_much && all.bytes == 4);
    }
}
