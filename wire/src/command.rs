//! The command line inside an exec request: `user:[nogui:]command`.
//!
//! A command that begins with `QUBESRPC ` asks for a service, `QUBESRPC service+arg source` with
//! optionally ` name TARGET` or ` keyword TARGET` behind; everything else is for the user's shell.

use alloc::string::String;
use alloc::vec::Vec;

use crate::control::MAX_CMDLINE;
use crate::names::{NameError, ServiceName, Target};

const NOGUI: &[u8] = b"nogui:";
const SERVICE: &[u8] = b"QUBESRPC";
/// Longest user name, in bytes; Linux itself stops at 32.
const MAX_USER: usize = 255;

/// A command line, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The user to run as; `None` only where command lines carry none (services in dom0).
    pub user: Option<String>,
    /// Run without waiting for a graphical session.
    pub nogui: bool,
    /// What to run.
    pub kind: CommandKind,
}

/// What a command line asks to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandKind {
    /// Text for the user's shell: no NUL, otherwise any bytes.
    Shell(Vec<u8>),
    /// A service.
    Service(ServiceCall),
}

/// A service and who asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceCall {
    /// The service with its argument.
    pub service: ServiceName,
    /// The calling domain, as the daemon names it.
    pub source: Target,
    /// What the caller asked for before policy decided; told in dom0 only.
    pub requested: Option<Requested>,
    /// The words behind `QUBESRPC `, as they were received.
    words: String,
}

/// The target as the caller asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requested {
    /// A domain by its name.
    Name(Target),
    /// A keyword, without its `@`.
    Keyword(Target),
}

impl Requested {
    /// Sorts a target into name or keyword. `None` for a lone `@`.
    pub fn new(target: &Target) -> Option<Self> {
        match target.keyword() {
            Some(keyword) => Target::new(keyword).ok().map(Self::Keyword),
            None => Some(Self::Name(target.clone())),
        }
    }

    /// The word on the command line and in `QREXEC_REQUESTED_TARGET_TYPE`.
    pub const fn type_word(&self) -> &'static str {
        match self {
            Self::Name(_) => "name",
            Self::Keyword(_) => "keyword",
        }
    }

    /// The target, a keyword without its `@`.
    pub const fn target(&self) -> &Target {
        match self {
            Self::Name(target) | Self::Keyword(target) => target,
        }
    }
}

/// Why a command line is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Longer than an exec message takes.
    #[error("a command line of {len} bytes, at most {max} are allowed")]
    TooLong {
        /// Length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// A NUL, at which the command would end too early when it is executed.
    #[error("a NUL in the command line")]
    Nul,
    /// No `user:` in front.
    #[error("no user name and colon in front of the command")]
    NoUser,
    /// A user name that is empty, endless or holds control characters.
    #[error("malformed user name")]
    BadUser,
    /// Nothing to run.
    #[error("the command is empty")]
    Empty,
    /// `QUBESRPC` with something else than service, source and optionally the requested target.
    #[error("QUBESRPC is not followed by a service, a source and at most a requested target")]
    Words,
    /// A malformed service name.
    #[error("service name: {0}")]
    Service(NameError),
    /// A malformed source.
    #[error("source: {0}")]
    Source(NameError),
    /// A malformed requested target.
    #[error("requested target: {0}")]
    Requested(NameError),
}

impl Command {
    /// Takes a command line apart, `user:[nogui:]command` without the final NUL.
    pub fn parse(cmdline: &[u8]) -> Result<Self, CommandError> {
        check_text(cmdline)?;
        let colon = cmdline.iter().position(|&b| b == b':').ok_or(CommandError::NoUser)?;
        let (user, rest) = cmdline.split_at_checked(colon).ok_or(CommandError::NoUser)?;
        let command = rest.get(1..).unwrap_or_default();
        Ok(Self { user: Some(user_name(user)?), ..Self::parse_without_user(command)? })
    }

    /// Takes a command line apart that has no user in front: `[nogui:]command`.
    pub fn parse_without_user(cmdline: &[u8]) -> Result<Self, CommandError> {
        check_text(cmdline)?;
        let (nogui, command) = match cmdline.strip_prefix(NOGUI) {
            Some(command) => (true, command),
            None => (false, cmdline),
        };
        let kind = match command.strip_prefix(SERVICE) {
            Some(words) => CommandKind::Service(ServiceCall::parse_words(words)?),
            None if command.is_empty() => return Err(CommandError::Empty),
            None => CommandKind::Shell(command.to_vec()),
        };
        Ok(Self { user: None, nogui, kind })
    }

    /// The command line for this command, without the final NUL.
    pub fn to_cmdline(&self) -> Vec<u8> {
        let mut line = Vec::new();
        if let Some(user) = &self.user {
            line.extend_from_slice(user.as_bytes());
            line.push(b':');
        }
        if self.nogui {
            line.extend_from_slice(NOGUI);
        }
        match &self.kind {
            CommandKind::Shell(command) => line.extend_from_slice(command),
            CommandKind::Service(call) => {
                line.extend_from_slice(SERVICE);
                line.push(b' ');
                line.extend_from_slice(call.descriptor().as_bytes());
            }
        }
        line
    }
}

impl ServiceCall {
    /// A call as a daemon passes it on. A daemon has to add the `+` to a service without argument.
    pub fn new(service: ServiceName, source: Target, requested: Option<Requested>) -> Self {
        let mut words = service.with_plus().into_owned();
        let target = requested.iter().flat_map(|r| [r.type_word(), r.target().as_str()]);
        for word in core::iter::once(source.as_str()).chain(target) {
            words.push(' ');
            words.push_str(word);
        }
        Self { service, source, requested, words }
    }

    /// Reads ` service+arg source[ type target]`, the part behind `QUBESRPC`. There is exactly one blank in front and
    /// exactly one behind the service; further on, any number of them separates words.
    fn parse_words(words: &[u8]) -> Result<Self, CommandError> {
        let words = words.strip_prefix(b" ").ok_or(CommandError::Words)?;
        let text = core::str::from_utf8(words).map_err(|_| CommandError::Words)?;
        let (service, rest) = text.split_once(' ').ok_or(CommandError::Words)?;
        let service = ServiceName::new(service).map_err(CommandError::Service)?;
        if rest.starts_with(' ') {
            return Err(CommandError::Words);
        }
        let mut rest = rest.split(' ').filter(|word| !word.is_empty());
        let source = rest.next().ok_or(CommandError::Words)?;
        let source = Target::new(source).map_err(CommandError::Source)?;
        let requested = match (rest.next(), rest.next(), rest.next()) {
            (None, ..) => None,
            (Some("name"), Some(target), None) => Some(Requested::Name(requested(target)?)),
            (Some("keyword"), Some(target), None) => Some(Requested::Keyword(requested(target)?)),
            _ => return Err(CommandError::Words),
        };
        Ok(Self { service, source, requested, words: String::from(text) })
    }

    /// What stands behind `QUBESRPC `, every byte of it, and what a socket service gets first, there with a NUL
    /// behind it.
    pub fn descriptor(&self) -> &str {
        &self.words
    }
}

fn check_text(cmdline: &[u8]) -> Result<(), CommandError> {
    if cmdline.len() > MAX_CMDLINE {
        return Err(CommandError::TooLong { len: cmdline.len(), max: MAX_CMDLINE });
    }
    if cmdline.contains(&0) { Err(CommandError::Nul) } else { Ok(()) }
}

fn user_name(user: &[u8]) -> Result<String, CommandError> {
    let text = core::str::from_utf8(user).map_err(|_| CommandError::BadUser)?;
    if text.is_empty() || text.len() > MAX_USER || text.chars().any(|c| c.is_control() || c == '/') {
        return Err(CommandError::BadUser);
    }
    Ok(String::from(text))
}

fn requested(target: &str) -> Result<Target, CommandError> {
    Target::new(target).map_err(CommandError::Requested)
}

#[cfg(test)]
mod tests;
