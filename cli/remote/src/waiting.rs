//! Sessions that wait for calls the other way: a machine that nobody can connect to keeps some open to one that it can
//! connect to.
//!
//! The machine that connects runs `qrexec-remote wait LINK`. Each of its idle sessions is, at the other end, a process that
//! listens on a socket in the link's folder there. A call from that machine takes one of these sockets, writes its request
//! as a line, and frames follow, as in every session, only that the far side is the one that connected.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use cli::failure::Failure;
use cli::status;
use engine::say;
use engine::unix;
use rustix::event::{PollFd, PollFlags, poll};
use wire::remote::request::{self, Command, Request};

use crate::link::Link;
use crate::{bytes, far, log, master, near};

/// So many sessions wait at once.
const SESSIONS: usize = 4;
/// The longest line of a request.
const MAX_LINE: usize = request::MAX_SERVICE + 256;
/// Pauses before a lost connection is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Keeps sessions of `link` waiting, for ever.
pub fn keep(link: &Link) -> i32 {
    let workers: Vec<_> = (0..SESSIONS).map(|_| worker(link.clone())).collect();
    for worker in workers {
        let _ = worker.join();
    }
    status::TROUBLE
}

/// Holds one place among the sessions: when a call takes the session, the next one is opened at once.
fn worker(link: Link) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut pause = PAUSES.0;
        loop {
            match wait_for_call(&link) {
                Ok(()) => pause = PAUSES.0,
                Err(failure) => {
                    say::error(format_args!("qrexec-remote: {}", failure.message));
                    std::thread::sleep(pause); // nobody tells when the other machine is there again
                    pause = pause.saturating_mul(2).min(PAUSES.1);
                }
            }
        }
    })
}

/// Opens a session and waits for a call on it, which is then served beside us.
fn wait_for_call(link: &Link) -> Result<(), Failure> {
    let session = master::open(link, request::ACCEPT)?;
    log::follow(link, session.stderr);
    let line = read_line(&session.from).map_err(|_| master::gone(link.name()))?;
    let Ok(Command::Call(request)) = request::parse(&line) else {
        return Err(master::lost(format!("{}: what came is no call", link.name())));
    };
    let link = link.clone();
    std::thread::spawn(move || {
        let control = session.control;
        far::run_call(&link, &request, session.from, session.to);
        drop(control);
    });
    Ok(())
}

/// The bytes before a newline, and none behind it.
fn read_line(from: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < MAX_LINE {
        match bytes::read(from, &mut byte)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ if byte == *b"\n" => return Ok(line),
            _ => line.extend_from_slice(&byte),
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// Where idle sessions of a link can be taken.
fn places(link: &Link) -> PathBuf {
    link.file("waiting")
}

/// The end of an idle session on the machine that was connected to: offers it to one call here.
///
/// # Errors
/// The place cannot be made.
pub(crate) fn offer(link: &Link, from: OwnedFd, to: OwnedFd) -> Result<i32, Failure> {
    let folder = places(link);
    let during = || Failure::during(format!("waiting in {}", folder.display()));
    fs::create_dir_all(&folder).map_err(during())?;
    let place = unix::Bound::new(&folder.join(std::process::id().to_string()), 0o600).map_err(during())?;
    let Some(call) = first_call(&place, &from).map_err(during())? else {
        return Ok(0);
    };
    place.withdraw().map_err(during())?;
    rustix::io::ioctl_fionbio(&call, false).map_err(|error| during()(error.into()))?;
    let back = call.try_clone().map_err(during())?;
    std::thread::spawn(move || bytes::copy(&call, &to));
    bytes::copy(&from, &back);
    Ok(0)
}

/// Waits for a call, or for the end of the session.
fn first_call(place: &unix::Bound, session: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    loop {
        let mut fds = [PollFd::new(place, PollFlags::IN), PollFd::new(session, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        if !fds.iter().skip(1).all(|fd| fd.revents().is_empty()) {
            return Ok(None);
        }
        if let Some(call) = place.accept()? {
            return Ok(Some(call));
        }
    }
}

/// Makes a call by one of the sessions that wait.
///
/// # Errors
/// None waits, or the connection was lost.
pub(crate) fn call(link: &Link, request: &Request) -> Result<i32, Failure> {
    let entries = fs::read_dir(places(link)).map(|entries| entries.flatten().collect::<Vec<_>>());
    for entry in entries.unwrap_or_default() {
        let Ok(socket) = unix::connect(&entry.path()) else {
            // Left by a process that was killed.
            let _ = fs::remove_file(entry.path());
            continue;
        };
        let line = format!("{}\n", request.command());
        if bytes::write(&socket, line.as_bytes()).is_ok() {
            let back = socket.try_clone().map_err(Failure::during("no descriptor left"))?;
            return near::framed(link.name(), socket, back);
        }
    }
    Err(master::lost(format!("{} has no session that waits for calls", link.name())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_takes_nothing_behind_it() {
        let (read, write) = bytes::pipe().unwrap();
        bytes::write(&write, b"qrexec-remote 1 a b c\nrest").unwrap();
        drop(write);
        assert_eq!(read_line(&read).unwrap(), b"qrexec-remote 1 a b c");
        let mut rest = [0; 8];
        assert_eq!(bytes::read(&read, &mut rest).unwrap(), 4);
        assert_eq!(read_line(&read).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
