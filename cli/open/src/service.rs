//! `qubes.OpenInVM` and `qubes.OpenURL`: what another qube has sent is opened here.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use engine::say;
use run::children::Children;
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};
use wire::escape::Escaped;
use wire::names::{DomainName, NameError};

use crate::opener;

/// The name, padded with NUL.
const HEADER: usize = 256;
/// In front of the name of a file that is only to be looked at.
pub(crate) const VIEW_ONLY: &[u8] = b"view-only-";
/// The largest file that is taken, in bytes.
pub(crate) const MAX_FILE: u64 = 4 << 30;
/// The longest address, in bytes.
pub(crate) const MAX_URL: usize = 65_535;

const FILE: &str = "qubes.OpenInVM";
const URL: &str = "qubes.OpenURL";

/// What went wrong with what the caller sent.
const WRONG: i32 = 1;

/// The service that opens a file and sends it back if it was changed.
pub fn file_main(_: Vec<OsString>) -> i32 {
    serve_file().unwrap_or_else(|error| {
        say::error(format_args!("{FILE}: {error}"));
        WRONG
    })
}

/// Why a file was not opened, or not sent back. The text is for stderr.
#[derive(Debug, thiserror::Error)]
enum OpenFileError {
    #[error("QREXEC_REMOTE_DOMAIN: {0}")]
    Source(#[from] NameError),
    #[error("{what}: {error}")]
    Io { what: &'static str, error: io::Error },
    #[error("the name of the file is cut short")]
    CutName,
    #[error("filename contains /")]
    Slash,
    #[error("the file has no name")]
    NoName,
    #[error("{}: {error}", path.display())]
    Store { path: PathBuf, error: io::Error },
    #[error("the file is larger than {MAX_FILE} bytes")]
    TooLarge,
    #[error("{name} cannot be sent back: {error}")]
    SendBack { name: String, error: io::Error },
}

/// A file as its caller names it.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    /// Harmless in every program's hands.
    name: String,
    view_only: bool,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, OpenFileError> {
        let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        let (name, view_only) = match name.strip_prefix(VIEW_ONLY) {
            Some(rest) => (rest, true),
            None => (name, false),
        };
        if bytes.len() != HEADER || name.len() == HEADER {
            return Err(OpenFileError::CutName);
        }
        if name.contains(&b'/') {
            return Err(OpenFileError::Slash);
        }
        if matches!(name, b"" | b"." | b"..") {
            return Err(OpenFileError::NoName);
        }
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._+@-".contains(byte);
        let name = name.iter().map(|byte| if plain(byte) { char::from(*byte) } else { '_' }).collect();
        Ok(Self { name, view_only })
    }
}

fn serve_file() -> Result<i32, OpenFileError> {
    let failed = |what, error| OpenFileError::Io { what, error };
    let source = std::env::var("QREXEC_REMOTE_DOMAIN").unwrap_or_default();
    let source = DomainName::new(&source)?;
    let mut children = Children::new().map_err(|error| failed("signals", error))?;
    let mut input = Input(&mut children);
    let mut header = Vec::with_capacity(HEADER);
    let read = Read::take(&mut input, HEADER as u64).read_to_end(&mut header);
    read.map_err(|error| failed("reading", error))?;
    let header = Header::read(&header)?;
    let prefix = format!("{}-", source.as_str());
    let mut folder = tempfile::Builder::new();
    folder.prefix(&prefix).permissions(Permissions::from_mode(0o700));
    // Removed on every way out of here; what would end us is taken as an event.
    let folder = folder.tempdir().map_err(|error| failed("a folder for the file", error))?;
    let path = folder.path().join(&header.name);
    let before = store(&mut input, &path, header.view_only)?;
    let status = match opener::open_file(&mut children, &path) {
        Ok(status) => status,
        Err(error) => return Ok(opener::complain(FILE, &error)),
    };
    if let Some(told) = children.told() {
        return Ok(told);
    }
    if status != 0 {
        say::error(format_args!("{FILE}: the program that opens {} ended with {status}", header.name));
    }
    if !header.view_only {
        send_back(&path, &header.name, before)?;
    }
    Ok(status)
}

/// Stdin, until we are told to end.
struct Input<'a>(&'a mut Children);

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.wait_for(&[rustix::stdio::stdin().as_fd()])? {
            return Ok(rustix::io::retry_on_intr(|| rustix::io::read(rustix::stdio::stdin(), &mut *buffer))?);
        }
        // Not an interrupted call, which would be made again.
        Err(io::Error::other("told to end"))
    }
}

/// Writes what comes into a new file; its sum.
fn store(from: &mut impl Read, path: &Path, view_only: bool) -> Result<[u8; 32], OpenFileError> {
    let failed = |error| OpenFileError::Store { path: path.to_owned(), error };
    let mut options = File::options();
    options.write(true).create_new(true).mode(if view_only { 0o400 } else { 0o600 });
    let mut file = options.open(path).map_err(failed)?;
    let mut sum = Sum::default();
    let copied = io::copy(&mut from.take(MAX_FILE + 1), &mut Both(&mut file, &mut sum)).map_err(failed)?;
    if copied > MAX_FILE {
        return Err(OpenFileError::TooLarge);
    }
    Ok(sum.value())
}

#[derive(Default)]
struct Sum(Sha256);

impl Sum {
    fn value(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

struct Both<'a>(&'a mut File, &'a mut Sum);

impl Write for Both<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.0.write(bytes)?;
        self.1.0.update(bytes.get(..len).unwrap_or_default());
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Sends the file if it is another one than before. Its content decides: a clock tells nothing about two changes within
/// one of its ticks.
fn send_back(path: &Path, name: &str, before: [u8; 32]) -> Result<(), OpenFileError> {
    let failed = |error| OpenFileError::SendBack { name: name.to_owned(), error };
    let mut file = reopened(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.len() == 0 {
        if before != Sum::default().value() {
            say::error(format_args!("{FILE}: {name} is empty now, which cannot be said: it stays as it was"));
        }
        return Ok(());
    }
    let mut sum = Sum::default();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => break,
            len => sum.0.update(buffer.get(..len).unwrap_or_default()),
        }
    }
    if sum.value() == before {
        return Ok(());
    }
    io::Seek::rewind(&mut file).map_err(failed)?;
    let mut output = io::stdout().lock();
    io::copy(&mut file, &mut output).and_then(|_| output.flush()).map_err(failed)
}

/// The file that has the name now, which may be another one than before, but nothing else than a file.
fn reopened(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// The service that opens an address.
pub fn url_main(_: Vec<OsString>) -> i32 {
    let mut children = match Children::new() {
        Ok(children) => children,
        Err(error) => return opener::complain(URL, &error),
    };
    let mut line = Vec::new();
    let read = read_line(&mut Input(&mut children), &mut line);
    let url = read.ok().and_then(|()| address(&line));
    let Some(url) = url else {
        say::error("Invalid URL");
        return WRONG;
    };
    let status = opener::open_url(&mut children, OsStr::from_bytes(url));
    status.unwrap_or_else(|error| opener::complain(URL, &error))
}

/// Up to the first newline, or one byte too many.
fn read_line(from: &mut impl Read, line: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let len = from.read(&mut buffer)?;
        let bytes = buffer.get(..len).unwrap_or_default();
        let end = bytes.iter().position(|byte| *byte == b'\n');
        line.extend_from_slice(bytes.get(..end.unwrap_or(len)).unwrap_or_default());
        if len == 0 || end.is_some() || line.len() > MAX_URL {
            return Ok(());
        }
    }
}

/// An address of one of three kinds.
fn address(line: &[u8]) -> Option<&[u8]> {
    let known = ["http://", "https://", "ftp://"];
    let begins = |scheme: &str| {
        line.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes()))
    };
    let clean = line.len() <= MAX_URL && !line.iter().any(u8::is_ascii_control);
    Some(line).filter(|_| clean && known.into_iter().any(begins))
}

/// What a name becomes in a header: its last bytes, where its suffix is.
pub(crate) fn header(name: &[u8], view_only: bool) -> ([u8; HEADER], bool) {
    let (prefix, changed): (&[u8], bool) = match (view_only, name.starts_with(VIEW_ONLY)) {
        (true, _) => (VIEW_ONLY, false),
        // The service would take it for the mark.
        (false, true) => (b"_", true),
        (false, false) => (b"", false),
    };
    let room = (HEADER - 1).saturating_sub(prefix.len());
    let kept = name.get(name.len().saturating_sub(room)..).unwrap_or_default();
    // What is cut must not make a mark of a name either.
    let mut bytes = [0; HEADER];
    for (place, byte) in bytes.iter_mut().zip(prefix.iter().chain(kept)) {
        *place = *byte;
    }
    if !view_only && bytes.starts_with(VIEW_ONLY) {
        bytes[0] = b'_';
    }
    (bytes, changed)
}

/// What a name is shown as.
pub(crate) fn shown(path: &Path) -> String {
    Escaped::new(path.as_os_str().as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn sent(name: &[u8], view_only: bool) -> Header {
        Header::read(&header(name, view_only).0).unwrap()
    }

    #[test]
    fn names_arrive_harmless_and_with_their_suffix() {
        assert_eq!(
            sent("ü b$c.txt".as_bytes(), false),
            Header { name: "___b_c.txt".into(), view_only: false }
        );
        let long = [&[b'n'; 254][..], b".txt"].concat();
        let header = sent(&long, true);
        assert!(header.view_only && header.name.len() == 245 && header.name.ends_with("nn.txt"));
        assert_eq!(sent(&long, false).name.len(), 255);
    }

    #[test]
    fn a_name_that_looks_like_the_mark_is_none() {
        assert_eq!(sent(b"view-only-a", false), Header { name: "_view-only-a".into(), view_only: false });
        assert_eq!(sent(b"view-only-a", true), Header { name: "view-only-a".into(), view_only: true });
        let cut = [&b"x"[..], b"view-only-", &[b'n'; 245]].concat();
        assert!(!sent(&cut, false).view_only);
    }

    #[test]
    fn headers_that_lead_elsewhere_or_are_short_are_refused() {
        for name in [&b"a/b"[..], b"", b".", b"..", b"view-only-", b"view-only-.."] {
            let mut bytes = [0; HEADER];
            bytes[..name.len()].copy_from_slice(name);
            assert!(Header::read(&bytes).is_err(), "{name:?}");
        }
        assert!(Header::read(b"abcde").is_err() && Header::read(&[b'a'; HEADER]).is_err());
    }

    #[test]
    fn addresses_are_of_three_kinds() {
        for good in ["ftp://x", "https://a", "HTTP://EXAMPLE"] {
            assert!(address(good.as_bytes()).is_some(), "{good}");
        }
        for bad in ["javascript:1", "file:///etc/passwd", "http:/x", " http://x", "http://a\x1bb", "http", ""]
        {
            assert!(address(bad.as_bytes()).is_none(), "{bad}");
        }
        let long = [b"http://".as_slice(), &vec![b'a'; MAX_URL]].concat();
        assert!(address(&long).is_none());
        let mut line = Vec::new();
        read_line(&mut &b"http://a\nmore"[..], &mut line).unwrap();
        assert_eq!(line, b"http://a");
    }

    #[test]
    fn what_has_the_name_afterwards_must_be_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        store(&mut &b"x"[..], &path, true).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o400);
        assert!(reopened(&path).is_ok());
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(reopened(&path).is_err());
    }
}
