//! One session: the conversation with the `ssh` that has the connection, and the session's descriptors.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use engine::unix;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use wire::remote::frames::{self, Parser, Piece};
use wire::remote::mux::{self, Event, Violation};
use wire::stream::Role;

use crate::bytes;

/// What became of asking for a session.
#[derive(Debug)]
pub enum Asked {
    /// It is open.
    Open(Session),
    /// There is an `ssh`, and it gives no session now; its reason.
    Refused(Vec<u8>),
    /// There is no `ssh`, or it ended before it had answered.
    NoMaster,
    /// What listens there speaks another protocol.
    Broken(Violation),
}

/// An open session of a link's connection.
#[derive(Debug)]
pub struct Session {
    /// What is read from it comes from the far command's stdout.
    pub from: OwnedFd,
    /// What is written to it goes to the far command's stdin.
    pub to: OwnedFd,
    /// What the far command says on stderr.
    pub stderr: OwnedFd,
    /// The conversation with the `ssh`, which lasts as long as the session.
    pub control: Control,
}

impl Session {
    /// Its descriptors, for another process.
    pub(crate) fn descriptors(&self) -> [BorrowedFd<'_>; 4] {
        [self.from.as_fd(), self.to.as_fd(), self.stderr.as_fd(), self.control.socket.as_fd()]
    }

    /// An open session from another process.
    pub(crate) fn of_descriptors([from, to, stderr, socket]: [OwnedFd; 4]) -> Self {
        // The exit code of the far command is of no interest where frames have the call's.
        Self { from, to, stderr, control: Control { socket, session: mux::Session::default() } }
    }
}

/// The conversation with the `ssh` that has the connection.
#[derive(Debug)]
pub struct Control {
    socket: OwnedFd,
    session: mux::Session,
}

impl Control {
    /// The exit code of the far command, once it has ended; `None` if the connection was lost before. To be asked once
    /// both its streams have ended: the code may overtake them, and an `ssh` whose client hangs up drops what is left.
    ///
    /// # Errors
    /// The system failed.
    pub fn exit_code(&mut self) -> io::Result<Option<u32>> {
        Ok(match self.next()? {
            Some(Ok(Event::Exited(code))) => Some(code),
            _ => None,
        })
    }

    /// The next thing that the master says; `None` if it hangs up.
    fn next(&mut self) -> io::Result<Option<Result<Event, Violation>>> {
        let mut buffer = [0; 4096];
        loop {
            match self.session.poll_event() {
                Ok(None) => {}
                Ok(Some(event)) => return Ok(Some(Ok(event))),
                Err(violation) => return Ok(Some(Err(violation))),
            }
            let len = match bytes::read(&self.socket, &mut buffer) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
                Err(error) => return Err(error),
            };
            match buffer.get(..len) {
                None | Some([]) => return Ok(None),
                Some(said) => self.session.handle_bytes(said),
            }
        }
    }
}

/// Asks the `ssh` that listens at `socket` for a session that runs `command`.
///
/// # Errors
/// The system failed here.
pub fn ask(socket: &Path, command: &str) -> io::Result<Asked> {
    let Ok(socket) = unix::connect(socket) else {
        return Ok(Asked::NoMaster);
    };
    let mut control = Control { socket, session: mux::Session::default() };
    let (stdin, to) = bytes::pipe()?;
    let (from, stdout) = bytes::pipe()?;
    let (stderr, errors) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    if bytes::write(&control.socket, &mux::hello()).is_err() {
        return Ok(Asked::NoMaster);
    }
    loop {
        match control.next()? {
            None => return Ok(Asked::NoMaster),
            Some(Err(violation)) => return Ok(Asked::Broken(violation)),
            Some(Ok(Event::Ready)) => {
                let asked = bytes::write(&control.socket, &mux::new_session(command.as_bytes()));
                let pass = || [&stdin, &stdout, &errors].iter().try_for_each(|fd| pass(&control.socket, fd));
                if asked.and_then(|()| pass()).is_err() {
                    return Ok(Asked::NoMaster);
                }
            }
            Some(Ok(Event::Opened)) => return Ok(Asked::Open(Session { from, to, stderr, control })),
            Some(Ok(Event::Refused(reason))) => return Ok(Asked::Refused(reason)),
            Some(Ok(Event::Exited(_))) => return Ok(Asked::NoMaster),
        }
    }
}

/// Waits for the greeting of the far command. `false` if there is none: sshd opens a session also where it has no
/// descriptor left to start the command.
///
/// # Errors
/// Something else than the far command answers.
pub(crate) fn is_greeted(session: &Session) -> Result<bool, frames::Violation> {
    let mut parser = Parser::new(Role::Client);
    let mut buffer = frames::hello();
    let mut have = 0;
    while let Some(room) = buffer.get_mut(have..).filter(|room| !room.is_empty()) {
        let len = bytes::read(&session.from, room).unwrap_or(0);
        let mut got = room.get(..len).unwrap_or_default();
        if got.is_empty() {
            return Ok(false);
        }
        have = have.saturating_add(len);
        if parser.next(&mut got)? == Some(Piece::Hello) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Passes a descriptor, with a byte as the protocol wants it.
fn pass(socket: &OwnedFd, fd: &OwnedFd) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(socket, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}
