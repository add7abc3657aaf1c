//! `qubes-rpc-multiplexer SERVICE SOURCE [TYPE TARGET]`, the old entry: finds a service and runs it
//! on the caller's own streams.
//!
//! What the service says on standard error goes to the caller and to this machine's log.

use std::cell::LazyCell;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use engine::exec::{ExecError, Services, StderrLog, Users};
use engine::process::{Child, EXIT_TROUBLE};
use engine::say;
use ring::{Kind, Transport};
use rustix::pipe::PipeFlags;
use wire::command::{Command, CommandError, CommandKind, ServiceCall};

use crate::options::EXIT_USAGE;

/// Runs it with these arguments, the program's own name first; gives the service's exit status.
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
    let embedded = Transport::from_env().is_ok_and(|transport| transport.kind() != Kind::Xen);
    let log = StderrLog::new(&call, embedded);
    let name = call.service.clone();
    match start(call, embedded) {
        Ok((child, errors)) => finish(child, errors, &log),
        Err(error) => {
            tracing::error!("{name}: {error}");
            error.code()
        }
    }
}

/// The call that the arguments mean. They have the form that follows `QUBESRPC` on a command line.
fn read_call(args: &[OsString]) -> Result<ServiceCall, CommandError> {
    let mut line = b"QUBESRPC".to_vec();
    for arg in args {
        // A blank would make two words of one.
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

fn start(call: ServiceCall, embedded: bool) -> Result<(Child, OwnedFd), ExecError> {
    let services = Services::from_env(Users::session(), embedded);
    let config = services.config(&call.service)?;
    let prepared = services.prepare(&CommandKind::Service(call), &config)?;
    let (errors, theirs) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| ExecError::Streams(error.into()))?;
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), theirs.as_fd()];
    Ok((services.start_on(&prepared, streams)?, errors))
}

/// Copies the error output until it ends, then waits for the service.
fn finish(mut child: Child, errors: OwnedFd, log: &StderrLog) -> i32 {
    // The service holds these two. Whoever is at their other ends must see it end, not us.
    if let Err(error) = engine::localfd::take_stdin_stdout() {
        tracing::warn!("cannot close stdin and stdout: {error}");
    }
    copy(errors, log);
    child.wait().unwrap_or(EXIT_TROUBLE)
}

fn copy(errors: OwnedFd, log: &StderrLog) {
    let mut errors = File::from(errors);
    // Opened when there is something to copy.
    let log = LazyCell::new(|| log.open().ok().filter(is_not_stderr).map(File::from));
    let mut buffer = [0_u8; 4096];
    loop {
        let bytes = match errors.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => buffer.get(..count).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return tracing::warn!("cannot read the service's error output: {error}"),
        };
        // One that nobody reads is no reason to stop the service or the other one.
        let _ = io::stderr().write_all(bytes);
        let _ = log.as_ref().map(|mut log| log.write_all(bytes));
    }
}

/// Without a journal the log is the caller's stream itself, and everything would be there twice.
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
