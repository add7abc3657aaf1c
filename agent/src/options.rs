//! The command line of `qrexec-agent`.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::Parser;
use clap::error::ErrorKind;
use engine::Installation;

use crate::fork_server;

/// Exit status for a command line without sense.
pub(crate) const EXIT_USAGE: i32 = 2;

/// Where programs of R1 and R2 look for the FIFO.
const R2_FOLDER: &str = "/var/run/qubes";

/// Runs the services of this VM, and lets its programs call services of other VMs.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(name = "qrexec-agent", version, args_override_self = true, infer_long_args = true)]
pub struct Options {
    /// Where programs of this VM ask for services
    #[arg(short = 'a', long, value_name = "PATH", env = "QREXEC_AGENT_SOCKET")]
    #[arg(default_value = "/var/run/qubes/qrexec-agent")]
    pub agent_socket: PathBuf,

    /// Where a user's fork server listens, %s is the user's name; empty: there is none. By default
    /// there is one, but not in a lab, at /var/run/qubes/qrexec-server.%s.sock
    #[arg(short = 's', long, value_name = "PATH")]
    pub fork_server_socket: Option<OsString>,

    /// Do not use fork servers
    #[arg(short = 'S', long)]
    pub no_fork_server: bool,

    /// Calls that programs of this VM may have at once, those that run included; more are refused. By default as many
    /// as half of the descriptors that this process may have
    #[arg(long, value_name = "N", env = "QREXEC_MAX_CALLS")]
    pub max_calls: Option<usize>,

    /// Calls from outside that may be there at once, until their services have ended; each caller may have half of what
    /// the others leave, and more are refused. By default as many as half of the memory and a part of the descriptors
    /// are enough for
    #[arg(long, value_name = "N", env = "QREXEC_MAX_SERVED")]
    pub max_served: Option<usize>,

    /// Also let programs of R1 and R2 ask, by the FIFO and the socket of that time in DIR; the agent's own socket moves
    /// to PATH.sock if the FIFO has its place
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = R2_FOLDER)]
    pub r2_api: Option<PathBuf>,

    /// Speak the protocol of R1 and R2 with dom0, for which --r2-api is the only way to ask
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1))]
    pub protocol: Option<u32>,

    /// Do not confine the processes of calls, for debugging; QREXEC_CONFINE=off does the same
    #[arg(long)]
    pub no_confine: bool,

    /// What is logged; else QREXEC_LOG says so, else RUST_LOG
    // It is read before everything else, by whoever sets up the log.
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
        read(args).map_err(|error| explain(&error))
    }

    /// The folder of the FIFO, wherever it is wanted.
    pub(crate) fn r2_folder(&self) -> PathBuf {
        self.r2_api.clone().unwrap_or_else(|| R2_FOLDER.into())
    }

    /// Where programs of today ask.
    pub(crate) fn socket(&self) -> PathBuf {
        let fifo = self.r2_api.as_ref().map(|folder| folder.join("qrexec-agent"));
        if fifo.as_ref() != Some(&self.agent_socket) {
            return self.agent_socket.clone();
        }
        let mut moved = self.agent_socket.clone().into_os_string();
        moved.push(".sock");
        moved.into()
    }

    /// Where fork servers listen, with `%s` for the user; `None`: they are not to be used.
    ///
    /// A lab has none of its own, and the ones of the system around it belong to
    /// another agent: only a path that was given counts there.
    #[must_use]
    pub fn fork_server(&self, installation: Installation) -> Option<&OsStr> {
        let default = (!installation.is_lab()).then_some(OsStr::new(fork_server::SOCKET));
        let path = self.fork_server_socket.as_deref().or(default);
        path.filter(|path| !self.no_fork_server && !path.is_empty())
    }
}

/// Reads the arguments as the C program does.
pub(crate) fn read<T: Parser>(args: Vec<OsString>) -> Result<T, clap::Error> {
    engine::getopt::matches(T::command(), args).and_then(|matches| T::from_arg_matches(&matches))
}

/// Says what clap has to say; gives the exit status that goes with it.
pub(crate) fn explain(error: &clap::Error) -> i32 {
    // A closed stream is no reason for another status.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => 0,
        _ => EXIT_USAGE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Options, ErrorKind> {
        let args = std::iter::once(&"qrexec-agent").chain(args).map(OsString::from).collect();
        read(args).map_err(|error: clap::Error| error.kind())
    }

    #[test]
    fn every_option_has_its_field() {
        let options =
            parse(&["--agent-socket=/a", "--fork-server-socket=/b/%s", "--no-fork-server"]).expect("fine");
        assert_eq!(options.agent_socket, PathBuf::from("/a"));
        assert_eq!(options.fork_server_socket.as_deref(), Some(OsStr::new("/b/%s")));
        assert!(options.no_fork_server);
        // As getopt takes them: the last one holds, and a beginning is enough.
        assert_eq!(parse(&["-a/a", "--agent=/b"]).expect("fine").agent_socket, PathBuf::from("/b"));
        let cluster = parse(&["-Sa/c"]).expect("fine");
        assert_eq!((cluster.agent_socket, cluster.no_fork_server), (PathBuf::from("/c"), true));
        assert_eq!((options.r2_api, options.protocol), (None, None));
        assert_eq!(parse(&["--nonsense"]), Err(ErrorKind::UnknownArgument));
        assert_eq!(parse(&["positional"]), Err(ErrorKind::UnknownArgument));
    }

    #[test]
    fn the_fifo_of_old_takes_the_sockets_place_where_both_have_one_name() {
        let old = parse(&["--r2-api", "--protocol=1"]).expect("fine");
        assert_eq!((old.r2_folder(), old.protocol), ("/var/run/qubes".into(), Some(1)));
        assert_eq!(old.socket(), PathBuf::from("/var/run/qubes/qrexec-agent.sock"));
        let beside = parse(&["--r2-api=/old", "-a/a"]).expect("fine");
        assert_eq!((beside.r2_folder(), beside.socket()), ("/old".into(), "/a".into()));
        assert!(parse(&["--protocol=2"]).is_err());
    }

    #[test]
    fn fork_servers_are_used_where_they_belong() {
        let options = parse(&["-a/a"]).expect("fine");
        assert_eq!(options.fork_server(Installation::System), Some(OsStr::new(fork_server::SOCKET)));
        assert_eq!(options.fork_server(Installation::Lab), None);
        let given = parse(&["-a/a", "-s/b"]).expect("fine");
        assert_eq!(given.fork_server(Installation::Lab), Some(OsStr::new("/b")));
        assert_eq!(parse(&["-a/a", "-s/b", "-S"]).expect("fine").fork_server(Installation::Lab), None);
        assert_eq!(parse(&["-a/a", "-s", ""]).expect("fine").fork_server(Installation::System), None);
    }
}
