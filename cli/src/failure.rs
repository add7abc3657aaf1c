//! Why a program ends before it has a service's exit code to show.

use std::fmt::Display;

use engine::pump::{Exit, Outcome};
use engine::say;
use wire::stream::Role;

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

/// The exit status of a call whose data link was opened, by the rule that holds for every side of a call.
///
/// # Errors
/// What went wrong besides the service and the local program, with its status.
pub fn status_of_call(outcome: &Outcome) -> Result<i32, Failure> {
    of_exit(outcome.exit(Role::Client))
}

/// The same for a call whose service ran here.
///
/// # Errors
/// As for [`status_of_call`].
pub fn status_of_served(outcome: &Outcome) -> Result<i32, Failure> {
    of_exit(outcome.exit(Role::Service))
}

fn of_exit(Exit { status, trouble }: Exit) -> Result<i32, Failure> {
    trouble.map_or(Ok(status), |message| Err(Failure { status, message }))
}

#[cfg(test)]
mod tests {
    use engine::pump::Failure;

    use super::{Outcome, status_of_call, status_of_served};
    use crate::status::TROUBLE;

    #[test]
    fn trouble_is_said_whatever_the_status_is() {
        let outcome = |remote| Outcome { remote, ending: Failure::Mute.into(), ..Outcome::default() };
        let status =
            |remote| status_of_call(&outcome(remote)).map_err(|failure| (failure.status, failure.message));
        assert_eq!(status(Some(0)), Err((TROUBLE, Failure::Mute.to_string())));
        assert_eq!(status(Some(3)), Err((3, Failure::Mute.to_string())));
        assert_eq!(status_of_served(&Outcome { local: Some(4), ..Outcome::default() }), Ok(4));
    }
}
