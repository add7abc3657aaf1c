//! Starting a command or service that was found.

use std::ffi::CString;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::SendFlags;
use rustix::net::sockopt::Timeout;
use rustix::pipe::PipeFlags;
use wire::usbip::Rules;

use super::argv::{argument, c_path};
use super::image::by_shell;
use super::{Account, Environment, ExecError, Executable, Image, Prepared, Services, SocketOptions, login};
use crate::process::{self, Child, Program};

/// Longest path in bytes that fits a socket address on every system.
const SHORT_PATH: usize = 100;

/// How long a service may take to accept a connection and the first bytes on it: a call must end even if its service
/// never answers.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where the standard error of a program goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stderr {
    /// Into a pipe whose other end is [`Started::stderr`].
    Piped,
    /// To this process's stderr: services in dom0.
    Ours,
}

/// A running command or service, with this process's ends of its streams.
#[derive(Debug)]
pub struct Started {
    /// For the caller's bytes. One end of a socket pair if `one_socket` is set; for a socket service the same
    /// connection as `stdout`, so that the end of the data needs a `shutdown(2)`.
    pub stdin: OwnedFd,
    /// The bytes for the caller.
    pub stdout: OwnedFd,
    /// The error output; socket services have none.
    pub stderr: Option<OwnedFd>,
    /// The process; socket services have none and end with code 0.
    pub child: Option<Child>,
    /// `stdin` is a pipe, to which ring pages may be lent.
    pub splice: bool,
    /// The process may ask for `stdin` to carry both directions, which a pipe cannot do.
    pub one_socket: bool,
    /// The call ends as soon as the caller's data end.
    pub exit_on_client_eof: bool,
    /// The call ends as soon as the service's data end.
    pub exit_on_service_eof: bool,
    /// The filter for the two streams, if they are USB over IP.
    pub filter: Option<Rules>,
}

impl Services {
    /// Starts it, with streams to this process. `user` comes from the command line or the configuration.
    ///
    /// # Errors
    /// Nothing runs then, and [`ExecError::code`] is the exit code of the call.
    pub fn start(&self, what: &Prepared, user: Option<&str>, stderr: Stderr) -> Result<Started, ExecError> {
        let executable = match what {
            Prepared::Executable(executable) => executable,
            Prepared::Socket(path, options) => return connected(unix(path, options)?, options),
            Prepared::Tcp(address, options) => return connected(tcp(*address, options)?, options),
        };
        let (splice, pipes) = (executable.splice, executable.pipes);
        let (stdin, their_stdin) = if splice || pipes { pipe()? } else { pair()? };
        let (their_stdout, stdout) = if pipes { pipe()? } else { pair()? };
        let errors = match stderr {
            Stderr::Piped => Some(rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(streams)?),
            Stderr::Ours => None,
        };
        let ours = rustix::stdio::stderr();
        let their_stderr = errors.as_ref().map_or(ours, |(_, theirs)| theirs.as_fd());
        let account = self.users.account(user)?;
        if let Some(account) = &account {
            // Only its owner can open a pipe by name.
            let theirs = errors.as_ref().map(|(_, theirs)| theirs);
            for stream in [&their_stdin, &their_stdout].into_iter().chain(theirs) {
                rustix::fs::fchown(stream, Some(account.uid), Some(account.gid)).map_err(streams)?;
            }
        }
        let child =
            self.run(executable, account, [their_stdin.as_fd(), their_stdout.as_fd(), their_stderr])?;
        Ok(Started {
            stdin,
            stdout,
            stderr: errors.map(|(ours, _)| ours),
            child: Some(child),
            splice,
            one_socket: !splice && !pipes,
            exit_on_client_eof: false,
            exit_on_service_eof: false,
            filter: executable.filter,
        })
    }

    /// Starts it without streams and does not wait for it. A program gets `/dev/null`, and its error output goes to
    /// `log` if there is one; a socket service gets the description of the call and nothing else.
    ///
    /// # Errors
    /// Nothing runs then, and [`ExecError::code`] is the exit code of the call.
    pub fn start_detached(
        &self,
        what: &Prepared,
        user: Option<&str>,
        log: Option<BorrowedFd<'_>>,
    ) -> Result<(), ExecError> {
        match what {
            Prepared::Executable(executable) => {
                let flags = OFlags::RDWR | OFlags::CLOEXEC;
                let null = rustix::fs::open("/dev/null", flags, Mode::empty()).map_err(streams)?;
                let null = null.as_fd();
                // It is not waited for: when this process ends, another one becomes its parent.
                let account = self.users.account(user)?;
                self.run(executable, account, [null, null, log.unwrap_or(null)]).map(drop)
            }
            Prepared::Socket(path, options) => unix(path, options).map(drop),
            Prepared::Tcp(address, options) => tcp(*address, options).map(drop),
        }
    }

    /// Starts a program on existing streams, for a call whose data another process moves: `QREXEC_AGENT_PID` stays as
    /// it is.
    ///
    /// # Errors
    /// Nothing runs then, and [`ExecError::code`] is the exit code of the call. A socket service
    /// cannot be put on streams.
    pub fn start_on(&self, what: &Prepared, streams: [BorrowedFd<'_>; 3]) -> Result<Child, ExecError> {
        match what {
            Prepared::Executable(what) => {
                let account = self.users.account(None)?;
                self.run_in(Environment::inherited(self.installation), what, account, streams)
            }
            Prepared::Socket(path, _) => Err(ExecError::NoService(path.clone())),
            Prepared::Tcp(address, _) => Err(ExecError::NoService(address.to_string().into())),
        }
    }

    /// Executes the program in this process, on its own streams: `QREXEC_AGENT_PID` stays as it is. Returns only if
    /// that failed.
    pub fn replace(&self, what: &Executable) -> ExecError {
        let mut environment = Environment::inherited(self.installation);
        if let Some(call) = &what.call {
            environment.describe(call);
        }
        let env = environment.to_strings();
        let result = by_kernel_or_shell(what, self.users.shell(), |args| {
            let file = args.first().cloned().unwrap_or_default();
            Err::<(), _>(process::replace(&file, &args, &env))
        });
        let source = result.err().unwrap_or_else(|| Errno::NOEXEC.into());
        ExecError::spawn(what.image.path().unwrap_or(self.users.shell()), source)
    }

    fn run(
        &self,
        what: &Executable,
        account: Option<Account>,
        streams: [BorrowedFd<'_>; 3],
    ) -> Result<Child, ExecError> {
        let mut environment = Environment::inherited(self.installation);
        environment.set("QREXEC_AGENT_PID", std::process::id().to_string());
        self.run_in(environment, what, account, streams)
    }

    fn run_in(
        &self,
        mut environment: Environment,
        what: &Executable,
        account: Option<Account>,
        streams: [BorrowedFd<'_>; 3],
    ) -> Result<Child, ExecError> {
        match account {
            Some(account) => login::start(&account, what, environment, streams),
            None => {
                if let Some(call) = &what.call {
                    environment.describe(call);
                }
                spawn(what, self.users.shell(), &environment.to_strings(), streams)
            }
        }
        .map_err(|source| ExecError::spawn(what.image.path().unwrap_or(self.users.shell()), source))
    }
}

/// Starts a program as this process's user, without a shell unless it is a text.
fn spawn(
    what: &Executable,
    shell: &Path,
    env: &[CString],
    streams: [BorrowedFd<'_>; 3],
) -> io::Result<Child> {
    by_kernel_or_shell(what, shell, |args| {
        let file = args.first().cloned().unwrap_or_default();
        process::spawn(&Program { file: &file, args: &args, env, streams })
    })
}

/// Has `start` execute a program as it is, a text by `/bin/sh`, a command by `shell`.
fn by_kernel_or_shell<T>(
    what: &Executable,
    shell: &Path,
    mut start: impl FnMut(Vec<CString>) -> io::Result<T>,
) -> io::Result<T> {
    let argument = argument(what)?;
    match &what.image {
        Image::Shell(command) => start(vec![c_path(shell)?, c"-c".to_owned(), command.clone()]),
        Image::Text(path) => start([by_shell(path)?, argument].concat()),
        Image::Program(path) => match start([vec![c_path(path)?], argument.clone()].concat()) {
            // The file is executable, but its first line names no interpreter: a text for the shell, or a program for
            // another machine.
            Err(error) if error.raw_os_error() == Some(Errno::NOEXEC.raw_os_error()) => {
                start([by_shell(path)?, argument].concat())
            }
            other => other,
        },
    }
}

fn streams(error: Errno) -> ExecError {
    ExecError::Streams(error.into())
}

/// A pipe for a service's stdin: this process's end, and the service's.
fn pipe() -> Result<(OwnedFd, OwnedFd), ExecError> {
    let (theirs, ours) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(streams)?;
    Ok((ours, theirs))
}

/// Two connected sockets.
fn pair() -> Result<(OwnedFd, OwnedFd), ExecError> {
    crate::localfd::socket_pair().map_err(ExecError::Streams)
}

/// Connects to a unix socket and sends the description of the call.
fn unix(path: &Path, options: &SocketOptions) -> Result<OwnedFd, ExecError> {
    connect_unix(path)
        .and_then(|socket| told(socket, options))
        .map_err(|source| ExecError::Connect { to: path.display().to_string(), source })
}

/// Connects to a socket, however long its path and its name are.
fn connect_unix(path: &Path) -> io::Result<OwnedFd> {
    if path.as_os_str().len() <= SHORT_PATH {
        return crate::unix::connect_within(path, PATIENCE);
    }
    let socket = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    crate::unix::connect_within(Path::new(&format!("/proc/self/fd/{}", socket.as_raw_fd())), PATIENCE)
}

/// Connects to a TCP port and sends the description of the call.
fn tcp(address: SocketAddr, options: &SocketOptions) -> Result<OwnedFd, ExecError> {
    let connect = || {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // Each chunk is passed on at once; a delay would only wait for bytes that have not been sent yet.
        let _ = stream.set_nodelay(true);
        told(stream.into(), options)
    };
    connect().map_err(|source| ExecError::Connect { to: address.to_string(), source })
}

fn connected(stdin: OwnedFd, options: &SocketOptions) -> Result<Started, ExecError> {
    let stdout = stdin.try_clone().map_err(ExecError::Streams)?;
    Ok(Started {
        stdin,
        stdout,
        stderr: None,
        child: None,
        splice: false,
        one_socket: false,
        exit_on_client_eof: options.exit_on_client_eof,
        exit_on_service_eof: options.exit_on_service_eof,
        filter: options.filter,
    })
}

/// Sends the description of the call, which comes before all bytes of the caller.
fn told(socket: OwnedFd, options: &SocketOptions) -> io::Result<OwnedFd> {
    let mut rest = options.prefix.as_slice();
    while !rest.is_empty() {
        match rustix::net::send(&socket, rest, SendFlags::NOSIGNAL) {
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    rustix::net::sockopt::set_socket_timeout(&socket, Timeout::Send, None)?;
    Ok(socket)
}

#[cfg(test)]
mod tests;
