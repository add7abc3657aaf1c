//! The caller's end of a call to a remote qube.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, PoisonError};

use cli::failure::Failure;
use engine::localfd;
use engine::process::stdout_was_closed;
use wire::remote::frames::{self, Parser, Piece};
use wire::remote::request::{Layout, Request};
use wire::stream::{Kind, Role};

use crate::beside::beside;
use crate::bytes::{self, Sink};
use crate::link::{self, Link};
use crate::pool::{Meter, Place};
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
    if layout == Layout::Plain {
        let session = master::open(&link, &request.command())?;
        return plain(link.name(), session);
    }
    let place = Place::open(&link)?;
    let session = &place.session;
    let copy = |fd: &OwnedFd| fd.try_clone().map_err(Failure::during("no descriptor left"));
    log::follow(&link, copy(&session.stderr)?)?;
    let (from, to) = (copy(&session.from)?, copy(&session.to)?);
    let asked = bytes::write(&to, format!("{}\n", request.command()).as_bytes());
    asked.map_err(|_| master::gone(link.name()))?;
    let ended = framed(link.name(), &from, to, place.meter())?;
    if ended.in_order {
        place.give_back();
    }
    Ok(ended.code)
}

/// Makes a call by one of the sessions that wait here.
fn call_by_idle_session(link: &Link, request: &Request) -> Result<i32, Failure> {
    let line = format!("{}\n", request.command());
    let taken = idle::sessions(link).find(|session| bytes::write(session, line.as_bytes()).is_ok());
    let Some(session) = taken else {
        return Err(master::lost(format!("{} has no session that waits for calls", link.name())));
    };
    let back = session.try_clone().map_err(Failure::during("no descriptor left"))?;
    framed(link.name(), &session, back, Arc::default()).map(|ended| ended.code)
}

/// The end of a call.
struct Ended {
    code: i32,
    /// Whether both sides have said all of it, so that the session can have the next one.
    in_order: bool,
}

/// The caller's stdin on its way.
struct Stdin {
    to: OwnedFd,
    /// It has ended, or the call has.
    ended: bool,
}

impl Stdin {
    fn send(&mut self, head: &[u8], body: &[u8]) -> io::Result<()> {
        if self.ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        bytes::write_both(&self.to, head, body)?;
        self.ended = body.is_empty();
        Ok(())
    }

    /// Ends it behind the call, whatever comes now. Whether that was possible without waiting.
    fn end(&mut self) -> bool {
        if !self.ended && !bytes::has_room(&self.to) {
            return false;
        }
        self.ended || self.send(&frames::header(Kind::Stdin, 0), &[]).is_ok()
    }
}

/// Moves the call's bytes as frames until its exit code is there. The process may end then: what still waits for stdin
/// waits in vain.
///
/// # Errors
/// The connection was lost before the exit code came, or the far side broke the rules.
fn framed(link: &str, from: &OwnedFd, to: OwnedFd, meter: Arc<Meter>) -> Result<Ended, Failure> {
    let (source, mut stdout, mut stderr) = own_streams()?;
    // The session's stdin stays open behind its end: closed, it would say that the caller is gone.
    let stdin = Arc::new(Mutex::new(Stdin { to, ended: false }));
    let sending = Arc::clone(&stdin);
    let sent = Arc::clone(&meter);
    beside(move || {
        let _ = bytes::send_frames(&source, Kind::Stdin, |head, body| {
            sent.moved(body.len());
            sending.lock().unwrap_or_else(PoisonError::into_inner).send(head, body)
        });
    })?;
    let mut parser = Parser::new(Role::Client);
    let mut buffer = vec![0; bytes::BUFFER];
    loop {
        let len = bytes::read(from, &mut buffer).unwrap_or(0);
        let mut rest = buffer.get(..len).unwrap_or_default();
        if rest.is_empty() {
            return Err(master::gone(link));
        }
        meter.moved(len);
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
            // Somebody who waits in the middle of a message has not ended it.
            let in_order = stdin.try_lock().is_ok_and(|mut stdin| stdin.end());
            return Ok(Ended { code, in_order });
        }
    }
}

/// Moves the bytes as they are, to a far side that has upstream's programs only. SSH ends stdout when stderr has ended,
/// too, and the exit code is the command's.
fn plain(link: &str, session: Session) -> Result<i32, Failure> {
    let (source, stdout, stderr) = own_streams()?;
    let Session { from, to, stderr: errors, mut control } = session;
    beside(move || bytes::copy(&source, &to))?;
    let errors = beside(move || drain(&errors, stderr))?;
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
