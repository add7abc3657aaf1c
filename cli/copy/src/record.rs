//! What a sender has sent, written down for whoever removes it afterwards. The file belongs to the user alone and is
//! removed after use; it is trusted only if its last line says that the other side has confirmed everything.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;

use rustix::fs::Stat;

/// What was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// An argument begins: the path of the folder that it is in.
    From,
    /// A file, complete.
    File,
    /// A link.
    Link,
    /// A folder begins.
    Enter,
    /// A folder is complete.
    Leave,
    /// Everything was confirmed.
    Confirmed,
}

/// What tells a file from another that came to its place, and one that was changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Identity {
    /// The file system.
    pub device: u64,
    /// The inode.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Last change, nanoseconds since 1970.
    pub modified: i128,
}

impl Identity {
    /// That of a file as `fstat` tells it.
    pub fn of(stat: &Stat) -> Self {
        let seconds = i128::from(stat.st_mtime).saturating_mul(1_000_000_000);
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: seconds.saturating_add(i128::from(stat.st_mtime_nsec)),
        }
    }

    /// Whether this is the same inode, changed or not.
    pub fn is_same_inode(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// One line of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What was sent.
    pub what: What,
    /// Which file exactly.
    pub identity: Identity,
    /// Its name in its folder; for [`What::From`] the folder's path.
    pub name: Vec<u8>,
}

/// How much was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Regular files.
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Links.
    pub links: u64,
    /// Bytes of the files' content.
    pub bytes: u64,
    /// What was left out: special files, and links if they were to be.
    pub skipped: u64,
}

/// Writes a record.
#[derive(Debug)]
pub struct Writer {
    file: BufWriter<File>,
    entries: bool,
}

impl Writer {
    /// Opens a file that is there. Without `entries` only the totals are written.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path, entries: bool) -> io::Result<Self> {
        let file = File::options().write(true).truncate(true).open(path)?;
        Ok(Self { file: BufWriter::with_capacity(64 << 10, file), entries })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// The disk is full.
    pub fn line(&mut self, what: What, identity: &Identity, name: &[u8]) -> io::Result<()> {
        if !self.entries {
            return Ok(());
        }
        let Identity { device, inode, size, modified } = identity;
        write!(self.file, "{} {device} {inode} {size} {modified} {} ", letter(what), name.len())?;
        self.file.write_all(name)?;
        self.file.write_all(b"\n")
    }

    /// Ends the record: everything was confirmed.
    ///
    /// # Errors
    /// The disk is full.
    pub fn confirm(mut self, totals: &Totals) -> io::Result<()> {
        let Totals { files, folders, links, bytes, skipped } = totals;
        let text = format!("{files} {folders} {links} {bytes} {skipped}");
        self.entries = true;
        self.line(What::Confirmed, &Identity::default(), text.as_bytes())?;
        self.file.flush()
    }
}

const fn letter(what: What) -> char {
    match what {
        What::From => 'A',
        What::File => 'F',
        What::Link => 'L',
        What::Enter => 'D',
        What::Leave => 'U',
        What::Confirmed => 'E',
    }
}

/// Reads a record line by line.
#[derive(Debug)]
pub struct Reader(BufReader<File>);

impl Reader {
    /// Opens a record.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(BufReader::with_capacity(64 << 10, File::open(path)?)))
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// The file is no record.
    pub fn next_line(&mut self) -> io::Result<Option<Line>> {
        let mut words = Vec::new();
        for _ in 0..6 {
            let mut word = Vec::new();
            if self.0.read_until(b' ', &mut word)? == 0 {
                return if words.is_empty() { Ok(None) } else { Err(broken()) };
            }
            word.pop();
            words.push(String::from_utf8(word).map_err(|_| broken())?);
        }
        let [what, device, inode, size, modified, len] = words.as_slice() else { return Err(broken()) };
        let what = [What::From, What::File, What::Link, What::Enter, What::Leave, What::Confirmed]
            .into_iter()
            .find(|kind| *what == letter(*kind).to_string())
            .ok_or_else(broken)?;
        let number = |text: &String| text.parse::<u64>().map_err(|_| broken());
        let identity = Identity {
            device: number(device)?,
            inode: number(inode)?,
            size: number(size)?,
            modified: modified.parse().map_err(|_| broken())?,
        };
        let len = number(len)?;
        let mut name = Vec::new();
        self.0.by_ref().take(len).read_to_end(&mut name)?;
        let mut end = [0];
        self.0.read_exact(&mut end)?;
        if name.len() as u64 != len || end != *b"\n" {
            return Err(broken());
        }
        Ok(Some(Line { what, identity, name }))
    }
}

impl Line {
    /// The totals of a last line.
    pub fn totals(&self) -> Option<Totals> {
        let text = std::str::from_utf8(&self.name).ok().filter(|_| self.what == What::Confirmed)?;
        let mut numbers = text.split(' ').map_while(|word| word.parse().ok());
        Some(Totals {
            files: numbers.next()?,
            folders: numbers.next()?,
            links: numbers.next()?,
            bytes: numbers.next()?,
            skipped: numbers.next()?,
        })
    }
}

/// The totals of a record, if everything was confirmed.
pub fn totals(path: &Path) -> Option<Totals> {
    let mut reader = Reader::open(path).ok()?;
    let mut totals = None;
    while let Some(line) = reader.next_line().ok()? {
        totals = line.totals();
    }
    totals
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the record of what was sent is incomplete")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_counts_only_with_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        std::fs::write(&path, "").unwrap();
        let identity = Identity { device: 1, inode: 2, size: 3, modified: -4 };
        let mut writer = Writer::open(&path, true).unwrap();
        writer.line(What::File, &identity, b"a b\nc").unwrap();
        writer.file.flush().unwrap();
        assert_eq!(totals(&path), None);
        let sent = Totals { files: 1, bytes: 3, ..Totals::default() };
        writer.confirm(&sent).unwrap();
        assert_eq!(totals(&path), Some(sent));
        let mut reader = Reader::open(&path).unwrap();
        let line = reader.next_line().unwrap().unwrap();
        assert_eq!(line, Line { what: What::File, identity, name: b"a b\nc".to_vec() });
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        assert_eq!(totals(&path), None);
    }
}
