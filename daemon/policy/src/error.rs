//! What is wrong with a policy, where, and what would be right.

use std::fmt;
use std::sync::Arc;

/// Why a [`Source`](crate::Source) could not give a file or a folder. The text is shown to people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(
    /// The reason, e.g. `no such file`.
    pub String,
);

/// A policy that does not compile: the place, the problem and the way out of it.
///
/// Shown as `FILE:LINE:COLUMN: problem; advice`. Lines and columns count from 1, columns in
/// characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError {
    /// The file, named as the [`Source`](crate::Source) names it; `None` if no file is to blame.
    pub file: Option<Arc<str>>,
    /// The line, from 1.
    pub line: Option<u32>,
    /// The column of the first character that is wrong, from 1, in characters.
    pub column: Option<u32>,
    /// What is wrong.
    pub problem: String,
    /// What would be right; empty if there is nothing to say.
    pub advice: String,
    /// True for text that is wrong, false for files that cannot be read or have a bad name. Upstream
    /// notifies the user of a denial for the second kind only.
    pub syntax: bool,
}

impl PolicyError {
    /// A file or folder that cannot be had.
    pub(crate) fn load(problem: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            file: None,
            line: None,
            column: None,
            problem: problem.into(),
            advice: advice.into(),
            syntax: false,
        }
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", OneLine(file))?;
        }
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if let Some(column) = self.column {
            write!(f, "{column}:")?;
        }
        if self.file.is_some() {
            f.write_str(" ")?;
        }
        f.write_str(&self.problem)?;
        if !self.advice.is_empty() {
            write!(f, "; {}", self.advice)?;
        }
        Ok(())
    }
}

impl std::error::Error for PolicyError {}

/// A file's name as a message may show it: an include may say any bytes.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c.is_control() {
            true => write!(f, "{}", c.escape_default()),
            false => write!(f, "{c}"),
        })
    }
}

/// A problem inside one line, before it is known which line of which file that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LineError {
    /// Column from 1, in characters.
    pub(crate) column: u32,
    pub(crate) problem: String,
    pub(crate) advice: String,
}

impl LineError {
    pub(crate) fn new(column: u32, problem: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { column, problem: problem.into(), advice: advice.into() }
    }

    /// The same problem, in its line of its file.
    pub(crate) fn at(self, file: &Arc<str>, line: u32) -> PolicyError {
        PolicyError {
            file: Some(file.clone()),
            line: Some(line),
            column: Some(self.column),
            problem: self.problem,
            advice: self.advice,
            syntax: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_have_any_name_and_the_message_is_text() {
        let error = LineError::new(1, "bad", "").at(&Arc::from("a\0b\u{1b}[31m/ü 'x'"), 3);
        assert_eq!(error.to_string(), "a\\u{0}b\\u{1b}[31m/ü 'x':3:1: bad");
    }
}
