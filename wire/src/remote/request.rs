//! The far side's command in a session, which says what is asked for: one line of text.
//!
//! This project's is `qrexec-remote 1 SOURCE TARGET SERVICE+ARGUMENT`, five words with single blanks, and frames
//! follow. The far side also accepts `qrexec-client-vm --source-qube=SOURCE TARGET SERVICE`, which a script of
//! upstream's documentation sends, and then plain bytes follow. No shell interprets either.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::names::{BadName, check_name};

/// The version of the command's form.
const FORM: &[u8] = b"1";
/// Longest service with its argument, in bytes.
pub const MAX_SERVICE: usize = 65_000;

/// How the bytes of a session are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// As [`super::frames`].
    Frames,
    /// Stdin one way, stdout and stderr the other; the exit code is the command's.
    Plain,
}

/// A call for the far side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The caller, by the near machine's name for it.
    pub source: String,
    /// The qube that is called, by the far machine's name for it.
    pub target: String,
    /// The service, with `+` and an argument if there is one.
    pub service: String,
    /// In which form the bytes of the call follow.
    pub layout: Layout,
}

/// What a far side is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A call.
    Call(Request),
    /// Nothing now: the session waits for a call in the other direction.
    Accept,
    /// Only HELLO and exit code 0, to show that the link works.
    Check,
    /// HELLO, then one call after the other: each is asked for by a line with its command, and frames follow as in a session of its
    /// own, from HELLO to the exit code.
    Ready,
}

/// Why a command is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// No command, or another program's.
    #[error("only calls are made by this key")]
    NotACall,
    /// Too few words or too many, or two blanks in a row.
    #[error("a call is named by a source, a target and a service")]
    Words,
    /// Another version of this form.
    #[error("the other side's form of a call is not known here")]
    Form,
    /// A source that is no name.
    #[error("the source: {0}")]
    Source(BadName),
    /// A target that is no name.
    #[error("the target: {0}")]
    Target(BadName),
    /// A service name that is not accepted.
    #[error("the service has a byte that no service has, or is too long")]
    Service,
}

impl Request {
    /// The command that asks for it.
    #[must_use]
    pub fn command(&self) -> String {
        let Self { source, target, service, layout } = self;
        match layout {
            Layout::Frames => format!("qrexec-remote 1 {source} {target} {service}"),
            Layout::Plain => format!("qrexec-client-vm --source-qube={source} -- {target} {service}"),
        }
    }

    /// A request of these words, each checked.
    ///
    /// # Errors
    /// One of them is not what it must be.
    pub fn new(source: &[u8], target: &[u8], service: &[u8], layout: Layout) -> Result<Self, BadRequest> {
        Ok(Self {
            source: check_name(source).map_err(BadRequest::Source)?,
            target: check_target(target).map_err(BadRequest::Target)?,
            service: check_service(service)?,
            layout,
        })
    }
}

/// The command by which a near side checks that a link works.
pub const CHECK: &str = "qrexec-remote 1 check";
/// The command by which a near side offers a session for calls in the other direction.
pub const ACCEPT: &str = "qrexec-remote 1 accept";

/// The command of a session that is opened before there is a call for it.
pub const READY: &str = "qrexec-remote 1 ready";
/// The longest line that asks for a call in such a session.
pub const MAX_LINE: usize = MAX_SERVICE + 256;

/// Reads the command of a session, as the near side sent it.
///
/// # Errors
/// It is none of those that a far side carries out.
pub fn parse(command: &[u8]) -> Result<Command, BadRequest> {
    if command == ACCEPT.as_bytes() {
        return Ok(Command::Accept);
    }
    if command == CHECK.as_bytes() {
        return Ok(Command::Check);
    }
    if command == READY.as_bytes() {
        return Ok(Command::Ready);
    }
    let words: Vec<&[u8]> = command.split(|&byte| byte == b' ').collect();
    match words.as_slice() {
        [b"qrexec-remote", form, source, target, service] => {
            if *form != FORM {
                return Err(BadRequest::Form);
            }
            Request::new(source, target, service, Layout::Frames).map(Command::Call)
        }
        [b"qrexec-remote", ..] => Err(BadRequest::Words),
        [b"qrexec-client-vm", source, rest @ ..] => {
            let source = source.strip_prefix(b"--source-qube=").ok_or(BadRequest::Words)?;
            let rest = rest.strip_prefix(&[b"--".as_slice()]).unwrap_or(rest);
            let [target, service] = rest else {
                return Err(BadRequest::Words);
            };
            Request::new(source, target, service, Layout::Plain).map(Command::Call)
        }
        [b"qrexec-client-vm"] => Err(BadRequest::Words),
        _ => Err(BadRequest::NotACall),
    }
}

/// A target is a name, or `@dispvm`, alone or with a name behind it, which a link must allow.
fn check_target(target: &[u8]) -> Result<String, BadName> {
    match target.strip_prefix(b"@dispvm") {
        Some([]) => Ok(String::from("@dispvm")),
        Some([b':', template @ ..]) => check_name(template).map(|template| format!("@dispvm:{template}")),
        _ => check_name(target),
    }
}

fn check_service(service: &[u8]) -> Result<String, BadRequest> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let (Some(first), true) = (service.first(), service.len() <= MAX_SERVICE) else {
        return Err(BadRequest::Service);
    };
    // A leading dash would be taken for an option by the programs that pass the name on.
    let sound = plain(first) && *first != b'-' && service.iter().all(|byte| plain(byte) || *byte == b'+');
    let text = core::str::from_utf8(service).ok().filter(|_| sound).ok_or(BadRequest::Service)?;
    Ok(String::from(text))
}
