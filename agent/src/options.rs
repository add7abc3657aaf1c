//! The command line of `qrexec-agent`.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::Parser;
use engine::Installation;
use engine::getopt::{Opt, Program, Wrong};

use crate::fork_server;

/// Where programs of R1 and R2 look for the FIFO.
const R2_FOLDER: &str = "/var/run/qubes";

/// The environment variable for the socket, if no option names it.
const SOCKET_VARIABLE: &str = "QREXEC_AGENT_SOCKET";
/// The socket, if neither names it.
const SOCKET: &str = "/var/run/qubes/qrexec-agent";
/// The environment variable for the number of calls, if no option gives it.
const MAX_CALLS_VARIABLE: &str = "QREXEC_MAX_CALLS";
/// The same for calls from outside.
const MAX_SERVED_VARIABLE: &str = "QREXEC_MAX_SERVED";

/// The command line as it is read; [`Options`] says the same for manual pages and completions.
pub static PROGRAM: Program = Program {
    name: "qrexec-agent",
    options: &[
        Opt::value("agent-socket", "PATH").short('a'),
        Opt::value("fork-server-socket", "PATH").short('s'),
        Opt::flag("no-fork-server").short('S'),
        Opt::value("max-calls", "N"),
        Opt::value("max-served", "N"),
        Opt::optional("r2-api"),
        Opt::value("protocol", "N"),
        Opt::flag("no-confine"),
    ],
    help: include_str!("options/help.txt"),
    version: env!("CARGO_PKG_VERSION"),
};

/// Runs the services of this VM, and lets its programs call services of other VMs.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(name = "qrexec-agent", version, args_override_self = true, infer_long_args = true)]
pub struct Options {
    /// Where programs of this VM ask for services
    #[arg(short = 'a', long, value_name = "PATH", env = SOCKET_VARIABLE)]
    #[arg(default_value = SOCKET)]
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
    #[arg(long, value_name = "N", env = MAX_CALLS_VARIABLE)]
    pub max_calls: Option<usize>,

    /// Calls from outside that may be there at once, until their services have ended; each caller may have half of what
    /// the others leave, and more are refused. By default as many as half of the memory and a part of the descriptors
    /// are enough for
    #[arg(long, value_name = "N", env = MAX_SERVED_VARIABLE)]
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
        Self::read(args).map_err(|wrong| PROGRAM.explain(&wrong))
    }

    fn read(args: Vec<OsString>) -> Result<Self, Wrong> {
        let line = PROGRAM.read(args)?;
        if let Some(word) = line.words.first() {
            return Err(Wrong::Word(word.display().to_string()));
        }
        let r2_api = line.is_set("r2-api").then(|| line.last("r2-api").unwrap_or(R2_FOLDER.as_ref()));
        if line.all("r2-api").iter().any(|folder| folder.is_empty()) {
            return Err(Wrong::NoValue("r2-api"));
        }
        let is_one = |said: &OsString| said.to_str().and_then(|text| text.parse().ok()) == Some(1_u32);
        if let Some(said) = line.all("protocol").iter().find(|said| !is_one(said)) {
            return Err(PROGRAM.refuses("protocol", said, "1 is the only one to ask for"));
        }
        Ok(Self {
            agent_socket: PROGRAM.path(&line, "agent-socket", SOCKET_VARIABLE, SOCKET)?,
            fork_server_socket: line.last("fork-server-socket").map(OsStr::to_owned),
            no_fork_server: line.is_set("no-fork-server"),
            max_calls: PROGRAM.parsed(&line, "max-calls", Some(MAX_CALLS_VARIABLE))?,
            max_served: PROGRAM.parsed(&line, "max-served", Some(MAX_SERVED_VARIABLE))?,
            r2_api: r2_api.map(PathBuf::from),
            protocol: line.is_set("protocol").then_some(1),
            no_confine: line.is_set("no-confine"),
            log_level: line.text("log-level"),
        })
    }

    /// The folder of the FIFO, if it is wanted.
    pub(crate) fn r2_folder(&self) -> PathBuf {
        self.r2_api.clone().unwrap_or_else(|| R2_FOLDER.into())
    }

    /// Where programs of this release ask.
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::command_line;

    fn words(args: &[&str]) -> Vec<OsString> {
        std::iter::once(&"qrexec-agent").chain(args).map(OsString::from).collect()
    }

    fn parse(args: &[&str]) -> Result<Options, Wrong> {
        Options::read(words(args))
    }

    /// The manual page and the completions come from clap's definition, so the two must not differ.
    #[test]
    fn it_is_read_as_it_is_defined_for_clap() {
        use proptest::prelude::*;
        let word = prop_oneof![
            "(-a|-s|-S|--agent|--no-f|--fork-server-socket=|--max-c|--max-served=)",
            "(--r2-api|--r2-api=|--protocol=|--no-confine|--log-level=|--log|--)",
            "(/x|-S|1|7|-|debug)",
        ];
        let joined = prop::collection::vec(word.clone(), 1..3).prop_map(|parts| parts.concat());
        let line = prop::collection::vec(prop_oneof![word, joined], 0..5);
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let agree = |args: Vec<String>| {
            let args = words(&args.iter().map(String::as_str).collect::<Vec<_>>());
            let ours = Options::read(args.clone());
            let claps = command_line::read::<Options>(args);
            prop_assert_eq!(ours.ok(), claps.ok());
            Ok(())
        };
        runner.run(&line, agree).expect("they agree");
    }

    #[test]
    fn its_help_is_the_one_that_clap_would_show() {
        let command = Options::command().term_width(100).mut_args(|arg| arg.hide_env_values(true));
        let clap = command.clone().render_help().to_string();
        let ours = PROGRAM.help;
        assert_eq!(ours, clap, "src/options/help.txt is to be:\n{clap}");
        assert_eq!(parse(&["-h"]), Err(Wrong::Help));
        assert_eq!(parse(&["--version"]), Err(Wrong::Version));
    }

    #[test]
    fn every_option_has_its_field() {
        let options =
            parse(&["--agent-socket=/a", "--fork-server-socket=/b/%s", "--no-fork-server"]).expect("fine");
        assert_eq!(options.agent_socket, PathBuf::from("/a"));
        assert_eq!(options.fork_server_socket.as_deref(), Some(OsStr::new("/b/%s")));
        assert!(options.no_fork_server);
        // As getopt reads them: the last one counts, and an abbreviation is enough.
        assert_eq!(parse(&["-a/a", "--agent=/b"]).expect("fine").agent_socket, PathBuf::from("/b"));
        let cluster = parse(&["-Sa/c"]).expect("fine");
        assert_eq!((cluster.agent_socket, cluster.no_fork_server), (PathBuf::from("/c"), true));
        assert_eq!((options.r2_api, options.protocol), (None, None));
        assert_eq!(parse(&["--nonsense"]), Err(Wrong::Unknown("--nonsense".into())));
        assert_eq!(parse(&["positional"]), Err(Wrong::Word("positional".into())));
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
