//! Coming up: into the background, with a log, and with word to whoever started us.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use engine::process::fork_keeping;
use engine::say;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The log is for administrators and their group.
const LOG_MODE: u32 = 0o660;

/// How a daemon ended, or, told to its parent, how its start ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// As it was told to; its start: the agent is there.
    Ended,
    /// There was no agent in time.
    NoAgent,
    /// Something that a daemon needs is not to be had.
    Failed,
}

impl Outcome {
    /// The exit status that says so.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Ended => 0,
            Self::Failed => 1,
            Self::NoAgent => 3,
        }
    }
}

/// Word to whoever started the daemon, once: how the start ended.
#[derive(Debug)]
pub struct Report {
    to: Starter,
    told: bool,
}

/// Who started the daemon.
#[derive(Debug)]
enum Starter {
    /// A parent that reads the end's number from a pipe.
    Parent(OwnedFd),
    /// Perhaps a service manager, which wants to know no more than that the daemon is ready.
    Manager,
    /// Nobody waits, or it was told.
    Nobody,
}

impl Report {
    /// A report for the service manager, if one waits. Where nobody `waits` for the agent, the start has ended.
    #[must_use]
    pub fn to_manager(waits: bool) -> Self {
        let report = Self { to: Starter::Manager, told: false };
        if waits {
            return report;
        }
        ready();
        Self { to: Starter::Nobody, ..report }
    }

    fn to(pipe: OwnedFd) -> Self {
        Self { to: Starter::Parent(pipe), told: false }
    }

    /// Tells how the start ended, unless that was told before.
    pub fn tell(&mut self, outcome: Outcome) {
        self.told = true;
        match std::mem::replace(&mut self.to, Starter::Nobody) {
            Starter::Parent(pipe) => {
                // Whoever started us may be gone: then nobody wants to know.
                let _ = rustix::io::write(&pipe, &[outcome.code()]);
            }
            Starter::Manager if outcome == Outcome::Ended => ready(),
            Starter::Manager | Starter::Nobody => {}
        }
    }

    /// Whether the start has ended.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.told
    }
}

fn ready() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!("cannot tell the service manager that the daemon is ready: {error}");
    }
}

/// How a daemon goes into the background.
#[derive(Debug, Clone)]
pub struct Background {
    /// The folder of the logs.
    pub log_dir: PathBuf,
    /// The name of the VM, which names the log.
    pub name: String,
    /// Whether the parent waits for the agent.
    pub wait: bool,
    /// Whether the parent says nothing.
    pub quiet: bool,
}

impl Background {
    /// Runs `daemon` in a process of its own session that logs into its file. Gives the exit status
    /// of the parent: at once, or as soon as the daemon's start has ended.
    ///
    /// # Errors
    /// No pipe or process to be had.
    pub fn run(&self, daemon: impl FnOnce(Report) -> Outcome) -> io::Result<u8> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        let _child = fork_keeping(&[writer.as_fd()], || {
            let report = || -> io::Result<Report> {
                self.detach()?;
                // The parent's copy of the descriptor stays what it is: this one is the report's.
                Ok(Report::to(writer.try_clone()?))
            };
            match report() {
                Ok(report) => daemon(report).code().into(),
                Err(error) => {
                    say::error(format_args!("{}: {error}", log_path(&self.log_dir, &self.name).display()));
                    Outcome::Failed.code().into()
                }
            }
        })?;
        drop(writer);
        Ok(if self.wait { self.await_start(&reader) } else { 0 })
    }

    fn detach(&self) -> io::Result<()> {
        let path = log_path(&self.log_dir, &self.name);
        let log = open_log(&path)?;
        rustix::stdio::dup2_stdout(&log)?;
        rustix::stdio::dup2_stderr(&log)?;
        rustix::process::setsid()?;
        Ok(())
    }

    fn await_start(&self, reader: &OwnedFd) -> u8 {
        self.say(format_args!("waiting for the agent of {}\n", self.name));
        let mut code = [0_u8; 1];
        let code = loop {
            match rustix::io::read(reader, &mut code) {
                Ok(1) => break code.first().copied().unwrap_or(1),
                Err(Errno::INTR) => {}
                // It died before it could say anything.
                Ok(_) | Err(_) => break Outcome::Failed.code(),
            }
        };
        let how = match code {
            0 => "connected to the agent",
            3 => "there is no agent within the time for starting up",
            _ => "the daemon could not start, see its log",
        };
        self.say(format_args!("{how}\n"));
        code
    }

    fn say(&self, text: std::fmt::Arguments<'_>) {
        let mut stderr = io::stderr();
        // Words for a person; a start by other programs needs none.
        if !self.quiet && stderr.is_terminal() {
            let _ = stderr.write_fmt(text);
        }
    }
}

/// Opens a log to be appended to. What an earlier daemon has written is kept, and a link is not followed: whoever may make
/// files in the folder must not choose what root writes to.
fn open_log(path: &Path) -> io::Result<File> {
    // Nobody waits for the reader of a pipe, either.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let log = File::options().append(true).create(true).mode(LOG_MODE).custom_flags(flags).open(path)?;
    if !log.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    // The umask took away what the group shall have. A log that somebody else made keeps its mode.
    let _ = log.set_permissions(std::fs::Permissions::from_mode(LOG_MODE));
    Ok(log)
}

/// Where the daemon of a VM logs.
#[must_use]
pub fn log_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("qrexec.{name}.log"))
}

/// Takes standard input away: a daemon reads nothing there, nor do the services that inherit it.
///
/// # Errors
/// There is no `/dev/null`.
pub fn close_stdin() -> io::Result<()> {
    let null = OpenOptions::new().read(true).open("/dev/null")?;
    Ok(rustix::stdio::dup2_stdin(&null)?)
}

/// Raises the limit of open descriptors as far as it goes, for any number of clients. Gives what it
/// was, for the programs that are started here.
#[must_use]
pub fn raise_file_limit() -> Rlimit {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: before.maximum, maximum: before.maximum };
    // Refused, the limit stays as it was, and only fewer clients find room.
    let _ = setrlimit(Resource::Nofile, raised);
    before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_appended_to_and_nothing_but_a_file_of_that_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = log_path(folder.path(), "work");
        for line in ["first\n", "second\n"] {
            open_log(&path).unwrap().write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "first\nsecond\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, LOG_MODE);

        let other = folder.path().join("other");
        std::os::unix::fs::symlink(&path, &other).unwrap();
        assert!(open_log(&other).is_err(), "a link");
        std::fs::remove_file(&other).unwrap();
        std::os::unix::fs::symlink(folder.path().join("nowhere"), &other).unwrap();
        assert!(open_log(&other).is_err() && !folder.path().join("nowhere").exists());
        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let _reader =
            File::options().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(&fifo).unwrap();
        assert!(open_log(&fifo).is_err(), "a pipe");
        assert!(open_log(folder.path()).is_err(), "a folder");
    }
}
