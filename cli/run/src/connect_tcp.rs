//! `qvm-connect-tcp`: a port of another qube, on a port here.

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};

use clap::Parser;
use cli::failure::Failure;
use cli::{status, usage};
use engine::process::{Child, Signals, begin_unblocked, fork_keeping};
use engine::say;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;
use wire::names::{NameError, Target};

use crate::children::find;

const PROGRAM: &str = "qvm-connect-tcp";

/// A wrong command line, or a port that cannot be had.
const FAILED: i32 = 1;

/// Connections at a time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 256;

/// Bind a port of this machine to one of another qube.
#[derive(Debug, Parser)]
#[command(
    name = "qvm-connect-tcp",
    override_usage = "qvm-connect-tcp [OPTIONS] [LOCAL]:[QUBE]:PORT",
    after_help = "\
Each connection to LOCAL of this machine (without LOCAL: to PORT; 0: to any that is free) is a call of qubes.ConnectTCP+PORT in \
QUBE, or where policy leads without one. Only programs of this machine reach it, unless --bind says otherwise. It goes on in \
the background once the port is bound, without its streams, says its process number, and ends when that is told to (kill), or with \
--accept-once by itself.

Examples:
  qvm-connect-tcp 8000:web:80            http://localhost:8000 is port 80 of web
  qvm-connect-tcp ::22                   port 22 of the qube that policy names
  qvm-connect-tcp --foreground :db:5432  until ^C

Exit status: 0 once the port is bound, or told to end; 1 wrong command line or a port that cannot be bound; with \
--accept-once that of the call.

See also: qrexec-client-vm(1), qrexec-services(7)."
)]
struct ConnectTcpArgs {
    /// Do not go into the background
    #[arg(short, long)]
    foreground: bool,
    /// The address to be reached at [default: 127.0.0.1 and ::1]
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<IpAddr>,
    /// End with the first connection
    #[arg(long)]
    accept_once: bool,
    /// Where from and to
    #[arg(value_name = "[LOCAL]:[QUBE]:PORT")]
    words: String,
}

/// The command line, for manual pages and completions.
pub fn command() -> clap::Command {
    <ConnectTcpArgs as clap::CommandFactory>::command()
}

/// Runs the program with these arguments, its name first, and gives its exit status.
pub fn main(args: Vec<OsString>) -> i32 {
    let args = match usage::parse::<ConnectTcpArgs>(PROGRAM, args) {
        Ok(args) => args,
        Err(0) => return 0,
        Err(_) => return FAILED,
    };
    run(&args).unwrap_or_else(|failure| failure.report(PROGRAM))
}

/// Where from and to.
#[derive(Debug, PartialEq, Eq)]
struct Way {
    local: u16,
    qube: String,
    port: u16,
}

/// Why no connection is taken. The text is for stderr.
#[derive(Debug, thiserror::Error)]
enum ConnectTcpError {
    #[error("Please provide PORT, 1 to 65535")]
    NoPort,
    #[error("{}: no port", .0.escape_default())]
    Local(String),
    #[error(transparent)]
    Qube(#[from] NameError),
    #[error("cannot bind {address}: {error}{}", hint(error))]
    Bind { address: SocketAddr, error: io::Error },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (ports below 1024 are root's)",
        io::ErrorKind::AddrInUse => " (another program has it: choose another LOCAL)",
        _ => "",
    }
}

impl Way {
    fn read(words: &str) -> Result<Self, ConnectTcpError> {
        let mut parts = words.rsplitn(2, ':');
        let port = parts.next().unwrap_or_default();
        let rest = parts.next().unwrap_or_default();
        let (local, qube) = rest.split_once(':').unwrap_or((rest, ""));
        let number = |text: &str, least: u16| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u16>().ok().filter(|port| digits && *port >= least)
        };
        let port = number(port, 1).ok_or(ConnectTcpError::NoPort)?;
        let local = match local {
            "" => port,
            local => number(local, 0).ok_or_else(|| ConnectTcpError::Local(local.to_owned()))?,
        };
        let qube = if qube.is_empty() { "@default" } else { qube };
        Target::new(qube)?;
        Ok(Self { local, qube: qube.to_owned(), port })
    }

    fn call(&self, stream: TcpStream) -> io::Result<Child> {
        let mut command = Command::new(find("qrexec-client-vm"));
        command.args(["--use-stdin-socket", "--", &self.qube]).arg(format!("qubes.ConnectTCP+{}", self.port));
        command.stdin(OwnedFd::from(stream)).stdout(Stdio::null());
        begin_unblocked(&mut command);
        Child::try_from(command.spawn()?)
    }
}

fn run(args: &ConnectTcpArgs) -> Result<i32, Failure> {
    let failed = |error: ConnectTcpError| Failure { status: FAILED, message: error.to_string() };
    let way = Way::read(&args.words).map_err(failed)?;
    let listeners = bind(&way, args.bind).map_err(failed)?;
    let local = listeners.first().and_then(|listener| listener.local_addr().ok());
    let (place, port) = local.map_or(("localhost".to_owned(), way.local), |address| match args.bind {
        Some(ip) => (ip.to_string(), address.port()),
        None => ("localhost".to_owned(), address.port()),
    });
    say::output(format_args!("Binding TCP '{}:{}' to '{place}:{port}'...", way.qube, way.port));
    if args.foreground {
        return accept_connections(&way, &listeners, args.accept_once);
    }
    let keep: Vec<BorrowedFd<'_>> = listeners.iter().map(AsFd::as_fd).collect();
    let background = fork_keeping(&keep, || {
        // Its caller's session may end.
        let _ = rustix::process::setsid();
        quieten();
        accept_connections(&way, &listeners, args.accept_once)
            .unwrap_or_else(|failure| failure.report(PROGRAM))
    });
    let background = background.map_err(|error| Failure {
        status: FAILED,
        message: format!("cannot go into the background: {error}"),
    })?;
    say::output(format_args!("process {}", background.pid()));
    Ok(0)
}

/// Its streams lead nowhere any more: whoever reads what the caller says waits for the end of that.
fn quieten() {
    if let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

fn bind(way: &Way, address: Option<IpAddr>) -> Result<Vec<TcpListener>, ConnectTcpError> {
    let listen = |ip: IpAddr, port: u16| {
        let listener = TcpListener::bind(SocketAddr::new(ip, port))?;
        listener.set_nonblocking(true)?;
        Ok::<_, io::Error>(listener)
    };
    let about = |ip: IpAddr, port: u16, error: io::Error| {
        let address = SocketAddr::new(ip, port);
        ConnectTcpError::Bind { address, error }
    };
    let first = address.unwrap_or(Ipv4Addr::LOCALHOST.into());
    let listener = listen(first, way.local).map_err(|error| about(first, way.local, error))?;
    if address.is_some() {
        return Ok(vec![listener]);
    }
    let port = listener.local_addr().map_or(way.local, |address| address.port());
    let second = Ipv6Addr::LOCALHOST.into();
    match listen(second, port) {
        Ok(other) => Ok(vec![listener, other]),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(about(second, port, error)),
        // A machine without that kind of address.
        Err(_) => Ok(vec![listener]),
    }
}

/// Takes connections until somebody says that it is enough.
fn accept_connections(way: &Way, listeners: &[TcpListener], once: bool) -> Result<i32, Failure> {
    let mut signals =
        Signals::block(&[Signal::HUP, Signal::INT, Signal::TERM]).map_err(Failure::during("signals"))?;
    let mut calls: Vec<Child> = Vec::new();
    let mut open = true;
    loop {
        if once && !open && calls.is_empty() {
            return Ok(status::TROUBLE);
        }
        let accepting = open && calls.len() < MAX_CONNECTIONS;
        sleep(&signals, &calls, if accepting { listeners } else { &[] })
            .map_err(Failure::during("waiting"))?;
        if let Ok(Some(_)) = signals.take_next() {
            // A call ends with its connection, which its process holds.
            calls.iter().for_each(|call| drop(call.signal(Signal::TERM)));
            return Ok(0);
        }
        for listener in listeners.iter().filter(|_| accepting) {
            if once && !open {
                continue;
            }
            let Ok((stream, _)) = listener.accept() else { continue };
            open = !once;
            match way.call(stream) {
                Ok(call) => calls.push(call),
                Err(error) => say::error(format_args!("{PROGRAM}: cannot make the call: {error}")),
            }
        }
        let mut last = None;
        calls.retain_mut(|call| match call.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) => {
                last = Some(status);
                false
            }
            Err(_) => false,
        });
        if let Some(status) = last {
            if status != 0 {
                say::error(format_args!(
                    "{PROGRAM}: {}:{}: a connection ended with {status}",
                    way.qube, way.port
                ));
            }
            if once {
                return Ok(status);
            }
        }
    }
}

fn sleep(signals: &Signals, calls: &[Child], listeners: &[TcpListener]) -> io::Result<()> {
    let fds = std::iter::once(signals.as_fd());
    let fds = fds.chain(calls.iter().map(AsFd::as_fd)).chain(listeners.iter().map(AsFd::as_fd));
    let mut polled: Vec<_> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    match poll(&mut polled, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(local: u16, qube: &str, port: u16) -> Way {
        Way { local, qube: qube.into(), port }
    }

    #[test]
    fn words_have_up_to_three_parts() {
        for (words, expected) in [
            ("18100:vault:18099", way(18100, "vault", 18099)),
            (":vault:22", way(22, "vault", 22)),
            ("::22", way(22, "@default", 22)),
            ("22", way(22, "@default", 22)),
            ("0:vault:80", way(0, "vault", 80)),
            ("1:@dispvm:template:80", way(1, "@dispvm:template", 80)),
        ] {
            assert_eq!(Way::read(words).ok(), Some(expected), "{words}");
        }
        for words in ["", ":", "vault:", "a:vault:1", "::0", "::65536", "1:va ult:2", "::+5", "::0x5"] {
            assert!(Way::read(words).is_err(), "{words}");
        }
    }

    #[test]
    fn it_is_bound_to_this_machine_only() {
        for listener in bind(&way(0, "vault", 1), None).unwrap() {
            assert!(listener.local_addr().unwrap().ip().is_loopback());
        }
    }

    #[test]
    fn a_port_that_somebody_has_is_an_error() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = other.local_addr().unwrap().port();
        assert!(
            bind(&way(port, "vault", 1), None).unwrap_err().to_string().contains("another program has it")
        );
    }
}
