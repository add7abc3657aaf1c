//! Exit statuses, and which of several a caller gets to see.

use engine::pump::Outcome;

use crate::failure::Failure;

/// A command line that makes no sense.
pub const USAGE: i32 = 2;
/// Trouble of qrexec itself.
pub const TROUBLE: i32 = 125;
/// The call was refused.
pub const REFUSED: i32 = 126;
/// There is no such program.
pub const NOT_FOUND: i32 = 127;
/// The link was lost before the service's exit code came. Also what stands for codes that no exit
/// status can express.
pub const LOST: i32 = 255;

/// The service's exit code as an exit status. A code that does not fit into 8 bits must not become
/// another one by losing bits, least of all 0.
pub fn of_service(code: i32) -> i32 {
    if (0..=255).contains(&code) { code } else { LOST }
}

/// The exit status of a call whose data link was opened: the service's exit code, unless the local
/// program failed, which then shows its own.
///
/// # Errors
/// A failure of a local descriptor is 125 and a lost link 255: what ran in the call may have done anything.
pub fn of_call(outcome: &Outcome) -> Result<i32, Failure> {
    if let Some(why) = &outcome.failed {
        return Err(Failure::trouble(why));
    }
    let Some(remote) = outcome.remote else {
        return Err(lost("service", outcome.lost.as_deref().unwrap_or("it ended without an exit code")));
    };
    Ok(match outcome.local {
        None | Some(0) => of_service(remote),
        Some(local) => local,
    })
}

/// The exit status of a call whose service ran here: the service's.
///
/// # Errors
/// The caller was lost or a local descriptor failed, as for [`of_call`].
pub fn of_served(outcome: &Outcome) -> Result<i32, Failure> {
    if let Some(why) = &outcome.failed {
        return Err(Failure::trouble(why));
    }
    match &outcome.lost {
        Some(why) => Err(lost("caller", why)),
        None => Ok(outcome.local.unwrap_or(0)),
    }
}

fn lost(whom: &str, why: &str) -> Failure {
    Failure { status: LOST, message: format!("the link to the {whom} was lost: {why}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(remote: Option<i32>, local: Option<i32>) -> Outcome {
        Outcome { remote, local, ..Outcome::default() }
    }

    #[test]
    fn no_failure_is_lost() {
        let code = |result: Result<i32, Failure>| result.map_err(|failure| failure.status);
        let status = |remote, local| code(of_call(&outcome(remote, local)));
        assert_eq!(status(Some(0), None), Ok(0));
        assert_eq!(status(Some(7), None), Ok(7));
        assert_eq!(status(Some(7), Some(0)), Ok(7));
        assert_eq!(status(Some(0), Some(141)), Ok(141));
        assert_eq!(status(Some(7), Some(3)), Ok(3));
        assert_eq!(status(None, Some(0)), Err(LOST));
        assert_eq!(status(None, None), Err(LOST));
        let full = Outcome { failed: Some("disk full".into()), ..outcome(Some(0), None) };
        assert_eq!([code(of_call(&full)), code(of_served(&full))], [Err(TROUBLE); 2]);
        let lost = Outcome { lost: Some("gone".into()), ..outcome(None, Some(0)) };
        assert_eq!(code(of_served(&lost)), Err(LOST));
        assert_eq!(of_served(&outcome(None, Some(4))), Ok(4));
    }

    #[test]
    fn codes_beyond_eight_bits_are_not_cut() {
        assert_eq!([0, 1, 255, 256, 512, -1, i32::MIN].map(of_service), [0, 1, 255, 255, 255, 255, 255]);
    }
}
