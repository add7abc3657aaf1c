//! Sessions that wait for calls the other way: a machine that nobody can connect to keeps some open to one that it can
//! connect to.
//!
//! The machine that connects runs `qrexec-remote wait LINK`. Each of its idle sessions is, at the other end, a process that
//! offers it to one call there, as [`crate::idle`] tells. That call writes its request as a line, and frames follow, as in
//! every session, only that the far side is the one that connected.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use cli::failure::Failure;
use cli::status;
use engine::say;
use wire::remote::request::{self, Command};

use crate::link::Link;
use crate::{bytes, far, log, master};

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
