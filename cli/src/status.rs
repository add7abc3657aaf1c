//! Exit statuses, and which of several a caller gets to see.

use engine::pump::{Exit, Outcome};
use wire::stream::Role;

use crate::failure::Failure;

/// A command line that makes no sense.
pub const USAGE: i32 = 2;
/// Trouble of qrexec itself.
pub const TROUBLE: i32 = 125;
/// The call was refused.
pub const REFUSED: i32 = 126;
/// There is no such program.
pub const NOT_FOUND: i32 = 127;
/// The link was lost before the service's exit code came. Also what stands for codes that no exit status can express.
pub const LOST: i32 = engine::pump::EXIT_LOST;

/// The exit status of a call whose data link was opened, by the rule that holds for every side of a call.
///
/// # Errors
/// What went wrong besides the service and the local program, with its status.
pub fn of_call(outcome: &Outcome) -> Result<i32, Failure> {
    of_exit(outcome.exit(Role::Client))
}

/// The same for a call whose service ran here.
///
/// # Errors
/// As for [`of_call`].
pub fn of_served(outcome: &Outcome) -> Result<i32, Failure> {
    of_exit(outcome.exit(Role::Service))
}

fn of_exit(Exit { status, trouble }: Exit) -> Result<i32, Failure> {
    trouble.map_or(Ok(status), |message| Err(Failure { status, message }))
}

#[cfg(test)]
mod tests {
    use engine::pump::Failure;

    use super::{Outcome, TROUBLE, of_call, of_served};

    #[test]
    fn trouble_is_said_whatever_the_status_is() {
        let outcome = |remote| Outcome { remote, ending: Failure::Mute.into(), ..Outcome::default() };
        let status = |remote| of_call(&outcome(remote)).map_err(|failure| (failure.status, failure.message));
        assert_eq!(status(Some(0)), Err((TROUBLE, Failure::Mute.to_string())));
        assert_eq!(status(Some(3)), Err((3, Failure::Mute.to_string())));
        assert_eq!(of_served(&Outcome { local: Some(4), ..Outcome::default() }), Ok(4));
    }
}
