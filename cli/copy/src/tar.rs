//! `tar2qfile`: the files of a tar archive as a stream, with each parent folder's header once.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wire::filecopy::{Answered, Code, Misused, Sender, Time};

mod sparse;

use crate::agent::{NotConfirmed, judge};
use crate::outlet::{Outlet, Stop};
use crate::sender::complain;
use filecopy::shown::Name;
use sparse::{Piece, Records};

const PROGRAM: &str = "tar2qfile";
const BLOCK: usize = 512;
/// Longest extended header that is looked at.
const EXTENDED_MAX: u64 = 1 << 20;
/// Most that is read behind the end of an archive.
const PADDING_MAX: usize = 64 << 20;

/// `tar2qfile FILE|- [PREFIX…]`
pub fn main(args: Vec<OsString>) -> i32 {
    let words: Vec<OsString> = args.into_iter().skip(1).collect();
    let Some((archive, prefixes)) = words.split_first() else {
        complain(PROGRAM, "usage: tar2qfile FILE|- [PREFIX...]");
        return 1;
    };
    match run(archive, prefixes) {
        Ok(()) => 0,
        Err(error) => {
            complain(PROGRAM, error);
            1
        }
    }
}

fn run(archive: &OsString, prefixes: &[OsString]) -> Result<(), TarError> {
    let (stdin, stdout) = engine::localfd::take_stdin_stdout().map_err(TarError::Io)?;
    let (tar, input): (File, Option<OwnedFd>) = if archive == "-" {
        (File::from(stdin), None)
    } else {
        let file = File::open(archive).map_err(|error| TarError::Open { path: archive.clone(), error })?;
        (file, Some(stdin))
    };
    let answered_here = input.is_some();
    let mut outlet = Outlet::new(input, stdout).map_err(TarError::Io)?;
    let mut reader = Tar { file: tar, outlet: &mut outlet, machine: Sender::default(), folder: Vec::new() };
    let complete = match reader.all(prefixes) {
        Ok(()) => true,
        Err(Failure::Stopped) => false,
        Err(Failure::Wrong(error)) => return Err(error),
    };
    if !answered_here {
        return Err(TarError::NoAnswer);
    }
    let answered = outlet.answer(Duration::from_secs(5), || {}).map_err(TarError::Io)?;
    match &answered {
        // Whoever restores a part says how much it wants by its limit.
        Answered::Whole(answer) if answer.code == Code::QUOTA => Ok(()),
        answered => Ok(judge(answered, outlet.checksum(), complete)?),
    }
}

enum Failure {
    /// The other side has answered, or is gone.
    Stopped,
    Wrong(TarError),
}

/// What went wrong. The text is the line for stderr.
#[derive(Debug, thiserror::Error)]
enum TarError {
    #[error(transparent)]
    Io(io::Error),
    #[error("{}: {error}", Name(path.as_bytes()))]
    Open { path: OsString, error: io::Error },
    #[error("the archive: {0}")]
    Archive(#[from] io::Error),
    #[error("the archive is no tar file")]
    NoTar,
    #[error("the archive has an extended header that is too long")]
    LongHeader,
    #[error("the map of a sparse file is wrong")]
    Map,
    #[error("{}: the map of a sparse file is wrong", Name(.0))]
    MapOf(Vec<u8>),
    #[error("the archive ends in the middle of a file")]
    CutFile,
    #[error("the archive ends too early")]
    Cut,
    #[error(transparent)]
    Stream(#[from] Misused),
    #[error("{}: {error}", Name(path))]
    Entry { path: Vec<u8>, error: Misused },
    #[error("the answer cannot be read: stdin is the archive")]
    NoAnswer,
    #[error(transparent)]
    Answer(#[from] NotConfirmed),
}

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Answered => Self::Stopped,
            Stop::Io(error) => Self::Wrong(TarError::Io(error)),
        }
    }
}

impl<E: Into<TarError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Wrong(error.into())
    }
}

/// What the headers in front of a member say of it.
#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    size: Option<u64>,
    modified: Option<i64>,
    sparse: Records,
}

/// A member that is sent.
struct Member<'a> {
    name: &'a [u8],
    mode: u32,
    modified: i64,
}

struct Tar<'a> {
    file: File,
    outlet: &'a mut Outlet,
    machine: Sender,
    /// The folder whose header was sent last.
    folder: Vec<u8>,
}

impl Tar<'_> {
    fn all(&mut self, prefixes: &[OsString]) -> Result<(), Failure> {
        let mut extended = Extended::default();
        let mut block = [0; BLOCK];
        loop {
            self.file.read_exact(&mut block)?;
            if block.iter().all(|byte| *byte == 0) {
                break;
            }
            let header = Header::read(&block).ok_or(TarError::NoTar)?;
            match header.kind {
                b'x' | b'g' | b'L' if header.size > EXTENDED_MAX => {
                    return Err(TarError::LongHeader.into());
                }
                b'x' => {
                    let text = self.body(header.size)?;
                    extended = pax(&text).ok_or(TarError::Map)?;
                }
                b'L' => {
                    let mut name = self.body(header.size)?;
                    name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
                    extended.path = Some(name);
                }
                b'0' | 0 | b'7' | b'S' => {
                    let said = std::mem::take(&mut extended);
                    self.file(&block, &header, said, prefixes)?;
                }
                _ => {
                    let size = std::mem::take(&mut extended).size.unwrap_or(header.size);
                    self.skip(padded(size))?;
                }
            }
        }
        let mut end = Vec::new();
        self.machine.handle_end(&mut end)?;
        self.outlet.put(&end)?;
        self.outlet.flush()?;
        self.read_on();
        Ok(())
    }

    /// Takes what the writer of the archive puts behind its end: a record is padded, and a writer whose padding nobody
    /// takes ends by SIGPIPE. One that stays silent is not waited for.
    fn read_on(&mut self) {
        let mut padding = vec![0; 64 << 10];
        for _ in 0..PADDING_MAX / padding.len() {
            let fd = PollFd::from_borrowed_fd(self.file.as_fd(), PollFlags::IN);
            let came = poll(&mut [fd], Some(&Timespec { tv_sec: 1, tv_nsec: 0 }));
            if !matches!(came, Ok(1..)) || !matches!(self.file.read(&mut padding), Ok(1..)) {
                return;
            }
        }
    }

    /// A regular file, whole or in pieces, if it is wanted.
    fn file(
        &mut self,
        block: &[u8; BLOCK],
        header: &Header,
        said: Extended,
        prefixes: &[OsString],
    ) -> Result<(), Failure> {
        let name = said.sparse.name.as_ref().or(said.path.as_ref()).unwrap_or(&header.name);
        let (mut stored, modified) =
            (said.size.unwrap_or(header.size), said.modified.unwrap_or(header.modified));
        let member = Member { name, mode: header.mode, modified };
        let wanted = prefixes.is_empty() || prefixes.iter().any(|prefix| name.starts_with(prefix.as_bytes()));
        let map = if header.kind == b'S' {
            Some(sparse::old(block, || self.block())?)
        } else if said.sparse.any && wanted {
            let pieces = said.sparse.pieces(|| self.block())?;
            Some(pieces.zip(said.sparse.real_size).map(|((pieces, taken), real_size)| {
                stored = stored.saturating_sub(taken);
                (pieces, real_size)
            }))
        } else {
            None
        };
        match map {
            _ if !wanted => return self.skip(padded(stored)),
            None => self.member(&member, &[Piece { offset: 0, len: stored }], stored)?,
            Some(Some((pieces, real_size))) if sparse::fit(&pieces, stored, real_size) => {
                self.member(&member, &pieces, real_size)?;
            }
            Some(_) => {
                return Err(TarError::MapOf(name.clone()).into());
            }
        }
        self.skip(padded(stored).saturating_sub(stored))
    }

    fn block(&mut self) -> io::Result<[u8; BLOCK]> {
        let mut block = [0; BLOCK];
        self.file.read_exact(&mut block)?;
        Ok(block)
    }

    /// Sends a file whose content is these pieces of the archive, with zeros between them.
    fn member(&mut self, member: &Member<'_>, pieces: &[Piece], size: u64) -> Result<(), Failure> {
        let name = member.name.strip_prefix(b"./").unwrap_or(member.name);
        // The wire has the low 32 bits of the seconds.
        let low = u32::try_from(member.modified & 0xffff_ffff).unwrap_or(0);
        let times = [Time { seconds: low, nanoseconds: 0 }; 2];
        let mode = member.mode & 0o7777;
        let slashes = name.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for at in slashes {
            let folder = name.get(..at).unwrap_or_default();
            let sent = self.folder == folder
                || self.folder.strip_prefix(folder).is_some_and(|rest| rest.starts_with(b"/"));
            if !folder.is_empty() && !sent {
                self.header(folder, 0o40_000 | mode, 0, times)?;
                self.folder = folder.to_vec();
            }
        }
        self.header(name, 0o100_000 | mode, size, times)?;
        let mut at = 0;
        for piece in pieces {
            self.fill(piece.offset.saturating_sub(at), |_, room| {
                room.fill(0);
                Ok(room.len())
            })?;
            self.fill(piece.len, |file, room| file.read(room))?;
            at = piece.offset.saturating_add(piece.len);
        }
        self.fill(size.saturating_sub(at), |_, room| {
            room.fill(0);
            Ok(room.len())
        })?;
        Ok(self.machine.handle_body(size)?)
    }

    /// Sends so many bytes that `from` gives.
    fn fill(
        &mut self,
        mut left: u64,
        mut from: impl FnMut(&mut File, &mut [u8]) -> io::Result<usize>,
    ) -> Result<(), Failure> {
        while left > 0 {
            let room = self.outlet.room()?;
            let wanted = room.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let given = from(&mut self.file, room.get_mut(..wanted).unwrap_or_default())?;
            if given == 0 {
                return Err(TarError::CutFile.into());
            }
            self.outlet.filled(given);
            left = left.saturating_sub(given as u64);
        }
        Ok(())
    }

    fn header(&mut self, name: &[u8], mode: u32, size: u64, times: [Time; 2]) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        let made = self.machine.handle_entry(name, mode, size, times, &mut bytes);
        made.map_err(|error| TarError::Entry { path: name.to_vec(), error })?;
        Ok(self.outlet.put(&bytes)?)
    }

    fn body(&mut self, size: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file.by_ref().take(padded(size)).read_to_end(&mut bytes)?;
        bytes.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        Ok(bytes)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), Failure> {
        let skipped = io::copy(&mut self.file.by_ref().take(bytes), &mut io::sink())?;
        if skipped == bytes { Ok(()) } else { Err(TarError::Cut.into()) }
    }
}

const fn padded(size: u64) -> u64 {
    size.div_ceil(BLOCK as u64).saturating_mul(BLOCK as u64)
}

/// One member's own header.
#[derive(Debug)]
struct Header {
    name: Vec<u8>,
    mode: u32,
    size: u64,
    modified: i64,
    kind: u8,
}

impl Header {
    /// `None` for what is no header.
    fn read(block: &[u8; BLOCK]) -> Option<Self> {
        let field = |from: usize, len: usize| block.get(from..from.checked_add(len)?);
        let text = |from, len| {
            let field = field(from, len)?;
            Some(field.split(|byte| *byte == 0).next().unwrap_or_default().to_vec())
        };
        let sum: u64 = (0..)
            .zip(block)
            .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) })
            .sum();
        if octal(field(148, 8)?)? != sum {
            return None;
        }
        let mut name = text(345, 155)?;
        // In GNU's own form, whose magic goes on with a blank, times may stand there.
        if field(257, 6)? != b"ustar\0" {
            name.clear();
        }
        if !name.is_empty() {
            name.push(b'/');
        }
        name.extend(text(0, 100)?);
        Some(Self {
            name,
            mode: u32::try_from(octal(field(100, 8)?)?).ok()?,
            size: octal(field(124, 12)?)?,
            // A date that cannot be read is no reason to lose the file.
            modified: date(field(136, 12)?).unwrap_or(0),
            kind: *block.get(156)?,
        })
    }
}

/// A number in octal digits, or in binary where its first bit says so.
fn octal(field: &[u8]) -> Option<u64> {
    if let [first, rest @ ..] = field
        && first & 0x80 != 0
    {
        let start = u64::from(first & 0x3f);
        return rest.iter().try_fold(start, |sum, byte| sum.checked_mul(256)?.checked_add(u64::from(*byte)));
    }
    let digits = field.iter().filter(|byte| !matches!(byte, b' ' | 0));
    digits.copied().try_fold(0_u64, |sum, digit| match digit {
        b'0'..=b'7' => sum.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// A number of seconds, in octal digits or in binary with a sign.
fn date(field: &[u8]) -> Option<i64> {
    match field {
        [first, rest @ ..] if first & 0x80 != 0 => {
            let start = if first & 0x40 != 0 { i64::from(*first) - 256 } else { i64::from(first & 0x3f) };
            rest.iter().try_fold(start, |sum, byte| sum.checked_mul(256)?.checked_add(i64::from(*byte)))
        }
        digits => octal(digits)?.try_into().ok(),
    }
}

/// Seconds of a pax record: a sign and a fraction may be there. A fraction before 1970 belongs to the second below.
fn seconds(text: &[u8]) -> Option<i64> {
    let (whole, fraction) = text.split_at(text.iter().position(|byte| *byte == b'.').unwrap_or(text.len()));
    let number: i64 = std::str::from_utf8(whole).ok()?.parse().ok()?;
    let later = fraction.iter().any(|byte| (b'1'..=b'9').contains(byte));
    Some(number - i64::from(later && whole.starts_with(b"-")))
}

/// Reads `LEN KEY=VALUE\n` lines. `None` if what one says of a sparse file cannot be.
fn pax(mut text: &[u8]) -> Option<Extended> {
    let mut extended = Extended::default();
    while let Some(space) = text.iter().position(|byte| *byte == b' ') {
        let len =
            std::str::from_utf8(text.get(..space).unwrap_or_default()).ok().and_then(|len| len.parse().ok());
        let Some((line, rest)) = len.and_then(|len: usize| text.split_at_checked(len)) else { break };
        let line = line.get(space.saturating_add(1)..).unwrap_or_default();
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let number = |value: &[u8]| {
            let whole = value.split(|byte| *byte == b'.').next().unwrap_or_default();
            std::str::from_utf8(whole).ok()?.parse().ok()
        };
        if let Some(at) = line.iter().position(|byte| *byte == b'=') {
            let value = line.get(at.saturating_add(1)..).unwrap_or_default();
            match line.get(..at).unwrap_or_default() {
                b"path" => extended.path = Some(value.to_vec()),
                b"size" => extended.size = number(value),
                b"mtime" => extended.modified = seconds(value),
                key => {
                    if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                        extended.sparse.take(key, value)?;
                    }
                }
            }
        }
        if rest.len() == text.len() {
            break;
        }
        text = rest;
    }
    Some(extended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        assert_eq!(octal(b"0000644\0"), Some(0o644));
        assert_eq!(octal(&[0x80, 0, 0, 1, 0]), Some(256));
        assert_eq!(octal(&[0xff; 12]), None);
        assert_eq!(octal(b"9"), None);
    }

    #[test]
    fn extended_headers_are_read() {
        let text = b"12 path=a/b\n20 mtime=1234.56789\n11 size=77\n";
        let extended = pax(text).unwrap();
        assert_eq!(extended.path.as_deref(), Some(&b"a/b"[..]));
        assert_eq!((extended.size, extended.modified), (Some(77), Some(1234)));
        for cut in [&b"0 "[..], b"99 path=x"] {
            assert!(pax(cut).unwrap().path.is_none());
        }
        assert!(pax(b"25 GNU.sparse.realsize=x\n").is_none());
    }

    #[test]
    fn dates_may_lie_before_1970() {
        let mut gnu = [0xff; 12];
        gnu[10..].copy_from_slice(&[0x57, 0x40]);
        assert_eq!((date(&gnu), date(b"00000000012 ")), (Some(-43_200), Some(10)));
        assert_eq!((date(b"9"), date(&[0xbf; 12])), (None, None));
        let said = ["-43200", "-43200.5", "-0.5", "7.9", "-43200.000"].map(|text| seconds(text.as_bytes()));
        assert_eq!(said, [-43_200, -43_201, -1, 7, -43_200].map(Some));
        assert_eq!((seconds(b""), seconds(b"now")), (None, None));
    }
}
