//! The command line of `qrexec-client`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser};
use engine::confine::Confinement;
use engine::datalink::WAIT_CLIENT;
use wire::control::MAX_CMDLINE;
use wire::names::{DomainId, Ident, Target};
use wire::r2::Handles;
use wire::usbip::Rules;

use crate::failure::Failure;
use crate::number;
use crate::usage::usbip_rules;

/// Names the folder of the daemons' sockets where no option does.
pub(super) const SOCKET_DIR_VARIABLE: &str = "QREXEC_SOCKET_DIR";
/// Where it is otherwise.
pub(crate) const SOCKET_DIR: &str = "/var/run/qubes";

/// Longest time that `-w` can ask for: more than any call lasts, and safe to add to a clock.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Run a command or a service in a qube, from dom0.
#[derive(Debug, Parser)]
#[command(
    name = "qrexec-client",
    override_usage = "qrexec-client -d NAME [-l CMD | -c ID,SRC,SRCID | -e] [OPTIONS] [--] COMMAND",
    args_override_self = true,
    infer_long_args = true
)]
pub(super) struct ClientArgs {
    /// The qube: its name, id, or uuid:UUID
    #[arg(short = 'd', value_name = "NAME")]
    domain: OsString,
    /// Connect this local command, or service of dom0, instead of stdin and stdout
    #[arg(short, value_name = "CMD", conflicts_with = "exit_at_once")]
    local: Option<OsString>,
    /// Connect the service or command to a waiting request of the qube SRC; dom0 as NAME runs it here
    #[arg(short, value_name = "ID,SRC,SRCID", action = ArgAction::Append, conflicts_with = "exit_at_once")]
    connect: Vec<OsString>,
    /// Only start it, with its stdio on /dev/null
    #[arg(short)]
    exit_at_once: bool,
    /// End with 0, whatever the command's exit code
    #[arg(short = 'E', long)]
    no_exit_code: bool,
    /// Replace what is not plain text in the output by '_'
    #[arg(short = 't')]
    filter_stdout: bool,
    /// Replace what is not plain text in the error output by '_'
    #[arg(short = 'T')]
    filter_stderr: bool,
    /// How long to wait for the qube to connect; 0 for as long as it takes [default: 10]
    #[arg(short, value_name = "SECONDS")]
    wait: Option<String>,
    /// With -c: wait for the end of the connection
    #[arg(short = 'W')]
    wait_for_end: bool,
    /// Kill the qube before ending; with -c only -W waits for the end of the connection before that
    #[arg(short)]
    kill: bool,
    /// The folder of the daemons' sockets
    #[arg(long, value_name = "DIR", env = SOCKET_DIR_VARIABLE, default_value = SOCKET_DIR)]
    socket_dir: PathBuf,
    /// Send DATA before what comes from stdin (once)
    #[arg(short, long, value_name = "DATA", action = ArgAction::Append)]
    prefix_data: Vec<OsString>,
    /// Use stdin, which must be a stream socket, for both directions
    #[arg(long, action = ArgAction::Count, conflicts_with = "local")]
    use_stdin_socket: u8,
    /// Both directions are USB over IP: pass only what RULES allow, `usbip` and more words as in a service's configuration
    #[arg(long, value_name = "RULES", conflicts_with_all = ["filter_stdout", "exit_at_once"])]
    filter: Option<String>,
    /// Do not confine this process while it moves bytes, for debugging; QREXEC_CONFINE=off does the same
    #[arg(long)]
    no_confine: bool,
    /// What to run: USER:COMMAND, USER:QUBESRPC SERVICE+ARG SOURCE; for dom0 itself without USER
    #[arg(value_name = "COMMAND", required_unless_present_all = ["local", "connect"])]
    command: Option<OsString>,
}

/// A request of a qube that waits for its service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) ident: Ident,
    pub(super) source: Target,
    pub(super) source_id: DomainId,
}

/// What the connection to the command is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Our own stdin and stdout.
    Here,
    /// A local command or service.
    Local(Vec<u8>),
    /// Nothing, it only has to start.
    StartOnly,
    /// A request that waits elsewhere.
    Connect(Waiting),
    /// As in R2: this local command for a request that waits in the qube itself. That is what `-l CMD -c ID` means
    /// without COMMAND.
    Existing {
        /// The command.
        local: Vec<u8>,
        /// The request.
        ident: String,
    },
}

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) target: Target,
    pub(super) purpose: Purpose,
    pub(super) command: Vec<u8>,
    pub(super) wait: Duration,
    pub(super) wait_for_end: bool,
    pub(super) exit_code: bool,
    pub(super) kill: bool,
    pub(super) filter_stdout: bool,
    pub(super) filter_stderr: bool,
    pub(super) socket_dir: PathBuf,
    pub(super) prefix: Vec<u8>,
    pub(super) stdin_is_both: bool,
    /// What passes, if both directions are USB over IP.
    pub(super) usbip: Option<Rules>,
    pub(super) confinement: Confinement,
}

impl ClientArgs {
    /// Checks everything that can be checked before a daemon is asked.
    pub(super) fn plan(mut self) -> Result<Plan, Failure> {
        if self.use_stdin_socket > 1 || self.prefix_data.len() > 1 || self.connect.len() > 1 {
            return Err(Failure::usage("-c, -p and --use-stdin-socket can only be used once"));
        }
        if self.wait_for_end && self.connect.is_empty() {
            return Err(Failure::usage("-W goes with -c only: without it the call is waited for anyway"));
        }
        if self.command.is_some() && self.local.is_some() && !self.connect.is_empty() {
            return Err(Failure::usage("-l and -c go together only as in R2, without COMMAND"));
        }
        let existing = self.command.is_none();
        let command = self.command.unwrap_or_default().into_vec();
        if !existing && (command.is_empty() || command.len() > MAX_CMDLINE) {
            return Err(Failure::usage(format!("COMMAND must have 1 to {MAX_CMDLINE} bytes")));
        }
        let purpose = match (self.local, self.connect.pop(), self.exit_at_once) {
            (Some(local), Some(ident), _) => {
                Purpose::Existing { local: local.into_vec(), ident: parse_handles(ident)? }
            }
            (Some(local), ..) => Purpose::Local(local.into_vec()),
            (_, Some(waiting), _) => Purpose::Connect(parse_waiting(waiting)?),
            (_, _, true) => Purpose::StartOnly,
            _ => Purpose::Here,
        };
        let prefix = self.prefix_data.pop().unwrap_or_default().into_vec();
        Ok(Plan {
            target: domain(self.domain)?,
            purpose,
            command,
            wait: self.wait.as_deref().map_or(Ok(WAIT_CLIENT), wait_time)?,
            wait_for_end: self.wait_for_end,
            exit_code: !self.no_exit_code,
            kill: self.kill,
            filter_stdout: self.filter_stdout,
            filter_stderr: self.filter_stderr,
            socket_dir: self.socket_dir,
            prefix,
            stdin_is_both: self.use_stdin_socket > 0,
            usbip: self.filter.as_deref().map(usbip_rules).transpose()?,
            confinement: Confinement::unless(self.no_confine),
        })
    }
}

fn text(word: OsString, what: &str) -> Result<String, Failure> {
    word.into_string().map_err(|_| Failure::usage(format!("{what} is not text")))
}

/// A name that becomes part of a socket's path: the characters of a target, no slash among them.
pub(super) fn domain(name: OsString) -> Result<Target, Failure> {
    let name = text(name, "-d NAME")?;
    // Every other id leads to a daemon; dom0 has none.
    let name = if name == "0" { "dom0" } else { &name };
    Target::new(name).map_err(|error| Failure::usage(format!("-d NAME: {error}")))
}

fn wait_time(text: &str) -> Result<Duration, Failure> {
    match number::parse(text, i32::MAX as u64) {
        Ok(0) => Ok(FOREVER),
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(error) => Err(Failure::usage(format!("-w {}: {error}", text.escape_default()))),
    }
}

/// The ident of a request of R2.
fn parse_handles(word: OsString) -> Result<String, Failure> {
    let word = text(word, "-c ID")?;
    match Handles::parse(word.as_bytes()) {
        Some(_) => Ok(word),
        None => Err(Failure::usage("-l CMD -c ID without COMMAND: ID has three numbers")),
    }
}

fn parse_waiting(word: OsString) -> Result<Waiting, Failure> {
    let word = text(word, "-c ID,SRC,SRCID")?;
    let wrong = || Failure::usage("-c needs ID,SRC,SRCID: a request id, a qube and its id");
    let mut parts = word.splitn(3, ',');
    let (Some(ident), Some(source), Some(id)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(wrong());
    };
    let id =
        number::parse(id, i32::MAX as u64).ok().and_then(|id| u32::try_from(id).ok()).ok_or_else(wrong)?;
    let source = Target::new(source).map_err(|_| wrong())?;
    let ident = Ident::new(ident).map_err(|_| wrong())?;
    if ident.as_str().is_empty() {
        return Err(wrong());
    }
    if source.is_dom0() || id == 0 {
        return Err(Failure::usage("-c is for requests of qubes, dom0 has none that wait"));
    }
    Ok(Waiting { ident, source, source_id: DomainId(id) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(args: &[&str]) -> Result<Plan, i32> {
        let args = std::iter::once(&"qrexec-client").chain(args).map(OsString::from).collect();
        crate::usage::parse::<ClientArgs>("qrexec-client", args)?.plan().map_err(|failure| failure.status)
    }

    #[test]
    fn a_plain_call() {
        let plan = plan(&["-d", "work", "user:ls"]).unwrap();
        assert_eq!((plan.target.as_str(), plan.command.as_slice()), ("work", b"user:ls".as_slice()));
        assert_eq!((plan.purpose, plan.wait, plan.exit_code), (Purpose::Here, WAIT_CLIENT, true));
    }

    #[test]
    fn dom0_has_four_names() {
        for name in ["dom0", "@adminvm", "0", "uuid:00000000-0000-0000-0000-000000000000"] {
            assert!(plan(&["-d", name, "DEFAULT:QUBESRPC a dom0"]).unwrap().target.is_dom0(), "{name}");
        }
        assert!(!plan(&["-d", "00", "user:ls"]).unwrap().target.is_dom0());
    }

    #[test]
    fn options_may_follow_the_command() {
        let plan = plan(&["-d", "work", "user:ls", "-E", "-t", "-w", "0x10"]).unwrap();
        assert!(!plan.exit_code && plan.filter_stdout && !plan.filter_stderr);
        assert_eq!(plan.wait, Duration::from_secs(16));
    }

    #[test]
    fn options_are_taken_as_getopt_takes_them() {
        let plan_of = |args: &[&str]| plan(args).unwrap();
        assert_eq!(plan_of(&["-dwork", "-w0", "u:x"]).wait, FOREVER);
        assert_eq!(plan_of(&["-dwork", "-pDATA", "--", "-x"]).prefix, b"DATA");
        assert_eq!(plan_of(&["-dwork", "-p", "-x", "--", "-x"]).command, b"-x");
        assert_eq!(plan_of(&["-dwork", "-lCMD", "u:x"]).purpose, Purpose::Local(b"CMD".to_vec()));
        assert!(matches!(plan_of(&["-dwork", "-cSOCKET7,vault,3", "u:x"]).purpose, Purpose::Connect(_)));
        // As upstream's policy programs of R4.2 and R4.3 write it for disposables.
        let words = ["-EWkd", "uuid:aa-11", "-c", "SOCKET7,vault,3", "--", "DEFAULT:QUBESRPC a.B+ vault"];
        let plan = plan_of(&words);
        assert_eq!((plan.target.as_str(), plan.command.as_slice()), ("uuid:aa-11", words[5].as_bytes()));
        assert!(plan.kill && plan.wait_for_end && !plan.exit_code);
        assert!(matches!(plan.purpose, Purpose::Connect(_)));
    }

    #[test]
    fn a_request_of_r2_has_a_local_command_and_no_other() {
        let plan = plan(&["-d", "work", "-l", "cat", "-c", "9 11 12"]).unwrap();
        assert_eq!(plan.purpose, Purpose::Existing { local: b"cat".to_vec(), ident: "9 11 12".to_owned() });
        for wrong in [&["-c", "9 11 12"][..], &["-l", "cat"], &["-l", "cat", "-c", "9 11"], &["-e"]] {
            assert!(self::plan(&[&["-d", "work"], wrong].concat()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn waiting_requests() {
        let plan = plan(&["-d", "work", "-c", "SOCKET7,vault,3", "-W", "user:ls"]).unwrap();
        let ident = Ident::numbered(7);
        let waiting = Waiting { ident, source: Target::new("vault").unwrap(), source_id: DomainId(3) };
        assert_eq!((plan.purpose, plan.wait_for_end), (Purpose::Connect(waiting), true));
    }

    #[test]
    fn wrong_command_lines() {
        let with = |args: &[&str]| plan(&[args, &["-d", "work", "u:x"]].concat()).err();
        assert_eq!(with(&[]), None);
        for wrong in [
            &["-e", "-l", "x"][..],
            &["-e", "-c", "a,b,1"],
            &["-l", "x", "-c", "a,b,1"],
            &["-l", "x", "--use-stdin-socket"],
            &["-W"],
            &["-W", "-e"],
            &["-W", "-l", "x"],
            &["-c", "a,b"],
            &["-c", ",b,1"],
            &["-c", "a,dom0,1"],
            &["-c", "a,b,0"],
            &["-c", "a\n,b,1"],
            &["-w", "x"],
            &["-w", "-1"],
            &["-w-1"],
            &["-x"],
            &["-p", "a", "-p", "b"],
            &["--filter", "usb"],
            &["--filter", "usbip", "-t"],
            &["--filter", "usbip", "-e"],
        ] {
            assert_eq!(with(wrong), Some(2), "{wrong:?}");
        }
        for wrong in
            [&["u:x"][..], &["-d", "work"], &["-d", "../x", "u:x"], &["-d", "a", ""], &["-d", "a", "b", "c"]]
        {
            assert_eq!(plan(wrong).err(), Some(2), "{wrong:?}");
        }
        let help = ClientArgs::try_parse_from(["qrexec-client", "-h"]).expect_err("help");
        assert_eq!(help.kind(), clap::error::ErrorKind::DisplayHelp);
    }
}
