//! The service's end of a call from another machine: what sshd runs for a link's key, whatever it was asked to run.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command as Process, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};

use cli::failure::Failure;
use cli::status;
use engine::say;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use wire::remote::frames::{self, Parser, Piece};
use wire::remote::request::{self, Command, Layout, Request};
use wire::stream::{Kind, Role};

use crate::bytes::{self, Input, Sink};
use crate::idle;
use crate::link::Link;

/// Where sshd puts what the near side asked for.
const COMMAND_VAR: &str = "SSH_ORIGINAL_COMMAND";
/// The program that makes the call here.
const CLIENT: &str = "qrexec-client-vm";

/// Carries out the command of a session of this link.
///
/// # Errors
/// It is none that a link's key may give: one line for the near relay's log, and the session's exit code.
pub fn main(link: &Link) -> Result<i32, Failure> {
    let command = std::env::var_os(COMMAND_VAR).unwrap_or_default();
    let command = request::parse(command.as_bytes()).map_err(|bad| Failure::trouble(bad.to_string()))?;
    let streams = || engine::localfd::take_stdin_stdout().map_err(Failure::during("no descriptor left"));
    match command {
        Command::Check => {
            let (_, to) = streams()?;
            end(&to, status_of_check(link))
        }
        Command::Accept => {
            let (from, to) = streams()?;
            idle::offer(link, from, to)
        }
        Command::Call(request) if request.layout == Layout::Plain => Err(replace(link, &request)),
        Command::Call(request) => {
            let (from, to) = streams()?;
            Ok(run_call(link, &request, &mut Input::new(from), &to).0)
        }
        Command::Ready => {
            let (from, to) = streams()?;
            Ok(one_after_the_other(link, &mut Input::new(from), &to))
        }
    }
}

/// Serves calls until the near side closes the session, or one leaves it in a state that the next one may not find.
fn one_after_the_other(link: &Link, from: &mut Input, to: &OwnedFd) -> i32 {
    // Until then nothing is asked for: a session without a far command costs no call.
    if bytes::write(to, &frames::hello()).is_err() {
        return status::LOST;
    }
    while let Ok(line) = from.line() {
        let Ok(Command::Call(request)) = request::parse(&line) else {
            say::error(format_args!("qrexec-remote: what was asked for in an open session is no call"));
            return end(to, status::TROUBLE).unwrap_or_else(|failure| failure.status);
        };
        if let (code, false) = run_call(link, &request, from, to) {
            return code;
        }
    }
    0
}

/// A link works if its files can be read.
fn status_of_check(link: &Link) -> i32 {
    let readable = link.sources().map(drop).and_then(|()| link.settings().map(drop));
    match readable.and_then(|()| link.environment().map(drop)) {
        Ok(()) => 0,
        Err(failure) => failure.report("qrexec-remote"),
    }
}

/// Says HELLO and an exit code and nothing else.
fn end(to: &OwnedFd, code: i32) -> Result<i32, Failure> {
    let said = bytes::write_both(to, &frames::hello(), &frames::exit(code));
    said.map_err(Failure::during("answering")).map(|()| code)
}

/// Serves a call in frames. The result is the session's exit code, which nobody needs, since the frames have the call's;
/// and whether the near side has ended stdin, too, so that nothing more of this call can come.
pub(crate) fn run_call(link: &Link, request: &Request, from: &mut Input, to: &OwnedFd) -> (i32, bool) {
    let child = match client(link, request).and_then(|mut client| spawn(&mut client)) {
        Ok(child) => child,
        Err(failure) => {
            let code = failure.report("qrexec-remote");
            let ended = end(to, code).unwrap_or_else(|failure| failure.status);
            return (ended, feed(from, Sink::new(None)));
        }
    };
    relay(child, from, to).unwrap_or_else(|error| {
        say::error(format_args!("qrexec-remote: {error}"));
        (status::LOST, false)
    })
}

/// The call's program with the link's environment and the name that the caller has here.
fn client(link: &Link, request: &Request) -> Result<Process, Failure> {
    let refused = |message| Failure { status: status::REFUSED, message };
    let source = link.sources()?.local(&request.source).ok_or_else(|| {
        refused(format!("link {}: no line of its file sources names {}", link.name(), request.source))
    })?;
    if request.target.starts_with('@') && !link.settings()?.targets.iter().any(|word| word == "@dispvm") {
        let message =
            format!("link {}: its settings do not allow the target {}", link.name(), request.target);
        return Err(refused(message));
    }
    let mut process = Process::new(CLIENT);
    process.env_clear().envs(link.environment()?);
    process.arg(format!("--source-qube={source}")).arg("--").arg(&request.target).arg(&request.service);
    Ok(process)
}

fn spawn(process: &mut Process) -> Result<Child, Failure> {
    process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    process.spawn().map_err(|error| cannot_start(&error))
}

fn cannot_start(error: &io::Error) -> Failure {
    let status = match error.kind() {
        io::ErrorKind::NotFound => status::NOT_FOUND,
        _ => status::TROUBLE,
    };
    Failure { status, message: format!("cannot start {CLIENT}: {error}") }
}

/// Makes this process the call's: its streams are the session's.
fn replace(link: &Link, request: &Request) -> Failure {
    match client(link, request) {
        Ok(mut process) => cannot_start(&process.exec()),
        Err(failure) => failure,
    }
}

/// Both ends of the streams of a call, and its exit code behind them; whether stdin has ended in order.
fn relay(mut child: Child, from: &mut Input, to: &OwnedFd) -> io::Result<(i32, bool)> {
    let (Some(stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    bytes::widen(&stdin);
    bytes::widen(&stdout);
    let (stdout, stderr) = (OwnedFd::from(stdout), OwnedFd::from(stderr));
    let ended = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    bytes::write(to, &frames::hello())?;
    let to = Mutex::new(to);
    std::thread::scope(|scope| {
        let stdin = scope.spawn(|| {
            let in_order = feed(from, Sink::new(Some(stdin.into())));
            if !in_order {
                // The near side is gone, or broke the rules: the call ends with it.
                let _ = pidfd_send_signal(&ended, Signal::TERM);
            }
            in_order
        });
        let errors = scope.spawn(|| send(&to, &stderr, Kind::Stderr));
        let sent = send(&to, &stdout, Kind::Stdout);
        let errors_sent = errors.join().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()));
        if sent.is_err() || errors_sent.is_err() {
            let _ = child.kill();
        }
        let code = code(child.wait()?);
        sent.and(errors_sent)?;
        locked(&to, |to| bytes::write(to, &frames::exit(code)))?;
        // The near side ends stdin once it has the code, or closes the session.
        Ok((code, stdin.join().unwrap_or(false)))
    })
}

/// Sends a stream to its end; each frame in one piece, whoever else sends.
fn send(to: &Mutex<&OwnedFd>, from: &OwnedFd, kind: Kind) -> io::Result<()> {
    bytes::send_frames(from, kind, |head, body| locked(to, |to| bytes::write_both(to, head, body)))
}

fn locked(to: &Mutex<&OwnedFd>, act: impl FnOnce(&OwnedFd) -> io::Result<()>) -> io::Result<()> {
    act(*to.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Feeds the service until stdin ends. `false` if the session ended before, or the near side broke the rules.
fn feed(from: &mut Input, mut stdin: Sink) -> bool {
    let mut parser = Parser::new(Role::Service);
    let mut buffer = vec![0; bytes::BUFFER];
    loop {
        let len = from.read(&mut buffer).unwrap_or(0);
        let mut rest = buffer.get(..len).unwrap_or_default();
        if rest.is_empty() {
            return false;
        }
        loop {
            match parser.next(&mut rest) {
                Ok(None) => break,
                Ok(Some(Piece::Data(_, bytes))) => {
                    let _ = stdin.put(bytes);
                }
                // What follows is the next call's, whose near side may have been quicker than we.
                Ok(Some(Piece::End(_))) => {
                    from.put_back(rest);
                    return true;
                }
                Ok(Some(Piece::Hello | Piece::Exit(_))) => {}
                Err(violation) => {
                    say::error(format_args!("qrexec-remote: the near side: {violation}"));
                    return false;
                }
            }
        }
    }
}

/// The code of a program, as a shell has it.
fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| Some(status.signal()?.saturating_add(128))).unwrap_or(status::LOST)
}

/// The words of the call's program, for tests.
#[cfg(test)]
fn words(process: &Process) -> Vec<std::ffi::OsString> {
    process.get_args().map(std::ffi::OsString::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(folder: &std::path::Path) -> Link {
        std::fs::create_dir(folder.join("laptop")).unwrap();
        let link = Link::open(folder, "laptop").unwrap();
        std::fs::write(link.file("sources"), "work here-work\n").unwrap();
        std::fs::write(link.file("environment"), "QREXEC_AGENT_SOCKET=/a\n").unwrap();
        link
    }

    fn request(source: &str, target: &str) -> Request {
        Request::new(source.as_bytes(), target.as_bytes(), b"x.Y+1", Layout::Frames).unwrap()
    }

    #[test]
    fn the_caller_has_the_links_name_and_nothing_of_our_environment() {
        let folder = tempfile::tempdir().unwrap();
        let link = link(folder.path());
        let process = client(&link, &request("work", "far")).unwrap();
        assert_eq!(words(&process), ["--source-qube=here-work", "--", "far", "x.Y+1"]);
        let names: Vec<_> = process.get_envs().map(|(name, _)| name.to_owned()).collect();
        assert_eq!(names, ["PATH", "QREXEC_AGENT_SOCKET"]);
    }

    #[test]
    fn unknown_sources_and_words_for_targets_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let link = link(folder.path());
        assert_eq!(client(&link, &request("mail", "far")).unwrap_err().status, status::REFUSED);
        assert_eq!(client(&link, &request("work", "@dispvm")).unwrap_err().status, status::REFUSED);
        std::fs::write(link.file("settings"), "targets = ['@dispvm']\n").unwrap();
        assert!(client(&link, &request("work", "@dispvm")).is_ok());
    }
}
