//! The command line of `qrexec-fork-server`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;
use engine::exec::Account;

use super::{SOCKET, path};
use crate::command_line;

/// Runs calls in this login session, for the user who started it.
///
/// It goes into the background as soon as it listens.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(name = "qrexec-fork-server", version, args_override_self = true, infer_long_args = true)]
pub struct Options {
    /// Where the agent hands over calls [default: /var/run/qubes/qrexec-server.USER.sock]
    #[arg(value_name = "SOCKET")]
    pub socket: Option<PathBuf>,

    /// Stay in the foreground, as service managers want it
    #[arg(short, long)]
    pub foreground: bool,

    /// Do not confine the processes of calls, for debugging; QREXEC_CONFINE=off does the same
    #[arg(long)]
    pub no_confine: bool,

    /// What is logged; else QREXEC_LOG says so, else RUST_LOG
    // Used by the code that sets up the log, before the rest of the command line is read.
    #[arg(long, value_name = "LEVEL", value_parser = ["error", "warn", "info", "debug", "trace"])]
    pub log_level: Option<String>,
}

impl Options {
    /// Reads the arguments, the program's own name first.
    ///
    /// # Errors
    /// The exit status to end with when there is nothing to do: 0 after `--help`, 2 after the
    /// message that says what is wrong.
    pub fn from_args(args: Vec<OsString>) -> Result<Self, i32> {
        command_line::read(args).map_err(|error| command_line::explain(&error))
    }

    /// The socket that was named, or the one where the agent looks for this user's server. `None`: this user has no
    /// name.
    #[must_use]
    pub fn socket(&self) -> Option<PathBuf> {
        if let Some(socket) = &self.socket {
            return Some(socket.clone());
        }
        let account = || Account::by_uid(rustix::process::geteuid()).map(|account| account.name);
        let user = std::env::var("USER").ok().filter(|name| !name.is_empty()).or_else(account)?;
        // A name with a separator would lead out of the folder.
        (!user.contains('/')).then(|| path(SOCKET.as_ref(), &user))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_socket_at_most() {
        let parse = |args: &[&str]| Options::from_args(args.iter().map(OsString::from).collect());
        let options = parse(&["x", "/a"]).expect("fine");
        assert_eq!(options.socket(), Some(PathBuf::from("/a")));
        assert!(!options.foreground && parse(&["x", "-f"]).expect("fine").foreground);
        assert_eq!(parse(&["x", "/a", "/b"]), Err(2));
        let default = parse(&["x"]).expect("fine").socket().expect("somebody");
        assert!(default.starts_with("/var/run/qubes") && default.extension().is_some_and(|e| e == "sock"));
    }
}
