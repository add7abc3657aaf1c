//! Which name a near machine's qube has on the far machine.
//!
//! A link's file `sources` says so, one rule a line: `NEAR LOCAL` for one qube, `* PREFIX` for all others. The file
//! `qubes` of the near machine has lines `LOCAL REMOTE`: the remote qube's name here, and its name there. Blank lines
//! and everything from a `#` on are ignored.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Longest name of a qube, in bytes.
pub const MAX_NAME: usize = 31;

/// Why a name is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// No bytes, or more than Qubes allows.
    #[error("a name has 1 to {MAX_NAME} bytes")]
    Length,
    /// A byte that no name may have.
    #[error("a name begins with a letter and has letters, digits, _, . and - only")]
    Byte,
    /// The administrative qube is no target and no source.
    #[error("dom0 is not reached from another machine")]
    Dom0,
}

/// A qube's name, if these bytes are one that a call between machines may have.
///
/// # Errors
/// Why they are not.
pub fn check_name(name: &[u8]) -> Result<String, BadName> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(BadName::Length);
    }
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if !name.first().is_some_and(u8::is_ascii_alphabetic) || !name.iter().all(plain) {
        return Err(BadName::Byte);
    }
    if name == b"dom0" {
        return Err(BadName::Dom0);
    }
    core::str::from_utf8(name).map(String::from).map_err(|_| BadName::Byte)
}

/// A line of a link's file that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct BadLine {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: BadLineKind,
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadLineKind {
    /// Not two words.
    #[error("two words are wanted")]
    Words,
    /// A word that is no name.
    #[error("{0}")]
    Name(#[from] BadName),
    /// The same name or `*` again.
    #[error("an earlier line has the same name")]
    Again,
}

/// The file `sources` of a link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    names: Vec<(String, String)>,
    prefix: Option<String>,
}

impl Sources {
    /// Reads the file.
    ///
    /// # Errors
    /// The first line that is not one of its kind.
    pub fn parse(text: &str) -> Result<Self, BadLine> {
        let mut sources = Self::default();
        for (line, words) in lines(text) {
            sources.add(&words).map_err(|what| BadLine { line, what })?;
        }
        Ok(sources)
    }

    fn add(&mut self, words: &[&str]) -> Result<(), BadLineKind> {
        let [near, local] = words else {
            return Err(BadLineKind::Words);
        };
        let local = check_name(local.as_bytes())?;
        if *near == "*" {
            return match self.prefix.replace(local) {
                None => Ok(()),
                Some(_) => Err(BadLineKind::Again),
            };
        }
        let near = check_name(near.as_bytes())?;
        if self.names.iter().any(|(known, _)| *known == near) {
            return Err(BadLineKind::Again);
        }
        self.names.push((near, local));
        Ok(())
    }

    /// The name by which the far machine knows a qube of the near one. Whatever name is claimed becomes one of this
    /// link's, or is refused.
    #[must_use]
    pub fn local(&self, near: &str) -> Option<String> {
        if let Some((_, local)) = self.names.iter().find(|(known, _)| known == near) {
            return Some(local.clone());
        }
        let name = format!("{}{near}", self.prefix.as_ref()?);
        check_name(name.as_bytes()).ok()
    }
}

/// The file `qubes` of a link: which remote qubes are reached by it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remotes(Vec<(String, String)>);

impl Remotes {
    /// Reads the file.
    ///
    /// # Errors
    /// The first line that is not one of its kind.
    pub fn parse(text: &str) -> Result<Self, BadLine> {
        let mut remotes = Self::default();
        for (line, words) in lines(text) {
            remotes.add(&words).map_err(|what| BadLine { line, what })?;
        }
        Ok(remotes)
    }

    fn add(&mut self, words: &[&str]) -> Result<(), BadLineKind> {
        let [local, remote] = words else {
            return Err(BadLineKind::Words);
        };
        let (local, remote) = (check_name(local.as_bytes())?, check_name(remote.as_bytes())?);
        if self.remote(&local).is_some() {
            return Err(BadLineKind::Again);
        }
        self.0.push((local, remote));
        Ok(())
    }

    /// What a remote qube is called on its own machine.
    #[must_use]
    pub fn remote(&self, local: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == local).map(|(_, remote)| remote.as_str())
    }
}

/// The lines that are not blank or comments, each with its number and its words.
fn lines(text: &str) -> impl Iterator<Item = (usize, Vec<&str>)> {
    text.lines().enumerate().filter_map(|(index, line)| {
        let said = line.split_once('#').map_or(line, |(said, _)| said);
        let words: Vec<&str> = said.split_ascii_whitespace().collect();
        (!words.is_empty()).then_some((index.saturating_add(1), words))
    })
}
