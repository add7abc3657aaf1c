//! The streams of the process that asked for a call.

use std::io;
use std::os::fd::OwnedFd;

use engine::localfd;
use engine::process::stdout_was_closed;
use rustix::net::SocketType;
use rustix::net::sockopt::socket_type;

use crate::failure::Failure;

/// What a call's data is read from and written to.
#[derive(Debug)]
pub struct Streams {
    /// Read and sent to the service.
    pub source: OwnedFd,
    /// Written with what the service sends. `None` if we were started without a stdout.
    pub sink: Option<OwnedFd>,
}

/// Whether stdin can be used for both directions.
///
/// # Errors
/// A usage failure unless stdin is a stream socket.
pub fn check_stdin_socket() -> Result<(), Failure> {
    match socket_type(rustix::stdio::stdin()) {
        Ok(SocketType::STREAM) => Ok(()),
        Ok(_) => Err(Failure::usage("--use-stdin-socket: stdin is not a stream socket")),
        Err(rustix::io::Errno::NOTSOCK) => Err(Failure::usage("--use-stdin-socket: stdin is not a socket")),
        Err(error) => Err(Failure::usage(format!("--use-stdin-socket: {error}"))),
    }
}

impl Streams {
    /// Takes stdin and stdout, or stdin for both, from this process.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn take(stdin_is_both: bool) -> io::Result<Self> {
        let (source, stdout) = localfd::take_stdin_stdout()?;
        let sink = match stdin_is_both {
            true => Some(source.try_clone()?),
            false => Some(stdout).filter(|_| !stdout_was_closed()),
        };
        Ok(Self { source, sink })
    }
}
