//! What an administrator may set for a service: `key = value` lines in a file with the service's name.
//!
//! The language is the small part of TOML that the C programs read: bare keys, booleans, decimal integers,
//! single-quoted strings, `#` comments. A line that is not understood fails the call, because a line that was meant to
//! restrict something must never be ignored silently. Only unknown keys are ignored as a whole, so that newer files
//! work with older programs.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use wire::usbip::Rules;

use super::ExecError;
use super::paths::SearchPath;

/// Longest file in bytes; all settings together take a few hundred.
const MAX_FILE: u64 = 64 << 10;

/// The settings of one service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceConfig {
    /// `wait-for-session`: start only when the user's graphical session is there.
    pub wait_for_session: bool,
    /// `skip-service-descriptor`: a socket service does not get the line that describes the call.
    pub skip_service_descriptor: bool,
    /// `exit-on-client-eof`: the call ends with code 0 as soon as the caller's data end.
    pub exit_on_client_eof: bool,
    /// `exit-on-service-eof`: the call ends with code 0 as soon as the service's data end.
    pub exit_on_service_eof: bool,
    /// `splice`: ring pages are lent to the service's stdin, which is then a pipe, instead of copied. Only for a
    /// program that copies what it reads: if it passed the pages on to another pipe, they could change there.
    pub splice: bool,
    /// `pipes`: the service's stdin and stdout are pipes, which it can open by name (`/dev/stdin`, `/dev/stdout`).
    /// Sockets cannot be opened, but only a socket can carry both directions, which some services need.
    pub pipes: bool,
    /// `builtin`: the call's own process does the work; the service's file is not run.
    pub builtin: Option<Builtin>,
    /// `existing`: what the built-in service does about names that exist already.
    pub existing: Existing,
    /// `filter`: the service's two streams are USB over IP, and only what these rules allow passes.
    pub filter: Option<Rules>,
    /// `force-user`: run as this user, whatever user the call names.
    pub force_user: Option<String>,
}

/// A service that a call's own process can perform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builtin {
    /// `filecopy`: the receiver of bulk file copy.
    Filecopy,
}

impl Builtin {
    fn named(name: &str) -> Option<Self> {
        (name == "filecopy").then_some(Self::Filecopy)
    }
}

/// What a receiver of files does about a name that exists already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Existing {
    /// `fail`: the copy ends.
    #[default]
    Fail,
    /// `rename`: the new entry gets another name, `NAME (2)`.
    Rename,
    /// `new-folder`: each copy goes into a folder of its own, named by the time.
    NewFolder,
    /// `skip-same`: a file of the same size and time is left as it is, and counts as received.
    SkipSame,
}

impl Existing {
    /// The rule with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "fail" => Some(Self::Fail),
            "rename" => Some(Self::Rename),
            "new-folder" => Some(Self::NewFolder),
            "skip-same" => Some(Self::SkipSame),
            _ => None,
        }
    }
}

/// Why a service's configuration is not usable; the call fails with 125.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A line is wrong.
    #[error("line {line}: {problem}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: Problem,
    },
    /// Settings that exclude each other.
    #[error("force-user does not go with {0}=true")]
    ForceUserWith(&'static str),
    /// Settings that exclude each other.
    #[error("filter does not go with {0}")]
    FilterWith(&'static str),
}

/// What can be wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A NUL byte.
    #[error("it contains a NUL byte")]
    Nul,
    /// Blanks before the key.
    #[error("it begins with a blank")]
    LeadingBlank,
    /// `[section]`.
    #[error("sections are not supported")]
    Section,
    /// Something that no key begins with.
    #[error("it does not begin with a letter")]
    Key,
    /// No `=` after the key.
    #[error("there is no '=' after the key")]
    NoEquals,
    /// A value of an unknown kind.
    #[error("the value is neither true, false, a decimal number nor a 'string'")]
    Value,
    /// A double-quoted or triple-quoted string.
    #[error("strings are written in single quotes, once")]
    Quotes,
    /// A string without an end, or one that is not text.
    #[error("the string has no end or is not UTF-8")]
    String,
    /// Something other than a comment after the value.
    #[error("there is more behind the value")]
    Trailing,
    /// A value of another type than the key takes.
    #[error("the value has the wrong type for this key")]
    Type,
    /// A word that this key does not accept.
    #[error("this key does not accept that word")]
    Word,
    /// A key for the second time.
    #[error("this key was there before")]
    Duplicate,
}

/// A file that was read: the settings, and the unknown keys with their lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Parsed {
    /// The settings of the known keys.
    pub(crate) config: ServiceConfig,
    /// Unknown keys: line number and key.
    pub(crate) unknown: Vec<(usize, String)>,
}

impl ServiceConfig {
    /// Finds and reads the configuration of a service: a file named `SERVICE+ARG` in any of the
    /// folders, else one named `SERVICE`, else the defaults.
    ///
    /// # Errors
    /// A file that is there but cannot be read or understood.
    pub fn load(folders: &SearchPath, full_name: &str, name: &str) -> Result<Self, ExecError> {
        let file = match folders.find(full_name)? {
            Some(file) => file,
            None => match folders.find(name)? {
                Some(file) => file,
                None => return Ok(Self::default()),
            },
        };
        let text =
            read(&file.path).map_err(|source| ExecError::Unreadable { path: file.path.clone(), source })?;
        let parsed = parse(&text).map_err(|source| ExecError::Config { path: file.path.clone(), source })?;
        parsed.log_unknown(&file.path);
        Ok(parsed.config)
    }

    /// Reads a file's text. Also returns its unknown keys, each with its line.
    ///
    /// # Errors
    /// An error that would fail every call of the service.
    pub fn check(text: &[u8]) -> Result<(Self, Vec<(usize, String)>), ConfigError> {
        parse(text).map(|parsed| (parsed.config, parsed.unknown))
    }

    /// Whether a fork server may run such a service: a fork server does not know the other settings.
    #[must_use]
    pub fn allows_fork_server(&self) -> bool {
        let for_sockets = self.skip_service_descriptor || self.exit_on_client_eof || self.exit_on_service_eof;
        !for_sockets && !self.splice && !self.pipes && self.builtin.is_none() && self.filter.is_none()
    }

    /// Whether no two settings exclude each other.
    fn go_together(&self) -> Result<(), ConfigError> {
        if let (Some(_), Some(key)) = (&self.force_user, self.socket_only_key()) {
            return Err(ConfigError::ForceUserWith(key));
        }
        // Checked bytes are in private memory and cannot be lent, and a built-in service has no streams to be
        // filtered.
        let unfiltered = [(self.splice, "splice"), (self.builtin.is_some(), "builtin")];
        match unfiltered.into_iter().find(|(set, _)| *set && self.filter.is_some()) {
            Some((_, key)) => Err(ConfigError::FilterWith(key)),
            None => Ok(()),
        }
    }

    /// The first setting that only makes sense for sockets, if any is there.
    #[must_use]
    pub fn socket_only_key(&self) -> Option<&'static str> {
        [
            (self.skip_service_descriptor, "skip-service-descriptor"),
            (self.exit_on_client_eof, "exit-on-client-eof"),
            (self.exit_on_service_eof, "exit-on-service-eof"),
        ]
        .into_iter()
        .find_map(|(set, key)| set.then_some(key))
    }
}

/// The content of a regular file. Waiting for a pipe, or reading a device without end, would keep all other calls
/// waiting.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a configuration must be a regular file"));
    }
    let mut text = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "a configuration has at most 64 KiB"));
    }
    Ok(text)
}

impl Parsed {
    fn log_unknown(&self, path: &Path) {
        for (line, key) in &self.unknown {
            tracing::warn!("{}: line {line}: unknown key {key} ignored", path.display());
        }
    }
}

/// Reads the text of a configuration file.
///
/// # Errors
/// The first line that is wrong, or settings that do not go together.
pub(crate) fn parse(text: &[u8]) -> Result<Parsed, ConfigError> {
    let mut parsed = Parsed::default();
    let mut seen = Vec::new();
    for (line, bytes) in (1..).zip(text.split(|&byte| byte == b'\n')) {
        let at = |problem| ConfigError::Line { line, problem };
        let Some((key, value)) = split(bytes).map_err(at)? else { continue };
        let known = parsed.config.set(key, value).map_err(at)?;
        if !known {
            parsed.unknown.push((line, key.to_owned()));
        } else if seen.contains(&key) {
            return Err(at(Problem::Duplicate));
        } else {
            seen.push(key);
        }
    }
    parsed.config.go_together().map(|()| parsed)
}

/// A value as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value<'a> {
    Bool(bool),
    Integer(u64),
    Text(&'a str),
}

impl ServiceConfig {
    /// Applies one setting; `false` if the key is unknown.
    fn set(&mut self, key: &str, value: Value<'_>) -> Result<bool, Problem> {
        match key {
            "wait-for-session" => self.wait_for_session = value.bool_or_digit()?,
            "skip-service-descriptor" => self.skip_service_descriptor = value.bool()?,
            "exit-on-client-eof" => self.exit_on_client_eof = value.bool()?,
            "exit-on-service-eof" => self.exit_on_service_eof = value.bool()?,
            "splice" => self.splice = value.bool()?,
            "pipes" => self.pipes = value.bool()?,
            "builtin" => self.builtin = Some(Builtin::named(value.text()?).ok_or(Problem::Word)?),
            "existing" => self.existing = Existing::named(value.text()?).ok_or(Problem::Word)?,
            "filter" => self.filter = Some(Rules::from_words(value.text()?).ok_or(Problem::Word)?),
            "force-user" => self.force_user = Some(value.text()?.to_owned()),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl Value<'_> {
    fn bool(self) -> Result<bool, Problem> {
        match self {
            Self::Bool(value) => Ok(value),
            _ => Err(Problem::Type),
        }
    }

    /// The key from the oldest files also accepts 0 and 1.
    fn bool_or_digit(self) -> Result<bool, Problem> {
        match self {
            Self::Integer(0) => Ok(false),
            Self::Integer(1) => Ok(true),
            other => other.bool(),
        }
    }

    fn text(&self) -> Result<&str, Problem> {
        match self {
            Self::Text(text) => Ok(text),
            _ => Err(Problem::Type),
        }
    }
}

const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

const fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

fn skip_blanks(mut bytes: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = bytes
        && is_blank(*first)
    {
        bytes = rest;
    }
    bytes
}

/// Key and value of a line without its newline; `None` for an empty line or a comment.
fn split(line: &[u8]) -> Result<Option<(&str, Value<'_>)>, Problem> {
    if line.contains(&0) {
        return Err(Problem::Nul);
    }
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match line.first() {
        None | Some(b'#') => return Ok(None),
        Some(b'[') => return Err(Problem::Section),
        Some(&first) if is_blank(first) => return Err(Problem::LeadingBlank),
        Some(first) if !first.is_ascii_alphabetic() => return Err(Problem::Key),
        Some(_) => {}
    }
    let end = line.iter().position(|&byte| !is_key_byte(byte)).unwrap_or(line.len());
    let (key, rest) = line.split_at(end);
    let key = std::str::from_utf8(key).map_err(|_| Problem::Key)?;
    let rest = skip_blanks(rest).strip_prefix(b"=").ok_or(Problem::NoEquals)?;
    let (value, rest) = value(skip_blanks(rest))?;
    match skip_blanks(rest).first() {
        None | Some(b'#') => Ok(Some((key, value))),
        Some(_) => Err(Problem::Trailing),
    }
}

/// The value at the beginning of `bytes`, and what follows it.
fn value(bytes: &[u8]) -> Result<(Value<'_>, &[u8]), Problem> {
    if let Some(rest) = bytes.strip_prefix(b"true") {
        return Ok((Value::Bool(true), rest));
    }
    if let Some(rest) = bytes.strip_prefix(b"false") {
        return Ok((Value::Bool(false), rest));
    }
    match bytes {
        [b'"', ..] | [b'\'', b'\'', b'\'', ..] => Err(Problem::Quotes),
        [b'\'', rest @ ..] => {
            let end = rest.iter().position(|&byte| byte == b'\'').ok_or(Problem::String)?;
            let (text, rest) = rest.split_at(end);
            let text = std::str::from_utf8(text).map_err(|_| Problem::String)?;
            Ok((Value::Text(text), rest.get(1..).unwrap_or_default()))
        }
        [b'0', rest @ ..] => Ok((Value::Integer(0), rest)),
        [b'1'..=b'9', ..] => {
            let end = bytes.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(bytes.len());
            let (digits, rest) = bytes.split_at(end);
            let number = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
            Ok((Value::Integer(number.ok_or(Problem::Value)?), rest))
        }
        _ => Err(Problem::Value),
    }
}

#[cfg(test)]
mod tests;
