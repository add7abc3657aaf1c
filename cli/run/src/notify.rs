//! `qubes.NotifyUpdates`, `qubes.FeaturesRequest`, `qubes.NotifyTools`: dom0's services that pass a qube's word on to
//! `qubesd`, which knows what to make of it.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cli::qubesd::Socket;
use engine::say;
use wire::escape::Escaped;
use wire::names::{DomainName, NameError};

/// The service whose caller says something: a number.
const UPDATES: &str = "qubes.NotifyUpdates";

/// Longest number that is read, with blanks around it, in bytes.
const MAX_NUMBER: u64 = 32;

/// How long an answer is waited for.
const LIMIT: Duration = Duration::from_secs(60);

/// The program; its own name is the service.
pub fn main(args: Vec<OsString>) -> i32 {
    let called = args.first().map(Path::new).and_then(Path::file_name).and_then(|name| name.to_str());
    let service = called.unwrap_or_default();
    let source = std::env::var("QREXEC_REMOTE_DOMAIN").unwrap_or_default();
    match pass_on(service, &source) {
        Ok(()) => 0,
        Err(error) => {
            say::error(format_args!("{service}: {error}"));
            1
        }
    }
}

/// Why nothing was passed on. The text is for stderr.
#[derive(Debug, thiserror::Error)]
enum NotPassedOn {
    #[error("QREXEC_REMOTE_DOMAIN: {0}")]
    Source(NameError),
    #[error("{}: {error}", path.display())]
    Qubesd { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Input(io::Error),
    #[error("not a number: {}", Escaped::new(.0))]
    NoNumber(Vec<u8>),
}

fn pass_on(service: &str, source: &str) -> Result<(), NotPassedOn> {
    let source = DomainName::new(source).map_err(NotPassedOn::Source)?;
    let word = if service == UPDATES { number(io::stdin())? } else { Vec::new() };
    let path = Socket::Admin.path().with_file_name("qubesd.misc.sock");
    let told = |error| NotPassedOn::Qubesd { path: path.clone(), error };
    let connected = engine::unix::connect_within(&path, LIMIT).map_err(told)?;
    tell(UnixStream::from(connected), &format!("{service}+ {} name dom0\0", source.as_str()), &word)
        .map_err(told)
}

/// A number of updates: digits, and blanks that nobody means.
fn number(from: impl Read) -> Result<Vec<u8>, NotPassedOn> {
    let mut bytes = Vec::new();
    from.take(MAX_NUMBER + 1).read_to_end(&mut bytes).map_err(NotPassedOn::Input)?;
    let word = bytes.trim_ascii();
    if bytes.len() as u64 > MAX_NUMBER || word.is_empty() || !word.iter().all(u8::is_ascii_digit) {
        return Err(NotPassedOn::NoNumber(bytes));
    }
    Ok(word.to_vec())
}

fn tell(mut qubesd: UnixStream, head: &str, word: &[u8]) -> io::Result<()> {
    qubesd.set_nonblocking(false)?;
    qubesd.set_read_timeout(Some(LIMIT))?;
    qubesd.set_write_timeout(Some(LIMIT))?;
    qubesd.write_all(head.as_bytes())?;
    qubesd.write_all(word)?;
    qubesd.shutdown(Shutdown::Write)?;
    let mut answer = [0; 2];
    qubesd.read_exact(&mut answer)?;
    if answer == *b"0\0" { Ok(()) } else { Err(io::Error::other("qubesd refused")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_number_is_passed_on() {
        assert_eq!(number(&b" 12\n"[..]).unwrap(), b"12");
        for bad in [&b""[..], b"\n", b"-1", b"1 2", b"0x1", b"\x1b", &[b'1'; 33], "１".as_bytes()] {
            assert!(number(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_answer_other_than_good_is_a_failure() {
        for (answer, good) in
            [(&b"0\0"[..], true), (b"2\0QubesException\0", false), (b"0", false), (b"", false)]
        {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let qubesd = std::thread::spawn(move || {
                let mut asked = Vec::new();
                theirs.read_to_end(&mut asked).unwrap();
                theirs.write_all(answer).unwrap();
                asked
            });
            assert_eq!(tell(ours, "a+ work name dom0\0", b"1").is_ok(), good, "{answer:?}");
            assert_eq!(qubesd.join().unwrap(), b"a+ work name dom0\x001");
        }
    }
}
