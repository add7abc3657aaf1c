//! The streams of one call of protocol 1, in the agent itself.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use engine::exec::{ExecError, Prepared, Services, StderrLog};
use engine::localfd::{Direction, LocalFd};
use engine::process::Child;
use wire::command::CommandKind;
use wire::r2::Stream;

use super::entrance::Caller;
use crate::job::Task;

/// Where error output goes.
#[derive(Debug)]
pub(crate) enum Errors {
    /// To dom0: a command's, and a caller's.
    ToDom0,
    /// Into this VM's log: a service's. In R2 the program that started services did that.
    Logged(File),
}

/// One call's streams and its process.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) stdin: Option<LocalFd>,
    pub(crate) outputs: [Option<LocalFd>; 2],
    pub(crate) errors: Errors,
    pub(crate) child: Option<Child>,
}

impl Call {
    /// Starts what a command line names.
    pub(crate) fn start(services: &Services, command: &[u8]) -> Result<Self, ExecError> {
        let Task { user, kind, config, .. } = Task::new(services, command)?;
        let mut prepared = services.prepare(&kind, &config)?;
        match &mut prepared {
            // Programs of R1 and R2 expect pipes.
            Prepared::Executable(what) => what.pipes = true,
            Prepared::Socket(path, _) => return Err(ExecError::NoService(path.clone())),
            Prepared::Tcp(address, _) => return Err(ExecError::NoService(address.to_string().into())),
        }
        let started = services.start(&prepared, user.as_deref(), engine::exec::Stderr::Piped)?;
        let errors = match &kind {
            CommandKind::Service(call) => {
                let log = StderrLog::new(call, services.installation).open().map_err(ExecError::Streams)?;
                Errors::Logged(log.into())
            }
            CommandKind::Shell(_) => Errors::ToDom0,
        };
        let adopt = |fd, direction| LocalFd::adopt(fd, direction).ok();
        Ok(Self {
            stdin: adopt(started.stdin, Direction::Out),
            outputs: [
                adopt(started.stdout, Direction::In),
                started.stderr.and_then(|stderr| adopt(stderr, Direction::In)),
            ],
            errors,
            child: started.child,
        })
    }

    /// A caller of this VM: what it writes is sent, and what arrives is written to it.
    pub(crate) fn of_caller(caller: Caller) -> Self {
        let [reads, writes, errors] = caller.streams;
        let adopt = |fd: OwnedFd, direction| LocalFd::adopt(fd, direction).ok();
        Self {
            stdin: adopt(reads, Direction::Out),
            outputs: [adopt(writes, Direction::In), adopt(errors, Direction::In)],
            errors: Errors::ToDom0,
            child: None,
        }
    }

    /// One of its outputs.
    pub(crate) fn output(&mut self, stream: Stream) -> &mut Option<LocalFd> {
        let [stdout, stderr] = &mut self.outputs;
        match stream {
            Stream::Stdout => stdout,
            Stream::Stderr => stderr,
        }
    }

    /// Whether this stream is for dom0; otherwise the bytes were written into the log.
    pub(crate) fn is_for_dom0(&mut self, stream: Stream, bytes: &[u8]) -> bool {
        match (stream, &mut self.errors) {
            (Stream::Stderr, Errors::Logged(log)) => {
                // A log that cannot be written must not stop a service.
                let _ = log.write_all(bytes);
                false
            }
            _ => true,
        }
    }
}

/// Input of a call that has ended, which is still to be written.
#[derive(Debug)]
pub(crate) struct Rest {
    pub(crate) to: LocalFd,
    bytes: Vec<u8>,
    written: usize,
}

impl Rest {
    pub(crate) fn new(to: LocalFd, bytes: Vec<u8>) -> Self {
        Self { to, bytes, written: 0 }
    }

    /// How many bytes are left.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len().saturating_sub(self.written)
    }

    /// Writes what can be written. `true`: nothing is left to do.
    pub(crate) fn write(&mut self) -> bool {
        loop {
            let bytes = self.bytes.get(self.written..).unwrap_or_default();
            if bytes.is_empty() {
                return true;
            }
            match self.to.write(bytes) {
                Ok(n) => self.written = self.written.saturating_add(n),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return true,
            }
        }
    }
}

impl AsFd for Rest {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.to.as_fd()
    }
}
