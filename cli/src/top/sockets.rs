//! The sockets of this machine's daemons and agent, and what is read from them.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use wire::top::{Answer, BESIDE_AGENT, BadAnswer, MAX_ANSWER, SOCKETS};

use crate::failure::Failure;
use crate::{client, client_vm};

/// How long one of them may take.
const LIMIT: Duration = Duration::from_secs(2);
/// Whoever hears nothing was too quick for the agent, and asks again.
const AGAIN: Duration = Duration::from_millis(120);
const TRIES: usize = 5;

/// Where to look.
#[derive(Debug)]
pub(super) struct Places {
    sockets: Vec<PathBuf>,
    folder: Option<PathBuf>,
    /// What to say where there is none.
    looked: String,
}

/// What all of them said at one moment.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) answers: Vec<Answer>,
    /// Those that could not be read, and why.
    pub(super) unread: Vec<String>,
}

/// Why one of them could not be read.
#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error(transparent)]
    Bad(#[from] BadAnswer),
    #[error("{0}")]
    Failed(#[from] io::Error),
    #[error("it says nothing")]
    Nothing,
}

/// The sockets that were named; else the agent's, the daemons', or both, wherever this machine says that they are.
pub(super) fn places(named: &[PathBuf]) -> Places {
    if !named.is_empty() {
        let looked = "none of these sockets can be read".to_owned();
        return Places { sockets: named.to_vec(), folder: None, looked };
    }
    let told = (client_vm::own::told_socket(), client::own::told_folder());
    let (agent, folder) = match told {
        // Who was told of neither may be anywhere.
        (None, None) => (Some(client_vm::own::SOCKET.into()), Some(client::own::SOCKET_DIR.into())),
        told => told,
    };
    let sockets: Vec<PathBuf> = agent.iter().map(|agent| beside(agent)).collect();
    let shown = |path: &PathBuf| path.display().to_string();
    let looked: Vec<String> = sockets
        .iter()
        .map(shown)
        .chain(folder.iter().map(|folder| format!("{}/{SOCKETS}*", folder.display())))
        .collect();
    let looked = format!("neither an agent nor a daemon can be asked here: no {}", looked.join(", no "));
    Places { sockets, folder, looked }
}

fn beside(agent: &Path) -> PathBuf {
    let mut path = agent.as_os_str().to_owned();
    path.push(BESIDE_AGENT);
    path.into()
}

/// The daemons' sockets in a folder.
fn of_daemons(folder: &Path) -> Vec<PathBuf> {
    let is_one = |name: &str| name.strip_prefix(SOCKETS).is_some_and(|id| id.parse::<u32>().is_ok());
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_one))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

impl Sample {
    /// Reads all of them, one after the other.
    ///
    /// # Errors
    /// None can be read.
    pub(super) fn take(places: &Places) -> Result<Self, Failure> {
        let mut sample = Self { at: Instant::now(), answers: Vec::new(), unread: Vec::new() };
        let daemons = places.folder.iter().flat_map(|folder| of_daemons(folder));
        for path in places.sockets.iter().cloned().chain(daemons) {
            match read(&path) {
                Ok(answer) => sample.answers.push(answer),
                // There is none, or its program has just ended.
                Err(Unread::Failed(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => sample.unread.push(format!("{}: {error}", path.display())),
            }
        }
        if sample.answers.is_empty() {
            let why = sample.unread.first().cloned().unwrap_or_else(|| places.looked.clone());
            return Err(Failure { status: 1, message: why });
        }
        Ok(sample)
    }
}

fn read(path: &Path) -> Result<Answer, Unread> {
    for _ in 0..TRIES {
        let bytes = hear(path)?;
        if !bytes.is_empty() {
            return Ok(Answer::decode(&bytes)?);
        }
        std::thread::sleep(AGAIN); // who answers lets each user ask ten times a second, and does not say when again
    }
    Err(Unread::Nothing)
}

/// All that it says, which is no more than it may say and takes no longer than it may.
fn hear(path: &Path) -> io::Result<Vec<u8>> {
    let until = Instant::now() + LIMIT;
    let mut socket = UnixStream::from(engine::unix::connect_within(path, LIMIT)?);
    let mut heard = Vec::new();
    let mut part = [0; 8192];
    while heard.len() <= MAX_ANSWER {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        match socket.read(&mut part) {
            Ok(0) => break,
            Ok(count) => heard.extend_from_slice(part.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(heard)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Reads a socket whose other side says these things, one for each connection.
    fn said(words: &'static [&'static [u8]]) -> Result<Answer, Unread> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qrexec-top.1");
        let listener = UnixListener::bind(&path).unwrap();
        let other = std::thread::spawn(move || {
            for word in words {
                let (mut peer, _) = listener.accept().unwrap();
                // A reader who has had enough goes.
                let _ = peer.write_all(word);
            }
        });
        let read = read(&path);
        other.join().unwrap();
        read
    }

    #[test]
    fn whoever_was_too_quick_asks_again() {
        let answer = said(&[b"", b"", b"qrexec-top 1 work\nend 0\n"]).unwrap();
        assert_eq!((answer.machine.as_str(), answer.rows.len()), ("work", 0));
    }

    #[test]
    fn what_a_hostile_socket_says_is_refused() {
        assert!(matches!(said(&[b"\x1b[2J"]), Err(Unread::Bad(BadAnswer::Greeting))));
        assert!(matches!(said(&[b"qrexec-top 1 work\n"]), Err(Unread::Bad(BadAnswer::Cut))));
        assert!(matches!(said(&[&[b'x'; 1 << 20]]), Err(Unread::Bad(BadAnswer::TooLong))));
    }

    #[test]
    fn of_a_folder_only_what_daemons_make() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["qrexec-top.3", "qrexec-top.12", "qrexec-top.x", "qrexec.3", "qrexec-top."] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let found = of_daemons(folder.path());
        assert_eq!(found, [folder.path().join("qrexec-top.12"), folder.path().join("qrexec-top.3")]);
        assert!(of_daemons(&folder.path().join("none")).is_empty());
    }

    #[test]
    fn nothing_that_can_be_read_is_said_in_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places {
            sockets: vec![folder.path().join("agent.top")],
            folder: Some(folder.path().into()),
            looked: "none".to_owned(),
        };
        let failure = Sample::take(&places).unwrap_err();
        assert_eq!((failure.status, failure.message.as_str()), (1, "none"));
    }
}
