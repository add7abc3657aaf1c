//! `qubes-rpc-multiplexer SERVICE SOURCE [TYPE TARGET]`, an older way to start a service: finds it and runs it on the
//! caller's own streams.
//!
//! The service's error output goes to the caller and to this machine's log.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use engine::Installation;
use engine::exec::{ExecError, Services, StderrLog, Users};
use engine::process::{Child, EXIT_TROUBLE};
use engine::say;
use ring::{Kind, Transport};
use rustix::pipe::PipeFlags;
use wire::command::{Command, CommandError, CommandKind, ServiceCall};

use crate::command_line::EXIT_USAGE;

/// Runs it with these arguments, the program's own name first. Returns the service's exit status.
#[must_use]
pub fn main(args: Vec<OsString>) -> i32 {
    let call = match read_call(args.get(1..).unwrap_or_default()) {
        Ok(call) => call,
        Err(error) => {
            say::error(format_args!("qubes-rpc-multiplexer: {error}"));
            say::error("usage: qubes-rpc-multiplexer SERVICE SOURCE [name|keyword TARGET]");
            return EXIT_USAGE;
        }
    };
    // This program needs no transport, so none may be set; a system has Xen.
    let kind = Transport::from_env().map_or(Kind::Xen, |transport| transport.kind());
    let installation = match Installation::stated(kind) {
        Ok(installation) => installation,
        Err(error) => {
            say::error(format_args!("qubes-rpc-multiplexer: {error}"));
            return EXIT_TROUBLE;
        }
    };
    let name = call.service.clone();
    let copies = match Copies::open(&StderrLog::new(&call, installation)) {
        Ok(copies) => copies,
        Err(error) => {
            say::error(format_args!("qubes-rpc-multiplexer: {error}"));
            return EXIT_TROUBLE;
        }
    };
    match start(call, installation) {
        Ok((child, errors)) => finish(child, errors, copies),
        Err(error) => {
            tracing::error!("{name}: {error}");
            error.code()
        }
    }
}

/// The call in the arguments. They have the form that follows `QUBESRPC` on a command line.
fn read_call(args: &[OsString]) -> Result<ServiceCall, CommandError> {
    let mut line = b"QUBESRPC".to_vec();
    for arg in args {
        // With a blank, one argument would become two words.
        if arg.is_empty() || arg.as_bytes().contains(&b' ') {
            return Err(CommandError::Words);
        }
        line.push(b' ');
        line.extend_from_slice(arg.as_bytes());
    }
    match Command::parse_without_user(&line)?.kind {
        CommandKind::Service(call) => Ok(call),
        CommandKind::Shell(_) => Err(CommandError::Words),
    }
}

fn start(call: ServiceCall, installation: Installation) -> Result<(Child, OwnedFd), ExecError> {
    let services = Services::from_env(Users::session(), installation);
    let config = services.config(&call.service)?;
    let prepared = services.prepare(&CommandKind::Service(call), &config)?;
    let (errors, theirs) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| ExecError::Streams(error.into()))?;
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), theirs.as_fd()];
    Ok((services.start_on(&prepared, streams)?, errors))
}

/// Where the service's error output goes.
struct Copies {
    caller: File,
    /// `None` if both are the same.
    log: Option<File>,
}

impl Copies {
    /// Replaces this process's stderr: the caller at its other end may be in another VM, and messages of this program
    /// are for this machine's log, or for the user of a terminal.
    fn open(log: &StderrLog) -> io::Result<Self> {
        let caller = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3)?;
        let log = log.open().ok().filter(is_not_stderr);
        match &log {
            Some(log) => rustix::stdio::dup2_stderr(log)?,
            None if rustix::termios::isatty(&caller) => {}
            None => rustix::stdio::dup2_stderr(File::options().write(true).open("/dev/null")?)?,
        }
        Ok(Self { caller: caller.into(), log: log.map(File::from) })
    }
}

/// Copies the error output until it ends, then waits for the service.
fn finish(mut child: Child, errors: OwnedFd, copies: Copies) -> i32 {
    // The service holds these two. Their other ends must see them close when the service ends, not when this process
    // does.
    if let Err(error) = engine::localfd::take_stdin_stdout() {
        tracing::warn!("cannot close stdin and stdout: {error}");
    }
    copy(errors, copies);
    child.wait().unwrap_or(EXIT_TROUBLE)
}

fn copy(errors: OwnedFd, mut copies: Copies) {
    let mut errors = File::from(errors);
    let mut buffer = [0_u8; 4096];
    loop {
        let bytes = match errors.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => buffer.get(..count).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return tracing::warn!("cannot read the service's error output: {error}"),
        };
        // If one of the two has no reader, that must not stop the service or the other one.
        let _ = copies.caller.write_all(bytes);
        let _ = copies.log.as_mut().map(|log| log.write_all(bytes));
    }
}

/// Without a journal the log is the caller's stream itself, and everything would appear there twice.
fn is_not_stderr(log: &OwnedFd) -> bool {
    let identity = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
    match (rustix::fs::fstat(log), rustix::fs::fstat(rustix::stdio::stderr())) {
        (Ok(log), Ok(stderr)) => identity(log) != identity(stderr),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<ServiceCall, CommandError> {
        read_call(&args.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn two_or_four_arguments() {
        let call = read(&["test.Add+1", "work"]).expect("fine");
        assert_eq!((call.service.as_str(), call.source.as_str()), ("test.Add+1", "work"));
        assert!(read(&["test.Add+", "work", "name", "dom0"]).expect("fine").requested.is_some());
        for wrong in [&["test.Add"][..], &["a", "b", "name"], &["a", "b c"], &["", "b"], &["a/b", "c"], &[]] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
