//! Drives a device over one socket.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{io, thread};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rustix::process::{Pid, Signal, kill_process};
use wire::usbip::Violation;

use crate::machine::Machine;

/// Nothing is read while more than this waits to be sent.
const UNSENT: usize = 4 << 20;

/// Why a device's stream ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The socket does not work.
    #[error("{0}: {1}")]
    System(&'static str, io::Error),
    /// What came is not USB/IP.
    #[error("{0}")]
    Violation(#[from] Violation),
    /// The variable does not say which process asks for a signal.
    #[error("QREXEC_AGENT_PID is not a process")]
    NoProcess,
}

impl Failure {
    fn of(what: &'static str) -> impl Fn(Errno) -> Self {
        move |error| Self::System(what, error.into())
    }
}

/// Makes the two streams of a call one socket: tells the process that started this one, if there is one that asks for it.
///
/// # Errors
/// `QREXEC_AGENT_PID` is set to something else than a process that may be told.
pub fn hand_over() -> Result<(), Failure> {
    let Some(pid) = std::env::var_os("QREXEC_AGENT_PID") else { return Ok(()) };
    let pid = pid.to_str().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
    let pid = pid.filter(|pid| !pid.is_init()).ok_or(Failure::NoProcess)?;
    kill_process(pid, Signal::USR1).map_err(Failure::of("signal"))
}

/// Lets a device answer until the other side ends the stream.
///
/// # Errors
/// See [`Failure`].
pub fn run_controller(machine: &mut Machine, socket: impl AsFd) -> Result<(), Failure> {
    let begin = Instant::now();
    let socket = socket.as_fd();
    engine::localfd::widen_for_urbs(socket);
    loop {
        machine.handle_time(begin.elapsed());
        let unsent =
            match rustix::net::send(socket, machine.output(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                _ if machine.output().is_empty() => 0,
                Ok(sent) => {
                    machine.handle_sent(sent);
                    machine.output().len()
                }
                Err(Errno::AGAIN | Errno::INTR) => machine.output().len(),
                // The other side has gone, which is how a device is detached.
                Err(Errno::PIPE | Errno::CONNRESET) => return Ok(()),
                Err(error) => return Err(Failure::of("send")(error)),
            };
        let deadline = machine.deadline();
        // Without anything else to wait for, the read itself may wait.
        let alone = unsent == 0 && deadline.is_none();
        if !alone {
            wait(socket, unsent, deadline.map(|deadline| deadline.saturating_sub(begin.elapsed())))?;
        }
        if unsent > UNSENT {
            continue;
        }
        let flags = if alone { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
        match rustix::net::recv(socket, machine.space(), flags) {
            Ok((0, _)) => {
                return if machine.between_messages() { Ok(()) } else { Err(Violation::Cut.into()) };
            }
            Ok((count, _)) => machine.handle_filled(count, begin.elapsed())?,
            // Somebody has made the socket one that never waits.
            Err(Errno::AGAIN) if alone => wait(socket, 0, None)?,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(()),
            Err(error) => return Err(Failure::of("receive")(error)),
        }
    }
}

/// Waits until there is something to do.
fn wait(socket: impl AsFd, unsent: usize, limit: Option<Duration>) -> Result<(), Failure> {
    let mut wanted = PollFlags::empty();
    wanted.set(PollFlags::OUT, unsent > 0);
    wanted.set(PollFlags::IN, unsent <= UNSENT);
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    match poll(&mut [PollFd::new(&socket, wanted)], limit.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(Failure::of("wait")(error)),
    }
}

/// A listener that waits, at this path.
pub(crate) fn listener(path: &Path) -> io::Result<UnixListener> {
    let (socket, _) = engine::unix::listen_identified(path, 0o600)?;
    let listener = UnixListener::from(socket);
    listener.set_nonblocking(false)?;
    Ok(listener)
}

/// Gives each connection a device of its own; for a service that is a socket.
///
/// # Errors
/// The listener does not work.
pub fn run_controllers(
    listener: &UnixListener,
    device: impl Fn() -> io::Result<Machine>,
    ended: impl Fn(Result<Machine, Failure>) + Send + Clone + 'static,
) -> io::Result<()> {
    loop {
        let (socket, _) = listener.accept()?;
        let (mut machine, ended) = (device()?, ended.clone());
        thread::spawn(move || {
            let served = run_controller(&mut machine, OwnedFd::from(socket));
            ended(served.map(|()| machine));
        });
    }
}
