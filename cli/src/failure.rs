//! Why a program ends before it has a service's exit code to show.

use std::fmt::Display;

use engine::say;

use crate::status;

/// A reason to end: the line for stderr and the exit status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The exit status.
    pub status: i32,
    /// What to say, without the program's name.
    pub message: String,
}

impl Failure {
    /// A command line that makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { status: status::USAGE, message: message.into() }
    }

    /// Trouble of qrexec itself.
    pub fn trouble(message: impl Into<String>) -> Self {
        Self { status: status::TROUBLE, message: message.into() }
    }

    /// Trouble while doing `what`; for `map_err`.
    pub fn during<E: Display>(what: impl Display) -> impl FnOnce(E) -> Self {
        move |error| Self::trouble(format!("{what}: {error}"))
    }

    /// Says it on stderr and gives the exit status.
    pub fn report(&self, program: &str) -> i32 {
        say::error(format_args!("{program}: {}", self.message));
        self.status
    }
}
