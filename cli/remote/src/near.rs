//! The caller's end of a call to a remote qube.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use cli::failure::Failure;
use engine::localfd;
use engine::process::stdout_was_closed;
use wire::remote::frames::{Parser, Piece};
use wire::remote::request::{Layout, Request};
use wire::stream::{Kind, Role};

use crate::bytes::{self, Sink};
use crate::link::{self, Link};
use crate::session::Session;
use crate::{idle, log, master};

/// The service to which dom0 sends a call for a remote qube: its argument is `QUBE+SERVICE+ARGUMENT`, the caller's name is
/// in the environment as for every service.
pub fn service(args: Vec<OsString>) -> i32 {
    let caller = std::env::var_os("QREXEC_REMOTE_DOMAIN").unwrap_or_default();
    let argument = args.get(1).cloned().unwrap_or_default();
    call_remote(caller.as_bytes(), argument.as_bytes())
        .unwrap_or_else(|failure| failure.report("qrexec-remote"))
}

fn call_remote(caller: &[u8], argument: &[u8]) -> Result<i32, Failure> {
    let wanted = || Failure::trouble("the argument of this service is QUBE+SERVICE+ARGUMENT");
    let text = std::str::from_utf8(argument).map_err(|_| wanted())?;
    let (qube, service) = text.split_once('+').ok_or_else(wanted)?;
    let (link, remote) = Link::of_qube(&link::folder()?, qube)?;
    let layout = match link.settings()?.frames {
        true => Layout::Frames,
        false => Layout::Plain,
    };
    let request = Request::new(caller, remote.as_bytes(), service.as_bytes(), layout)
        .map_err(|error| Failure::trouble(error.to_string()))?;
    if !link.has_connection() {
        return call_by_idle_session(&link, &request);
    }
    let session = master::open(&link, &request.command())?;
    match layout {
        Layout::Frames => {
            log::follow(&link, session.stderr);
            framed(link.name(), session.from, session.to)
        }
        Layout::Plain => plain(link.name(), session),
    }
}

/// Makes a call by one of the sessions that wait here.
fn call_by_idle_session(link: &Link, request: &Request) -> Result<i32, Failure> {
    let line = format!("{}\n", request.command());
    let taken = idle::sessions(link).find(|session| bytes::write(session, line.as_bytes()).is_ok());
    let Some(session) = taken else {
        return Err(master::lost(format!("{} has no session that waits for calls", link.name())));
    };
    let back = session.try_clone().map_err(Failure::during("no descriptor left"))?;
    framed(link.name(), session, back)
}

/// Moves the call's bytes as frames until its exit code is there. The process may end then: what still waits for stdin
/// waits in vain.
///
/// # Errors
/// The connection was lost before the exit code came, or the far side broke the rules.
fn framed(link: &str, from: OwnedFd, to: OwnedFd) -> Result<i32, Failure> {
    let (source, mut stdout, mut stderr) = own_streams()?;
    let to = Arc::new(to);
    let stdin = Arc::clone(&to);
    // The session's stdin stays open behind its end: closed, it would say that the caller is gone.
    std::thread::spawn(move || {
        let _ = bytes::send_frames(&source, Kind::Stdin, |head, body| bytes::write_both(&stdin, head, body));
    });
    let mut parser = Parser::new(Role::Client);
    let mut buffer = vec![0; bytes::BUFFER];
    loop {
        let len = bytes::read(&from, &mut buffer).unwrap_or(0);
        let mut rest = buffer.get(..len).unwrap_or_default();
        if rest.is_empty() {
            return Err(master::gone(link));
        }
        let mut exit = None;
        while let Some(piece) =
            parser.next(&mut rest).map_err(|broken| master::lost(format!("{link}: {broken}")))?
        {
            let written = match piece {
                Piece::Hello => Ok(()),
                Piece::Data(Kind::Stderr, bytes) => stderr.put(bytes),
                Piece::Data(_, bytes) => stdout.put(bytes),
                Piece::End(Kind::Stderr) => {
                    stderr.end();
                    Ok(())
                }
                Piece::End(_) => {
                    stdout.end();
                    Ok(())
                }
                Piece::Exit(code) => {
                    exit = Some(code);
                    Ok(())
                }
            };
            written.map_err(Failure::during("writing what the service sends"))?;
        }
        if let Some(code) = exit {
            drop(to);
            return Ok(code);
        }
    }
}

/// Moves the bytes as they are, to a far side that has upstream's programs only. SSH ends stdout when stderr has ended,
/// too, and the exit code is the command's.
fn plain(link: &str, session: Session) -> Result<i32, Failure> {
    let (source, stdout, stderr) = own_streams()?;
    let Session { from, to, stderr: errors, mut control } = session;
    std::thread::spawn(move || bytes::copy(&source, &to));
    let errors = std::thread::spawn(move || drain(&errors, stderr));
    drain(&from, stdout);
    let _ = errors.join();
    let code = control.exit_code().map_err(Failure::during("reading the exit code"))?;
    code.and_then(|code| i32::try_from(code).ok()).ok_or_else(|| master::gone(link))
}

/// Copies to the end, whether somebody takes it or not.
fn drain(from: &OwnedFd, mut to: Sink) {
    let mut buffer = vec![0; bytes::BUFFER];
    loop {
        let len = bytes::read(from, &mut buffer).unwrap_or(0);
        match buffer.get(..len) {
            None | Some([]) => return,
            Some(bytes) => {
                let _ = to.put(bytes);
            }
        }
    }
}

/// This process's own streams.
fn own_streams() -> Result<(OwnedFd, Sink, Sink), Failure> {
    let no_descriptor = || Failure::during("no descriptor left");
    let had_stdout = !stdout_was_closed();
    let (source, stdout) = localfd::take_stdin_stdout().map_err(no_descriptor())?;
    let stderr = localfd::copy_stderr().map_err(no_descriptor())?;
    Ok((source, Sink::new(had_stdout.then_some(stdout)), Sink::new(Some(stderr))))
}
