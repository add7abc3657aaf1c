//! Exit statuses, and which of several a caller gets to see.

use engine::pump::Outcome;

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
/// program failed, which then shows its own. A failure of a local descriptor is 125 and a lost link 255,
/// each with a line on stderr.
pub fn of_call(program: &str, outcome: &Outcome) -> i32 {
    if let Some(why) = &outcome.failed {
        eprintln!("{program}: {why}");
        return TROUBLE;
    }
    let Some(remote) = outcome.remote else {
        let why = outcome.lost.as_deref().unwrap_or("it ended without an exit code");
        eprintln!("{program}: the link to the service was lost: {why}");
        return LOST;
    };
    match outcome.local {
        None | Some(0) => of_service(remote),
        Some(local) => local,
    }
}

/// The exit status of a call whose service ran here: the service's, unless the caller was lost or a
/// local descriptor failed.
pub fn of_served(program: &str, outcome: &Outcome) -> i32 {
    if let Some(why) = &outcome.failed {
        eprintln!("{program}: {why}");
        return TROUBLE;
    }
    if let Some(why) = &outcome.lost {
        eprintln!("{program}: the link to the caller was lost: {why}");
        return LOST;
    }
    outcome.local.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(remote: Option<i32>, local: Option<i32>) -> Outcome {
        Outcome { remote, local, ..Outcome::default() }
    }

    #[test]
    fn no_failure_is_lost() {
        let status = |remote, local| of_call("test", &outcome(remote, local));
        assert_eq!(status(Some(0), None), 0);
        assert_eq!(status(Some(7), None), 7);
        assert_eq!(status(Some(7), Some(0)), 7);
        assert_eq!(status(Some(0), Some(141)), 141);
        assert_eq!(status(Some(7), Some(3)), 3);
        assert_eq!(status(None, Some(0)), LOST);
        assert_eq!(status(None, None), LOST);
        let full = Outcome { failed: Some("disk full".into()), ..outcome(Some(0), None) };
        assert_eq!([of_call("test", &full), of_served("test", &full)], [TROUBLE; 2]);
        let lost = Outcome { lost: Some("gone".into()), ..outcome(None, Some(0)) };
        assert_eq!(of_served("test", &lost), LOST);
        assert_eq!(of_served("test", &outcome(None, Some(4))), 4);
    }

    #[test]
    fn codes_beyond_eight_bits_are_not_cut() {
        assert_eq!([0, 1, 255, 256, 512, -1, i32::MIN].map(of_service), [0, 1, 255, 255, 255, 255, 255]);
    }
}
