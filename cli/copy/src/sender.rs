//! Trees of files into a stream.

mod content;

use std::ffi::CString;
use std::fmt::Display;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use engine::process::close_all;
use engine::say;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;
use wire::filecopy::{Checksum, Misused, Sender, Time};

use crate::fresh;
use crate::outlet::{Outlet, Stop};
use crate::progress::Progress;
use crate::record::{Identity, Totals, What, Writer};
use crate::walk::{self, Entry, Visitor};
use filecopy::shown::{self, Name};
use filecopy::sum::Sum;

/// Most files that are open though they were sent.
const OPEN_MAX: usize = 32;

/// What to do about links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Links {
    /// Send them as links.
    #[default]
    Send,
    /// Leave them out.
    Ignore,
    /// Send the files that they lead to.
    Follow,
}

/// Why sending ended.
#[derive(Debug)]
pub enum End {
    /// Nothing more can be sent.
    Stopped(Stop),
    /// Something of ours.
    Failed(CannotSend),
    /// Whoever shows the progress is gone.
    Cancelled,
}

/// Why something cannot be sent. The text is the line for stderr.
#[derive(Debug, thiserror::Error)]
pub enum CannotSend {
    /// It names no file.
    #[error("an empty argument")]
    Empty,
    /// The system says why.
    #[error("{}: {}", Name(path), shown::errno(*error))]
    File {
        /// Of what.
        path: Vec<u8>,
        /// Why not.
        error: Errno,
    },
    /// The wire has no room for it.
    #[error("{}: its name is too long to be sent", Name(.0))]
    Name(Vec<u8>),
    /// The stream has no place for it.
    #[error("{}: {error}", Name(path))]
    Entry {
        /// Of what.
        path: Vec<u8>,
        /// Why not.
        error: Misused,
    },
    /// It has less than was announced.
    #[error("{} has become shorter meanwhile", Name(.0))]
    Shorter(Vec<u8>),
    /// What was sent cannot be written down.
    #[error("the record: {0}")]
    Record(std::io::Error),
}

/// Arguments that are not there. The text has a line for each.
#[derive(Debug, thiserror::Error)]
#[error("{}", lines(.0))]
pub struct Missing(Vec<CannotSend>);

fn lines(all: &[CannotSend]) -> String {
    all.iter().map(CannotSend::to_string).collect::<Vec<_>>().join("\n")
}

impl From<Stop> for End {
    fn from(stop: Stop) -> Self {
        Self::Stopped(stop)
    }
}

/// Sends trees.
#[derive(Debug)]
pub struct Sending<'a> {
    /// Where the bytes go.
    pub outlet: &'a mut Outlet,
    /// Who wants to know how far it is.
    pub progress: &'a mut Progress,
    /// Who wants to know what was sent.
    pub record: Option<&'a mut Writer>,
    /// What to do about links.
    pub links: Links,
    /// How the program is called.
    pub program: &'a str,
    machine: Sender,
    scratch: Vec<u8>,
    totals: Totals,
    /// The sum of the file's content, where the record needs it.
    content: Option<Sum>,
    /// Files that were sent and only need to be closed: many at once is one system call instead of one for each.
    sent: Vec<OwnedFd>,
}

/// Checks that every argument is there, before anything is sent.
///
/// # Errors
/// Which are not.
pub fn check_arguments(paths: &[PathBuf]) -> Result<(), Missing> {
    let mut missing = Vec::new();
    for path in paths {
        let bytes = path.as_os_str().as_bytes();
        let found = walk::split_argument(bytes).ok_or(Errno::NOENT).and_then(|(folder, name)| {
            let folder =
                openat(CWD, folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)
        });
        if let Err(error) = found {
            missing.push(CannotSend::File { path: bytes.to_vec(), error });
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(Missing(missing)) }
}

impl<'a> Sending<'a> {
    /// Ready to send.
    pub fn new(
        outlet: &'a mut Outlet,
        progress: &'a mut Progress,
        record: Option<&'a mut Writer>,
        links: Links,
        program: &'a str,
    ) -> Self {
        let totals = Totals::default();
        Self {
            outlet,
            progress,
            record,
            links,
            program,
            machine: Sender::default(),
            scratch: Vec::new(),
            totals,
            content: None,
            sent: Vec::new(),
        }
    }

    /// Sends one argument and everything below.
    ///
    /// # Errors
    /// Why no more can be sent.
    pub fn send(&mut self, path: &std::path::Path) -> Result<(), End> {
        let bytes = path.as_os_str().as_bytes();
        let nothing = || End::Failed(CannotSend::Empty);
        let (folder, name) = walk::split_argument(bytes).ok_or_else(nothing)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = openat(CWD, folder, flags, Mode::empty()).map_err(|error| failed(folder, error))?;
        self.note(What::From, &Identity::default(), None, folder)?;
        let name = CString::new(name).map_err(|_| nothing())?;
        walk::walk(parent.as_fd(), &name, self)
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn end(&mut self) -> Result<Totals, End> {
        close_all(&mut self.sent);
        self.scratch.clear();
        self.machine.handle_end(&mut self.scratch).map_err(|error| misused(b"", error))?;
        self.outlet.put(&self.scratch)?;
        self.outlet.flush()?;
        Ok(self.totals)
    }

    fn entry(&mut self, path: &[u8], stat: &Stat, mode: u32, len: u64) -> Result<(), End> {
        self.scratch.clear();
        let times = [
            time(stat.st_atime, i64::try_from(stat.st_atime_nsec).unwrap_or(0)),
            time(stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        ];
        let made = self.machine.handle_entry(path, mode, len, times, &mut self.scratch);
        made.map_err(|error| misused(path, error))?;
        self.outlet.put(&self.scratch)?;
        Ok(())
    }

    /// Sends a file; whether it has more than was sent.
    fn file(&mut self, path: &[u8], fd: &OwnedFd, stat: &Stat) -> Result<bool, End> {
        let len = u64::try_from(stat.st_size).unwrap_or(0);
        self.entry(path, stat, stat.st_mode, len)?;
        let grown = content::send(self, path, fd, stat)?;
        if grown {
            let text = format_args!(
                "{}: {} has grown meanwhile; what it was first was sent",
                self.program,
                Name(path)
            );
            self.progress.say(&text.to_string());
        }
        self.totals.files = self.totals.files.saturating_add(1);
        self.totals.bytes = self.totals.bytes.saturating_add(len);
        Ok(grown)
    }

    fn link(&mut self, entry: &Entry<'_>) -> Result<(), End> {
        let trouble = |error| failed(entry.path, error);
        let stat = statat(entry.parent, entry.name, AtFlags::SYMLINK_NOFOLLOW).map_err(trouble)?;
        let target = readlinkat(entry.parent, entry.name, Vec::new()).map_err(trouble)?;
        let target = target.to_bytes();
        self.entry(entry.path, &stat, stat.st_mode, target.len() as u64)?;
        self.outlet.put(target)?;
        self.machine.handle_body(target.len() as u64).map_err(|error| misused(entry.path, error))?;
        self.totals.links = self.totals.links.saturating_add(1);
        self.note(What::Link, &Identity::of(&stat), None, entry.name.to_bytes())
    }

    fn skip(&mut self, path: &[u8], what: &str) {
        self.totals.skipped = self.totals.skipped.saturating_add(1);
        self.progress.say(&format!("{}: {} was left out: {what}", self.program, Name(path)));
    }

    fn note(&mut self, what: What, identity: &Identity, sum: Option<u32>, name: &[u8]) -> Result<(), End> {
        let Some(record) = &mut self.record else { return Ok(()) };
        record.line(what, identity, sum, name).map_err(|error| End::Failed(CannotSend::Record(error)))
    }

    /// Opens something that may be a file or a folder. What it is now counts, not what the folder said.
    fn open(&mut self, entry: &Entry<'_>, follow: bool) -> Result<Option<(OwnedFd, Stat)>, End> {
        let trouble = |error| failed(entry.path, error);
        // Nothing else than a file is meant, but a FIFO may have come to its place: do not wait for it.
        let mut flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        flags.set(OFlags::NOFOLLOW, !follow);
        // Of a link that is followed it is the link that is sent, as it is now: what comes to its place later is not.
        let link = follow.then(|| statat(entry.parent, entry.name, AtFlags::SYMLINK_NOFOLLOW));
        let link = link.transpose().map_err(trouble)?;
        let fd = openat(entry.parent, entry.name, flags, Mode::empty()).map_err(trouble)?;
        let stat = fstat(&fd).map_err(trouble)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let fresh = self.record.is_some() && fresh::is_fresh(&stat);
                self.content = fresh.then(Sum::default);
                let grown = self.file(entry.path, &fd, &stat)?;
                let sum = self.content.take().map(|sum| sum.value());
                let mut own = Identity::of(link.as_ref().unwrap_or(&stat));
                if grown && link.is_none() {
                    // Not all of it was sent: nothing is like this, so a move lets it stay and names it.
                    own.size = u64::MAX;
                }
                self.note(What::File, &own, sum, entry.name.to_bytes())?;
                self.sent.push(fd);
                if self.sent.len() >= OPEN_MAX {
                    close_all(&mut self.sent);
                }
                Ok(None)
            }
            FileType::Directory if follow => {
                self.skip(entry.path, "a link to a folder");
                Ok(None)
            }
            FileType::Directory => Ok(Some((fd, stat))),
            _ => {
                self.skip(entry.path, "not a file, folder or link");
                Ok(None)
            }
        }
    }
}

impl Visitor for Sending<'_> {
    type Error = End;

    fn visit(&mut self, entry: &Entry<'_>) -> Result<Option<(OwnedFd, Stat)>, End> {
        let kind = match entry.hint {
            FileType::Unknown => {
                let stat = statat(entry.parent, entry.name, AtFlags::SYMLINK_NOFOLLOW);
                FileType::from_raw_mode(stat.map_err(|error| failed(entry.path, error))?.st_mode)
            }
            known => known,
        };
        match kind {
            FileType::Symlink => match self.links {
                Links::Send => self.link(entry).map(|()| None),
                Links::Follow => self.open(entry, true),
                Links::Ignore => {
                    self.skip(entry.path, "a link");
                    Ok(None)
                }
            },
            FileType::RegularFile | FileType::Directory => {
                let opened = self.open(entry, false)?;
                if let Some((_, stat)) = &opened {
                    self.entry(entry.path, stat, stat.st_mode, 0)?;
                    self.totals.folders = self.totals.folders.saturating_add(1);
                    self.note(What::Enter, &Identity::of(stat), None, entry.name.to_bytes())?;
                }
                Ok(opened)
            }
            _ => {
                self.skip(entry.path, "not a file, folder or link");
                Ok(None)
            }
        }
    }

    fn leave(&mut self, path: &[u8], stat: &Stat) -> Result<(), End> {
        self.entry(path, stat, stat.st_mode, 0)?;
        self.note(What::Leave, &Identity::of(stat), None, filecopy::beneath::parent(path).1)
    }

    fn unreadable(&mut self, path: &[u8], error: Errno) -> End {
        failed(path, error)
    }
}

fn time(seconds: i64, nanoseconds: i64) -> Time {
    // The wire has the low 32 bits.
    let low = u32::try_from(seconds & 0xffff_ffff).unwrap_or(0);
    Time { seconds: low, nanoseconds: u32::try_from(nanoseconds).unwrap_or(0) }
}

fn failed(path: &[u8], error: Errno) -> End {
    End::Failed(CannotSend::File { path: path.to_vec(), error })
}

fn misused(path: &[u8], error: Misused) -> End {
    let path = path.to_vec();
    End::Failed(match error {
        Misused::Name => CannotSend::Name(path),
        error => CannotSend::Entry { path, error },
    })
}

/// Says a line, whatever stands on the terminal.
pub(crate) fn complain(program: &str, text: impl Display) {
    for line in text.to_string().lines() {
        say::error(format_args!("{program}: {line}"));
    }
}
