//! A program on the caller's side whose stdin and stdout are the service's.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use engine::exec::Started;
use engine::process::{Child, Signals};
use rustix::io::FdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::Signal;
use wire::usbip::Rules;

use crate::failure::Failure;
use crate::status;
use crate::stdio::Streams;

/// Keeps the caller's stderr for the program as well when it is set.
pub(crate) const PASS_STDERR: &str = "PASS_LOCAL_STDERR";

/// What to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalProgram {
    file: PathBuf,
    args: Vec<OsString>,
    env: Vec<(&'static str, OsString)>,
}

impl LocalProgram {
    /// The program in `file`, which is a path and never searched for, with `args` behind its name.
    pub fn new(file: &OsStr, args: Vec<OsString>) -> Self {
        // A name without slash would be looked up in PATH; it means the file in this folder.
        let file =
            if Path::new(file).components().count() == 1 { Path::new(".").join(file) } else { file.into() };
        Self { file, args, env: Vec::new() }
    }

    /// A shell command, as `qrexec-client -l` has it.
    pub fn shell(command: &OsStr) -> Self {
        let bash = Path::new("/bin/bash");
        // With a socket as stdin bash takes itself for the far end of a remote shell and reads ~/.bashrc, whose commands
        // then read what the caller sends and write into what it receives.
        let (shell, no_rc) =
            if bash.exists() { (bash, Some("--norc")) } else { (Path::new("/bin/sh"), None) };
        let words = no_rc.into_iter().chain(["-c"]).map(OsString::from);
        Self { file: shell.into(), args: words.chain([command.to_owned()]).collect(), env: Vec::new() }
    }

    /// Sets a variable for the program.
    pub fn with_env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// Whether the program could be started now: a reason not even to make the call.
    ///
    /// # Errors
    /// Status 127 if it is not there, 125 if it cannot be executed.
    pub fn check(&self) -> Result<(), Failure> {
        let access = rustix::fs::access(&self.file, rustix::fs::Access::EXEC_OK);
        let folder = self.file.is_dir().then_some(Err(rustix::io::Errno::ACCESS));
        folder.unwrap_or(access).map_err(|error| self.failure(&error.into()))
    }

    /// Starts the program with `saved` as its only other descriptors. Its stdin and stdout are sockets, so
    /// that it can ask for one for both directions.
    ///
    /// # Errors
    /// As for [`LocalProgram::check`].
    pub fn start(&self, saved: &SavedStreams) -> Result<LocalEnd, Failure> {
        self.spawn(saved).map_err(|error| self.failure(&error))
    }

    fn spawn(&self, saved: &SavedStreams) -> io::Result<LocalEnd> {
        let (sink, stdin) = pair()?;
        let (source, stdout) = pair()?;
        let mut command = Command::new(&self.file);
        command
            .arg0(self.file.file_name().unwrap_or(self.file.as_os_str()))
            .args(&self.args)
            .stdin(stdin)
            .stdout(stdout)
            .env("QREXEC_AGENT_PID", std::process::id().to_string());
        for (name, value) in &self.env {
            command.env(name, value);
        }
        saved.pass_to(&mut command)?;
        let one_socket = Some(expect_signal()?);
        let child = Some(Child::try_from(command.spawn()?)?);
        Ok(LocalEnd { child, streams: Streams { source, sink: Some(sink) }, one_socket, filter: None })
    }

    /// Becomes the program, on our own streams and with `saved` as its other descriptors. Returns only if that failed.
    pub fn replace(&self, saved: &SavedStreams) -> Failure {
        let mut command = Command::new(&self.file);
        command.arg0(self.file.file_name().unwrap_or(self.file.as_os_str())).args(&self.args);
        match saved.pass_to(&mut command) {
            Ok(()) => self.failure(&command.exec()),
            Err(error) => self.failure(&error),
        }
    }

    /// What a bare name stands for in a shell, if there is no such file here.
    fn in_path(&self) -> Option<PathBuf> {
        let name = self.file.strip_prefix(".").ok().filter(|_| !self.file.exists())?;
        let folders = std::env::var_os("PATH")?;
        let mut files = std::env::split_paths(&folders).map(|folder| folder.join(name));
        let runs =
            |file: &PathBuf| rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok() && file.is_file();
        files.find(runs)
    }

    fn failure(&self, error: &io::Error) -> Failure {
        let status = match error.kind() {
            io::ErrorKind::NotFound => status::NOT_FOUND,
            _ => status::TROUBLE,
        };
        let hint =
            self.in_path().map(|path| format!("; PROGRAM is not searched for, say {}", path.display()));
        let message = format!("cannot start {}: {error}{}", self.file.display(), hint.unwrap_or_default());
        Failure { status, message }
    }
}

/// What a call is connected to on this side.
#[derive(Debug)]
pub struct LocalEnd {
    /// The process, if it is one that was started for the call.
    pub child: Option<Child>,
    /// The other ends of its stdin and stdout, or our own.
    pub streams: Streams,
    /// Tells that the process asked for one socket, its stdin, for both directions.
    pub one_socket: Option<Signals>,
    /// What passes of the two streams, if they are USB over IP and a service's configuration says so.
    pub filter: Option<Rules>,
}

impl LocalEnd {
    /// A service of this machine, started by `start`.
    ///
    /// # Errors
    /// Those of `start`.
    pub fn service(start: impl FnOnce() -> Result<Started, Failure>) -> Result<Self, Failure> {
        let signals = expect_signal().map_err(Failure::during("signals"))?;
        let Started { stdin, stdout, child, one_socket, filter, .. } = start()?;
        let one_socket = one_socket.then_some(signals);
        Ok(Self { child, streams: Streams { source: stdout, sink: Some(stdin) }, one_socket, filter })
    }
}

impl From<Streams> for LocalEnd {
    /// The streams of whoever started us.
    fn from(streams: Streams) -> Self {
        Self { child: None, streams, one_socket: None, filter: None }
    }
}

/// A program asks for one socket for both directions by sending SIGUSR1 to `QREXEC_AGENT_PID`, which is
/// us: from now on that does not end us, and the pump hears of it.
fn expect_signal() -> io::Result<Signals> {
    // Unblocked at the end of the call, a signal that came late would decide how this process ends.
    std::mem::forget(Signals::block(&[Signal::USR1])?);
    Signals::block(&[Signal::USR1])
}

/// The caller's own streams, which a program finds in `SAVED_FD_0`, `SAVED_FD_1` and perhaps `SAVED_FD_2`.
#[derive(Debug, Default)]
pub struct SavedStreams {
    copies: Vec<(u8, OwnedFd)>,
}

impl SavedStreams {
    /// Copies the streams. To be done before anything else is opened: `>&$SAVED_FD_1` works in every shell
    /// only while the number has one digit.
    ///
    /// # Errors
    /// One of the streams is closed, or the process is out of descriptors.
    pub fn take() -> io::Result<Self> {
        let mut copies = vec![(0, copy(rustix::stdio::stdin())?), (1, copy(rustix::stdio::stdout())?)];
        if std::env::var_os(PASS_STDERR).is_some() {
            copies.push((2, copy(rustix::stdio::stderr())?));
        }
        Ok(Self { copies })
    }

    /// Tells a program of them.
    fn pass_to(&self, command: &mut Command) -> io::Result<()> {
        for (number, copy) in &self.copies {
            command.env(format!("SAVED_FD_{number}"), copy.as_raw_fd().to_string());
            rustix::io::fcntl_setfd(copy, FdFlags::empty())?;
        }
        Ok(())
    }
}

/// The lowest free number behind the standard streams; closed on exec until the program is started.
fn copy(stream: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(stream, 3)?)
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_a_file_here_and_not_in_path() {
        let program = LocalProgram::new(OsStr::new("ls"), vec![]);
        assert_eq!(program.file, Path::new("./ls"));
        let failure = program.check().unwrap_err();
        assert_eq!(failure.status, status::NOT_FOUND);
        assert!(failure.message.contains("PROGRAM is not searched for, say /"), "{}", failure.message);
        let nowhere = LocalProgram::new(OsStr::new("no-such-program"), vec![]).check().unwrap_err();
        assert!(!nowhere.message.contains("searched"), "{}", nowhere.message);
        assert_eq!(LocalProgram::new(OsStr::new("/bin/ls"), vec![]).check(), Ok(()));
        assert_eq!(LocalProgram::new(OsStr::new("a/b"), vec![]).file, Path::new("a/b"));
    }

    #[test]
    fn what_cannot_run_is_seen_before_the_call() {
        for file in ["/etc/passwd", "/tmp"] {
            let failure = LocalProgram::new(OsStr::new(file), vec![]).check();
            assert_eq!(failure.map_err(|f| f.status), Err(status::TROUBLE), "{file}");
        }
    }
}
