//! What a sender has sent, written down for whoever removes it afterwards. The file has no name, so nobody else writes it
//! and nothing is left of it; it is trusted only if its last line says that the other side has confirmed everything.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};

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
    /// The sum of its content where the time alone tells nothing: it was changed just before it was sent, and might be
    /// once more within the same tick of the clock.
    pub sum: Option<u32>,
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
}

impl Writer {
    /// Writes a new record.
    ///
    /// # Errors
    /// No temporary file can be made.
    pub fn new() -> io::Result<Self> {
        Ok(Self { file: BufWriter::with_capacity(64 << 10, tempfile::tempfile()?) })
    }

    /// The record as it is now, to be read.
    ///
    /// # Errors
    /// The disk is full.
    pub fn into_reader(self) -> io::Result<Reader> {
        let mut file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        Ok(Reader(BufReader::with_capacity(64 << 10, file)))
    }

    /// Adds a line.
    ///
    /// # Errors
    /// The disk is full.
    pub fn line(&mut self, what: What, identity: &Identity, sum: Option<u32>, name: &[u8]) -> io::Result<()> {
        let Identity { device, inode, size, modified } = identity;
        write!(self.file, "{} {device} {inode} {size} {modified} ", letter(what))?;
        match sum {
            Some(sum) => write!(self.file, "{sum}")?,
            None => write!(self.file, "-")?,
        }
        write!(self.file, " {} ", name.len())?;
        self.file.write_all(name)?;
        self.file.write_all(b"\n")
    }

    /// Ends the record: everything was confirmed.
    ///
    /// # Errors
    /// The disk is full.
    pub fn confirm(&mut self, totals: &Totals) -> io::Result<()> {
        let Totals { files, folders, links, bytes, skipped } = totals;
        let text = format!("{files} {folders} {links} {bytes} {skipped}");
        self.line(What::Confirmed, &Identity::default(), None, text.as_bytes())?;
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
    /// The totals, if everything was confirmed; goes back to the beginning.
    ///
    /// # Errors
    /// The file is no record.
    pub fn totals(&mut self) -> io::Result<Option<Totals>> {
        let mut totals = None;
        while let Some(line) = self.next_line()? {
            totals = line.totals();
        }
        self.0.seek(SeekFrom::Start(0))?;
        Ok(totals)
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// The file is no record.
    pub fn next_line(&mut self) -> io::Result<Option<Line>> {
        let mut words = Vec::new();
        for _ in 0..7 {
            let mut word = Vec::new();
            if self.0.read_until(b' ', &mut word)? == 0 {
                return if words.is_empty() { Ok(None) } else { Err(broken()) };
            }
            word.pop();
            words.push(String::from_utf8(word).map_err(|_| broken())?);
        }
        let [what, device, inode, size, modified, sum, len] = words.as_slice() else { return Err(broken()) };
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
        let sum = match sum.as_str() {
            "-" => None,
            sum => Some(sum.parse().map_err(|_| broken())?),
        };
        let len = number(len)?;
        let mut name = Vec::new();
        self.0.by_ref().take(len).read_to_end(&mut name)?;
        let mut end = [0];
        self.0.read_exact(&mut end)?;
        if name.len() as u64 != len || end != *b"\n" {
            return Err(broken());
        }
        Ok(Some(Line { what, identity, sum, name }))
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

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the record of what was sent is incomplete")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_counts_only_with_its_end() {
        let identity = Identity { device: 1, inode: 2, size: 3, modified: -4 };
        let write = |sum| {
            let mut writer = Writer::new().unwrap();
            writer.line(What::File, &identity, sum, b"a b\nc").unwrap();
            writer
        };
        assert_eq!(write(None).into_reader().unwrap().totals().unwrap(), None);
        let sent = Totals { files: 1, bytes: 3, ..Totals::default() };
        for sum in [None, Some(7)] {
            let mut writer = write(sum);
            writer.confirm(&sent).unwrap();
            let mut reader = writer.into_reader().unwrap();
            assert_eq!(reader.totals().unwrap(), Some(sent));
            let line = reader.next_line().unwrap().unwrap();
            assert_eq!(line, Line { what: What::File, identity, sum, name: b"a b\nc".to_vec() });
        }
        let mut writer = write(None);
        writer.confirm(&sent).unwrap();
        let file = writer.file.into_inner().unwrap();
        file.set_len(file.metadata().unwrap().len() - 3).unwrap();
        let cut = Writer { file: BufWriter::new(file) };
        assert!(cut.into_reader().unwrap().totals().is_err());
    }
}
