//! One question to `qubesd`, which manages the qubes of a real system.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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

    /// How long it may take to answer.
    fn limit(self) -> Duration {
        let seconds = std::env::var("QREXEC_QUBESD_SECONDS").ok().and_then(|text| text.parse().ok());
        match self {
            Self::Admin => WORK_LIMIT,
            Self::Internal => seconds.map_or(INFO_LIMIT, Duration::from_secs),
        }
    }
}

/// Whether there is such a socket at all.
#[must_use]
pub fn is_here(socket: Socket) -> bool {
    socket.path().exists()
}

/// Longest answer that is taken, in bytes: a system of thousands of qubes.
const MAX_ANSWER: usize = 16 << 20;
/// How long `qubesd` may take to tell about the system, unless `QREXEC_QUBESD_SECONDS` says otherwise.
const INFO_LIMIT: Duration = Duration::from_secs(10);
/// How long it may take to start, make or remove a qube.
const WORK_LIMIT: Duration = Duration::from_secs(600);

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
    /// It does not stop to answer.
    #[error("the answer of qubesd is longer than {MAX_ANSWER} bytes")]
    TooLong,
    /// It takes too long.
    #[error("qubesd did not answer within {} s", .0.as_secs())]
    Slow(Duration),
}

/// Calls a method on a qube, `METHOD` or `METHOD+ARGUMENT`; gives what it answers.
///
/// # Errors
/// It cannot be reached, refuses, or answers nonsense, too much or too late.
pub fn call(socket: Socket, method: &str, qube: &Target, payload: &[u8]) -> Result<Vec<u8>, Error> {
    call_at(&socket.path(), socket.limit(), method, qube, payload)
}

fn call_at(
    socket: &Path,
    limit: Duration,
    method: &str,
    qube: &Target,
    payload: &[u8],
) -> Result<Vec<u8>, Error> {
    let (kind, name) = match qube.keyword() {
        Some(keyword) => ("keyword", keyword),
        None => ("name", qube.as_str()),
    };
    let connected = engine::unix::connect_within(socket, limit).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => Error::Slow(limit),
        _ => error.into(),
    });
    let mut stream = UnixStream::from(connected?);
    let plus = if method.contains('+') { "" } else { "+" };
    stream.write_all(format!("{method}{plus} dom0 {kind} {name}\0").as_bytes())?;
    stream.write_all(payload)?;
    stream.shutdown(Shutdown::Write)?;
    let answer = read(&stream, limit)?;
    match answer.split_at_checked(2) {
        Some((b"0\0", content)) => Ok(content.to_vec()),
        Some((b"2\0", reason)) => Err(Error::Refused(reason.to_vec())),
        _ => Err(Error::Nonsense),
    }
}

/// Everything up to the end, within the limits of time and size.
fn read(mut stream: &UnixStream, limit: Duration) -> Result<Vec<u8>, Error> {
    let begun = Instant::now();
    let mut answer = Vec::new();
    let mut buffer = [0_u8; 16 * 1024];
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Err(Error::Slow(limit));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(answer),
            Ok(count) => answer.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            // The time is looked at once more.
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            Err(error) => return Err(error.into()),
        }
        if answer.len() > MAX_ANSWER {
            return Err(Error::TooLong);
        }
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
        let result = call_at(&path, WORK_LIMIT, "admin.vm.Kill", &Target::new(qube).unwrap(), b"");
        qubesd.join().unwrap();
        result
    }

    #[test]
    fn a_queue_that_stays_full_is_not_waited_for_beyond_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qubesd.sock");
        let listener = engine::unix::Bound::new(&path, 0o600).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let waiting = std::iter::from_fn(|| engine::unix::connect_nonblocking(&path).ok());
        let waiting: Vec<_> = waiting.take(100).collect();
        assert!(waiting.len() < 100, "the queue is full");
        let limit = Duration::from_millis(20);
        let asked = call_at(&path, limit, "admin.vm.Kill", &Target::new("work").unwrap(), b"");
        assert!(matches!(asked, Err(Error::Slow(_))), "{asked:?}");
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
