//! One question to `qubesd`, which manages the qubes of a real system.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use wire::names::Target;

/// The folder of its sockets; `QREXEC_QUBESD_DIR` names another.
const FOLDER: &str = "/run";

/// A socket of `qubesd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    /// The one of the administrative methods.
    Admin,
    /// Where it answers to `internal.` methods.
    Internal,
}

impl Socket {
    /// Where it is.
    #[must_use]
    pub fn path(self) -> PathBuf {
        let folder = std::env::var_os("QREXEC_QUBESD_DIR").filter(|folder| !folder.is_empty());
        PathBuf::from(folder.unwrap_or_else(|| FOLDER.into())).join(match self {
            Self::Admin => "qubesd.sock",
            Self::Internal => "qubesd.internal.sock",
        })
    }
}

/// Longest answer that is read, in bytes: a system of thousands of qubes.
const MAX_ANSWER: u64 = 16 << 20;

/// Why `qubesd` did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be reached or hung up early.
    #[error("talking to qubesd: {0}")]
    Io(#[from] io::Error),
    /// It says that it cannot.
    #[error("qubesd refused: {}", wire::escape::Escaped::new(.0))]
    Refused(Vec<u8>),
    /// It answered something else.
    #[error("qubesd gave an answer that makes no sense")]
    Nonsense,
}

/// Calls an administrative method without argument on a qube; gives what it answers.
///
/// # Errors
/// It cannot be reached, refuses, or answers nonsense.
pub fn call(socket: &Path, method: &str, qube: &Target, payload: &[u8]) -> Result<Vec<u8>, Error> {
    let (kind, name) = match qube.keyword() {
        Some(keyword) => ("keyword", keyword),
        None => ("name", qube.as_str()),
    };
    let mut stream = UnixStream::from(ring::unix::connect(socket)?);
    stream.write_all(format!("{method}+ dom0 {kind} {name}\0").as_bytes())?;
    stream.write_all(payload)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    match answer.split_at_checked(2) {
        Some((b"0\0", content)) => Ok(content.to_vec()),
        Some((b"2\0", reason)) => Err(Error::Refused(reason.to_vec())),
        _ => Err(Error::Nonsense),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    fn asked(qube: &str, expected: &'static [u8], answer: &'static [u8]) -> Result<Vec<u8>, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qubesd.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let qubesd = thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            client.read_to_end(&mut request).unwrap();
            assert_eq!(request, expected);
            client.write_all(answer).unwrap();
        });
        let result = call(&path, "admin.vm.Kill", &Target::new(qube).unwrap(), b"");
        qubesd.join().unwrap();
        result
    }

    #[test]
    fn questions_and_answers() {
        let done = asked("work", b"admin.vm.Kill+ dom0 name work\0", b"0\0done");
        assert_eq!(done.unwrap(), b"done");
        let refused = asked("@dispvm", b"admin.vm.Kill+ dom0 keyword dispvm\0", b"2\0QubesException\0\0no\0");
        assert_eq!(refused.unwrap_err().to_string(), "qubesd refused: QubesException\\x00\\x00no\\x00");
        assert!(matches!(asked("work", b"admin.vm.Kill+ dom0 name work\0", b""), Err(Error::Nonsense)));
    }
}
