//! `qrexec-policy-daemon`: decides about calls for everybody who may connect to its socket.
//!
//! One thread reads requests and decides. `qubesd` is asked by another, once at a time, and its answer serves all who
//! waited for it. What takes longer than that, the user's answer or a notice, has a thread of its own, so that nobody
//! waits for somebody else's user.

pub(crate) mod request;
mod server;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Parser;

use crate::{status, usage};

const PROGRAM: &str = "qrexec-policy-daemon";
const SOCKET: &str = "/run/qubes/policy.sock";
const EVAL_SOCKET: &str = "/etc/qubes-rpc/policy.EvalSimple";
const GUI_SOCKET: &str = "/etc/qubes-rpc/policy.EvalGUI";

/// Decides about qrexec calls, for the qrexec daemons of this machine.
///
/// Policy is read anew as soon as a file of it changes, all of it at once. While it has an error, every
/// call is denied and the log says which line is wrong.
#[derive(Clone, Debug, Parser)]
#[command(name = PROGRAM)]
struct PolicyDaemonArgs {
    /// Policy folder; the first given hides the files of the others.
    #[arg(long = "policy-path", alias = "policy-dir", value_name = "DIR", env = "QREXEC_POLICY_DIR", value_delimiter = ':',
          default_values = [policy::load::RUNTIME_POLICY_FOLDER, policy::load::POLICY_FOLDER])]
    folders: Vec<PathBuf>,
    /// Where questions are taken.
    #[arg(long = "socket-path", alias = "socket", value_name = "PATH", env = "QREXEC_POLICY_SOCKET", default_value = SOCKET)]
    socket: PathBuf,
    /// Where the service policy.EvalSimple is served [default: as in dom0, unless --socket-path is given]
    #[arg(long = "eval-socket-path", value_name = "PATH")]
    eval_socket: Option<PathBuf>,
    /// Where the service policy.EvalGUI is served [default: likewise]
    #[arg(long = "gui-socket-path", value_name = "PATH")]
    gui_socket: Option<PathBuf>,
    /// What qubes there are, as JSON; without it qubesd is asked.
    #[arg(long, value_name = "FILE", env = "QREXEC_SYSTEM_INFO")]
    system_info: Option<PathBuf>,
}

/// The command line, for manual pages and completions.
pub fn command() -> clap::Command {
    <PolicyDaemonArgs as clap::CommandFactory>::command()
}

/// Runs the program with these arguments, its name first, and gives its exit status.
pub fn main(args: Vec<OsString>) -> i32 {
    let mut args = match usage::parse::<PolicyDaemonArgs>(PROGRAM, args) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if args.socket.as_path() == Path::new(SOCKET) {
        args.eval_socket.get_or_insert_with(|| EVAL_SOCKET.into());
        args.gui_socket.get_or_insert_with(|| GUI_SOCKET.into());
    }
    let folders = args.folders.iter().map(PathBuf::as_path);
    if let Err(failure) = super::check_not_the_hosts(folders) {
        return failure.report(PROGRAM);
    }
    match server::Server::new(&args).and_then(server::Server::run) {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!("{error}");
            status::TROUBLE
        }
    }
}
