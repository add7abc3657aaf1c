//! `qfile-daemon-dvm`: the second half of a call of R2 to a disposable, as R2's policy program starts it.
//!
//! `qrexec-vm-helper` keeps the disposable and removes it when its standard input ends. That happens when the call is over,
//! when its caller is gone, and when this program is killed.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use clap::Parser;
use engine::process::own_executable;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use wire::names::{ServiceName, Target};

use crate::failure::Failure;
use crate::{status, usage};

const PROGRAM: &str = "qfile-daemon-dvm";
/// Longest name that the helper may print.
const MAX_NAME: u64 = 256;

/// Makes a disposable, runs a service in it for a caller of R2, and removes it.
#[derive(Debug, Parser)]
#[command(name = PROGRAM)]
struct DvmArgs {
    /// The service.
    service: String,
    /// The qube that calls.
    source: String,
    /// The user in the disposable.
    user: String,
    /// Not used: a disposable has its template's label.
    label: Option<String>,
    /// Not used: a disposable has its template's firewall.
    firewall: Option<String>,
    /// What the disposable is made of; dom0 stands for the default.
    #[arg(long, value_name = "QUBE", default_value = "dom0")]
    template: String,
    /// Folder of the daemons' sockets.
    #[arg(long, value_name = "DIR", env = "QREXEC_SOCKET_DIR", default_value = "/var/run/qubes")]
    socket_dir: PathBuf,
}

/// The command line, for manual pages and completions.
pub fn command() -> clap::Command {
    <DvmArgs as clap::CommandFactory>::command()
}

/// Runs the program with these arguments, its name first, and gives its exit status: that of the service.
pub fn main(args: Vec<OsString>) -> i32 {
    let args = match usage::parse_as::<DvmArgs>(usage::complete(command()), PROGRAM, args) {
        Ok(args) => args,
        Err(status) => return status,
    };
    call_in_disposable(&args).unwrap_or_else(|failure| failure.report(PROGRAM))
}

fn call_in_disposable(args: &DvmArgs) -> Result<i32, Failure> {
    let service = ServiceName::new(&args.service).map_err(Failure::during("the service's name"))?;
    let source = Target::new(&args.source).map_err(Failure::during("the caller's name"))?;
    let template = Target::new(&args.template).map_err(Failure::during("the template's name"))?;
    let mut keeper = Command::new(own_executable())
        .arg0("qrexec-vm-helper")
        .args(["disposable", template.as_str()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(Failure::during("qrexec-vm-helper"))?;
    let qube = name_of(&mut keeper);
    let ended = qube.and_then(|qube| call(args, &qube, &service, &source));
    // The end of its input is its sign to remove the disposable.
    drop(keeper.stdin.take());
    keeper.wait().map_err(Failure::during("qrexec-vm-helper"))?;
    ended
}

/// What the keeper has called the disposable.
fn name_of(keeper: &mut Child) -> Result<Target, Failure> {
    let mut line = String::new();
    if let Some(said) = keeper.stdout.take() {
        let read = BufReader::new(said.take(MAX_NAME)).read_line(&mut line);
        read.map_err(Failure::during("the disposable's name"))?;
    }
    match line.strip_suffix('\n') {
        Some(name) => Target::new(name).map_err(Failure::during("the disposable's name")),
        None => Err(Failure::trouble("there is no disposable")),
    }
}

/// The service's status, or that of a lost call if its caller goes first.
fn call(args: &DvmArgs, qube: &Target, service: &ServiceName, source: &Target) -> Result<i32, Failure> {
    let mut client = Command::new(own_executable())
        .arg0("qrexec-client")
        .arg("--socket-dir")
        .arg(&args.socket_dir)
        .args(["-d", qube.as_str(), "--", &format!("{}:QUBESRPC {service} {source}", args.user)])
        .spawn()
        .map_err(Failure::during("qrexec-client"))?;
    let waited = wait_for(&client);
    if !matches!(waited, Ok(true)) {
        // One that has ended by itself in the meantime needs no end.
        let _ = client.kill();
    }
    let ended = client.wait().map_err(Failure::during("qrexec-client"))?;
    waited.map_err(Failure::during("waiting for the call"))?;
    Ok(ended.code().unwrap_or(status::LOST))
}

/// Waits until the client has ended, or nobody reads its output any more. Whether it was the first.
fn wait_for(client: &Child) -> Result<bool, Errno> {
    let end = pidfd_open(Pid::from_child(client), PidfdFlags::empty())?;
    let output = rustix::stdio::stdout();
    loop {
        // A reader that has gone is told of without being asked for.
        let mut fds = [PollFd::new(&end, PollFlags::IN), PollFd::new(&output, PollFlags::empty())];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        let [ended, gone] = fds.map(|fd| !fd.revents().is_empty());
        if ended || gone {
            return Ok(ended);
        }
    }
}
