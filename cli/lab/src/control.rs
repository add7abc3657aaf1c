//! What is said on a lab's control socket: JSON lines, with three descriptors beside the request to run a command.
//!
//! Only the owner of the lab can reach the socket (its folder is private), so this is plain plumbing, not a defence.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use super::Error;

/// A request line may not be longer than this: room for the largest environment that execve takes, as JSON numbers.
const LINE_LIMIT: usize = 16 << 20;

/// Standard input, output and error.
const STDIO: usize = 3;

/// A program of a machine that can be started anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The VM's `qrexec-agent`.
    Agent,
    /// dom0's `qrexec-daemon` for the VM.
    Daemon,
    /// The stand-in for the VM's kernel, where its USB devices are simulated.
    Usb,
}

/// A part that has ended and was not started again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PartEnd {
    pub(super) part: Part,
    /// The VM whose agent it was, or for which dom0 had it.
    pub(super) vm: String,
    /// Its exit code; 128 + n for a signal.
    pub(super) code: i32,
}

impl PartEnd {
    /// The machine in which it ran.
    pub(super) fn machine(&self) -> &str {
        match self.part {
            Part::Agent | Part::Usb => &self.vm,
            Part::Daemon => super::DOM0,
        }
    }
}

/// Bytes of the operating system, which need not be UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Bytes(Vec<u8>);

impl From<OsString> for Bytes {
    fn from(text: OsString) -> Self {
        Self(text.into_vec())
    }
}

impl Bytes {
    pub(super) fn os(&self) -> &std::ffi::OsStr {
        std::ffi::OsStr::from_bytes(&self.0)
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) vm: String,
    pub(super) argv: Vec<Bytes>,
    pub(super) env: Vec<(Bytes, Bytes)>,
    pub(super) cwd: Option<PathBuf>,
    /// The caller's process group, which a command joins where the supervisor can see it.
    pub(super) group: i32,
    /// The command's standard input is a terminal that is to be its own.
    #[serde(default)]
    pub(super) terminal: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Request {
    Run(Run),
    Signal(i32),
    Restart {
        vm: String,
        part: Part,
    },
    /// Which parts have ended?
    Ended,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Answer {
    /// The command ended: its exit code, 128 + n for a signal.
    Exited(i32),
    /// A restarted part is ready.
    Ready,
    /// The parts that have ended.
    Ended(Vec<PartEnd>),
    /// Why not, and the exit code that says so.
    Failed { code: i32, why: String },
}

fn line_of(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// The requesting side.
#[derive(Debug)]
pub(super) struct ControlClient {
    stream: BufReader<UnixStream>,
}

impl ControlClient {
    pub(super) fn connect(path: &Path) -> Result<Self, Error> {
        let connected = engine::unix::connect(path).map(UnixStream::from).and_then(|stream| {
            stream.set_nonblocking(false)?;
            Ok(stream)
        });
        let stream = connected.map_err(|e| Error::io("the lab does not answer", e))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends a request; the descriptors, if any, become the command's standard streams.
    pub(super) fn send(&mut self, request: &Request, stdio: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let lost = |error: io::Error| Error::io("the lab went away", error);
        let line = line_of(request).map_err(lost)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STDIO))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !stdio.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(stdio));
        }
        let stream = self.stream.get_mut();
        let sent = sendmsg(&*stream, &[IoSlice::new(&line)], &mut ancillary, SendFlags::NOSIGNAL);
        let sent = sent.map_err(|e| lost(e.into()))?;
        stream.write_all(line.get(sent..).unwrap_or_default()).map_err(lost)
    }

    /// Waits for the next answer.
    pub(super) fn answer(&mut self) -> Result<Answer, Error> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line).map_err(|e| Error::io("the lab went away", e))?;
        if read == 0 {
            return Err(Error::new("the lab ended"));
        }
        serde_json::from_str(&line).map_err(|e| Error::io("the lab answers nonsense", io::Error::from(e)))
    }
}

impl AsFd for ControlClient {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.get_ref().as_fd()
    }
}

/// The supervisor's side of one connection. Never blocks.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    inbox: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, inbox: Vec::new(), fds: VecDeque::new() })
    }

    /// Takes in what has arrived; returns the complete requests. `None`: the caller is gone or talks nonsense.
    pub(super) fn receive(&mut self) -> Option<Vec<Request>> {
        let mut buffer = [0u8; 16 << 10];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STDIO))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [io::IoSliceMut::new(&mut buffer)];
        let got = match recvmsg(&self.stream, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => message.bytes,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Some(Vec::new()),
            Err(_) => return None,
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        if got == 0 || self.inbox.len() > LINE_LIMIT || self.fds.len() > STDIO {
            return None;
        }
        self.inbox.extend_from_slice(buffer.get(..got)?);
        self.lines()
    }

    fn lines(&mut self) -> Option<Vec<Request>> {
        let mut requests = Vec::new();
        while let Some(end) = self.inbox.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.inbox.drain(..=end).collect();
            requests.push(serde_json::from_slice(&line).ok()?);
        }
        Some(requests)
    }

    /// The three descriptors that came with the last request to run.
    pub(super) fn take_stdio(&mut self) -> Option<[OwnedFd; STDIO]> {
        let fds: Vec<OwnedFd> = self.fds.drain(..).collect();
        fds.try_into().ok()
    }

    /// Answers. An answer is a short line, the only one underway, so a socket that does not take it is a lost caller.
    pub(super) fn send(&mut self, answer: &Answer) -> io::Result<()> {
        self.stream.write_all(&line_of(answer)?)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (ControlClient, Connection) {
        let (left, right) = UnixStream::pair().unwrap();
        (ControlClient { stream: BufReader::new(left) }, Connection::new(right).unwrap())
    }

    #[test]
    fn a_run_request_arrives_with_its_streams() {
        let (mut client, mut connection) = pair();
        let odd = OsString::from_vec(vec![b'a', 0xff]);
        let run = Run {
            vm: "work".into(),
            argv: vec![odd.clone().into()],
            env: vec![(OsString::from("A").into(), odd.clone().into())],
            cwd: None,
            group: 7,
            terminal: false,
        };
        let file = std::fs::File::open("/dev/null").unwrap();
        client.send(&Request::Run(run), &[file.as_fd(), file.as_fd(), file.as_fd()]).unwrap();
        let requests = connection.receive().unwrap();
        let [Request::Run(run)] = requests.as_slice() else { panic!("{requests:?}") };
        assert_eq!(run.argv.first().unwrap().os(), odd);
        assert!(connection.take_stdio().is_some());
        assert!(connection.take_stdio().is_none());
    }

    #[test]
    fn answers_come_back_and_an_end_is_an_error() {
        let (mut client, mut connection) = pair();
        connection.send(&Answer::Exited(3)).unwrap();
        assert_eq!(client.answer().unwrap(), Answer::Exited(3));
        drop(connection);
        assert!(client.answer().is_err());
    }

    #[test]
    fn nonsense_ends_the_connection() {
        let (mut client, mut connection) = pair();
        client.stream.get_mut().write_all(b"{}\n").unwrap();
        assert!(connection.receive().is_none());
    }
}
