//! The command line of `qrexec-client-vm`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use clap::{ArgAction, Parser};
use engine::confine::Confinement;
use engine::getopt::{Opt, Program, Wrong};
use wire::names::{Ident, MAX_TARGET, ServiceName, Target};
use wire::trigger::Trigger;
use wire::usbip::Rules;

use crate::failure::Failure;
use crate::local_program::LocalProgram;
use crate::number::{self, NumberError};
use crate::{status, usage};

/// Names the agent's socket where no option does.
pub(super) const SOCKET_VARIABLE: &str = "QREXEC_AGENT_SOCKET";
/// Where it is otherwise.
pub(crate) const SOCKET: &str = "/var/run/qubes/qrexec-agent";

/// Largest data ring, each way, in bytes.
const MAX_BUFFER: u64 = ring::layout::MAX_RING as u64;

/// The command line as it is read; [`ClientVmArgs`] says the same for manual pages and completions.
pub static LINE: Program = Program {
    name: "qrexec-client-vm",
    options: &[
        Opt::value("buffer-size", "N"),
        Opt::flag("filter-escape-chars-stdout").short('t'),
        Opt::flag("filter-escape-chars-stderr").short('T'),
        Opt::flag("no-filter-escape-chars-stdout"),
        Opt::flag("no-filter-escape-chars-stderr"),
        Opt::value("agent-socket", "PATH").short('a'),
        Opt::value("prefix-data", "DATA").short('p'),
        Opt::flag("use-stdin-socket"),
        Opt::flag("splice"),
        Opt::value("filter", "RULES"),
        Opt::flag("no-confine"),
        Opt::value("source-qube", "QUBE").short('s'),
    ],
    help: include_str!("args/help.txt"),
    version: env!("CARGO_PKG_VERSION"),
};

/// Ask for a service in another qube.
#[derive(Debug, PartialEq, Eq, Parser)]
#[command(
    name = "qrexec-client-vm",
    override_usage = "qrexec-client-vm [OPTIONS] TARGET SERVICE [PROGRAM [ARGS…]]",
    args_override_self = true,
    infer_long_args = true
)]
pub(super) struct ClientVmArgs {
    /// Smallest ring for the data, in each direction: bytes, or with K or M behind [default: by transport]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    buffer_size: Option<String>,
    /// Replace what is not plain text in the service's output by '_' (default on a terminal, without PROGRAM)
    #[arg(short = 't', long, overrides_with = "no_filter_escape_chars_stdout")]
    filter_escape_chars_stdout: bool,
    /// Replace what is not plain text in the service's error output by '_' (default on a terminal)
    #[arg(short = 'T', long, overrides_with = "no_filter_escape_chars_stderr")]
    filter_escape_chars_stderr: bool,
    /// Leave the service's output as it is
    #[arg(long)]
    no_filter_escape_chars_stdout: bool,
    /// Leave the service's error output as it is
    #[arg(long)]
    no_filter_escape_chars_stderr: bool,
    /// The agent's socket
    #[arg(
        short = 'a',
        long,
        value_name = "PATH",
        env = SOCKET_VARIABLE,
        default_value = SOCKET
    )]
    agent_socket: PathBuf,
    /// Send DATA before what comes from stdin (once)
    #[arg(short, long, value_name = "DATA", action = ArgAction::Append, allow_hyphen_values = true)]
    prefix_data: Vec<OsString>,
    /// Use stdin, which must be a stream socket, for both directions
    #[arg(long, action = ArgAction::Count)]
    use_stdin_socket: u8,
    /// Lend ring pages to stdout, a pipe, instead of copying them: only where its reader copies what it reads
    #[arg(long)]
    splice: bool,
    /// Both directions are USB over IP: pass only what RULES allow, `usbip` and more words as in a service's configuration
    #[arg(long, value_name = "RULES", conflicts_with = "filter_escape_chars_stdout")]
    filter: Option<String>,
    /// Do not confine this process while it moves bytes, for debugging; QREXEC_CONFINE=off does the same
    #[arg(long)]
    no_confine: bool,
    /// The qube on whose behalf the call is made: a hint for the policy (once)
    #[arg(short, long, value_name = "QUBE", action = ArgAction::Append)]
    source_qube: Vec<OsString>,
    /// The target, the service, and a program whose stdin and stdout will be the service's, with its arguments
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_names = ["TARGET", "SERVICE"])]
    words: Vec<OsString>,
}

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) agent_socket: PathBuf,
    pub(super) request: Trigger,
    pub(super) program: Option<LocalProgram>,
    /// Smallest data ring each way, in bytes; `None` for the transport's default.
    pub(super) buffer: Option<usize>,
    pub(super) prefix: Vec<u8>,
    pub(super) stdin_is_both: bool,
    pub(super) splice: bool,
    /// What passes, if both directions are USB over IP.
    pub(super) usbip: Option<Rules>,
    pub(super) confinement: Confinement,
    /// `None`: as the stream requires.
    pub(super) filter_stdout: Option<bool>,
    /// `None`: as the stream requires.
    pub(super) filter_stderr: Option<bool>,
}

impl ClientVmArgs {
    /// Reads the command line, the program's name first.
    ///
    /// # Errors
    /// The exit status to end with: 0 after `--help`, 2 after the one line on stderr that says what is wrong.
    pub(super) fn read(args: Vec<OsString>) -> Result<Self, i32> {
        Self::from_line(args).map_err(|wrong| LINE.explain(&wrong))
    }

    fn from_line(args: Vec<OsString>) -> Result<Self, Wrong> {
        let line = LINE.read(args)?;
        let stdout = line.either("filter-escape-chars-stdout", "no-filter-escape-chars-stdout");
        let stderr = line.either("filter-escape-chars-stderr", "no-filter-escape-chars-stderr");
        if stdout == Some(true) && line.is_set("filter") {
            return Err(Wrong::Both("filter", "filter-escape-chars-stdout"));
        }
        let agent_socket = LINE.path(&line, "agent-socket", SOCKET_VARIABLE, SOCKET)?;
        if line.words.len() < 2 {
            return Err(Wrong::Missing("TARGET and SERVICE are needed"));
        }
        Ok(Self {
            buffer_size: LINE.parsed(&line, "buffer-size", None)?,
            filter_escape_chars_stdout: stdout == Some(true),
            filter_escape_chars_stderr: stderr == Some(true),
            no_filter_escape_chars_stdout: stdout == Some(false),
            no_filter_escape_chars_stderr: stderr == Some(false),
            agent_socket,
            prefix_data: line.all("prefix-data"),
            use_stdin_socket: u8::try_from(line.count("use-stdin-socket")).unwrap_or(u8::MAX),
            splice: line.is_set("splice"),
            filter: LINE.parsed(&line, "filter", None)?,
            no_confine: line.is_set("no-confine"),
            source_qube: line.all("source-qube"),
            words: line.words,
        })
    }

    /// What the agent is asked for.
    pub(super) fn request(
        target: &OsStr,
        service: &OsStr,
        source: Option<&OsStr>,
    ) -> Result<Trigger, Failure> {
        Ok(Trigger {
            source: source.filter(|name| !name.is_empty()).map(target_name).transpose()?,
            target: target_name(&at_signs(target))?,
            service: service_name(service)?,
            ident: Ident::new(Ident::SOCKET).map_err(|error| Failure::trouble(error.to_string()))?,
        })
    }

    /// Checks everything that can be checked before the agent is asked.
    pub(super) fn plan(self) -> Result<Plan, Failure> {
        let buffer = self.buffer_size.as_deref().map(buffer_size).transpose()?.filter(|size| *size != 0);
        let prefix = once("--prefix-data", self.prefix_data)?.unwrap_or_default().into_vec();
        let source = once("--source-qube", self.source_qube)?;
        let (target, service, program) = split(self.words)?;
        if self.use_stdin_socket > 1 {
            return Err(Failure::usage("--use-stdin-socket can only be used once"));
        }
        let stdin_is_both = self.use_stdin_socket > 0;
        if stdin_is_both && program.is_some() {
            return Err(Failure::usage("--use-stdin-socket does not go with a local program"));
        }
        let request = Self::request(&target, &service, source.as_deref())?;
        Ok(Plan {
            agent_socket: self.agent_socket,
            request,
            program,
            buffer,
            prefix,
            stdin_is_both,
            splice: self.splice,
            usbip: self.filter.as_deref().map(usage::usbip_rules).transpose()?,
            confinement: Confinement::unless(self.no_confine),
            filter_stdout: choice(self.filter_escape_chars_stdout, self.no_filter_escape_chars_stdout),
            filter_stderr: choice(self.filter_escape_chars_stderr, self.no_filter_escape_chars_stderr),
        })
    }
}

const fn choice(on: bool, off: bool) -> Option<bool> {
    match (on, off) {
        (true, _) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
    }
}

fn once(option: &str, mut values: Vec<OsString>) -> Result<Option<OsString>, Failure> {
    match values.len() {
        0 | 1 => Ok(values.pop()),
        _ => Err(Failure::usage(format!("{option} can only be used once"))),
    }
}

fn split(words: Vec<OsString>) -> Result<(OsString, OsString, Option<LocalProgram>), Failure> {
    let mut words = words.into_iter();
    let (Some(target), Some(service)) = (words.next(), words.next()) else {
        return Err(Failure::usage("TARGET and SERVICE are needed"));
    };
    let program = words.next().map(|file| LocalProgram::new(&file, words.collect()));
    Ok((target, service, program))
}

/// Keywords were once written with a dollar sign.
fn at_signs(target: &OsStr) -> OsString {
    OsString::from_vec(target.as_bytes().iter().map(|&b| if b == b'$' { b'@' } else { b }).collect())
}

/// A cut name would be another name, so a long one is refused here.
fn target_name(name: &OsStr) -> Result<Target, Failure> {
    if name.len() > MAX_TARGET {
        return Err(Failure::usage(format!("a qube's name has at most {MAX_TARGET} bytes")));
    }
    Ok(Target::sanitize(name.as_bytes()))
}

/// The daemon would refuse such a call, so its answer is given here.
fn service_name(name: &OsStr) -> Result<ServiceName, Failure> {
    ServiceName::sanitize(name.as_bytes())
        .map_err(|error| Failure { status: status::REFUSED, message: format!("service name: {error}") })
}

fn buffer_size(text: &str) -> Result<usize, Failure> {
    let explain = |error: NumberError| format!("--buffer-size={}: {error}", text.escape_default());
    number::parse_size(text, MAX_BUFFER)
        .and_then(|size| usize::try_from(size).map_err(|_| NumberError::TooLarge(MAX_BUFFER)))
        .map_err(|error| match error {
            NumberError::NotANumber => Failure::usage(explain(error)),
            NumberError::TooLarge(_) => Failure::trouble(explain(error)),
        })
}

#[cfg(test)]
mod tests;
