#![forbid(unsafe_code)]
//! The one rule for what a call's exit status is, for the agent, services of dom0 and both clients.
//!
//! 1. The link was lost: 255.
//! 2. The service failed: its own code.
//! 3. Data could not be delivered: 125.
//! 4. A local program failed: its code.
//! 5. The reader of what the service sends went away first: 141, as for a program that `SIGPIPE` ends.
//! 6. Otherwise 0.

use wire::stream::Role;

use super::Outcome;
use crate::process::EXIT_TROUBLE;

/// The link was lost before the service's exit code came. Also what stands for codes that no exit status can express.
pub const EXIT_LOST: i32 = 255;

/// Nobody was there any more to read what the service sent.
pub const EXIT_UNREAD: i32 = 141;

/// How a call ended, for whoever took part in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The exit status.
    pub status: i32,
    /// What went wrong, for people: nothing did if the service or a local program failed by itself.
    pub trouble: Option<String>,
}

impl Ending {
    fn new(status: i32) -> Ending {
        Ending { status, trouble: None }
    }
}

impl Outcome {
    /// How the call ended, seen from this side of the link.
    pub fn ending(&self, role: Role) -> Ending {
        let (whom, service, program) = match role {
            // A service without a process, a socket, ends well.
            Role::Service => ("caller", Some(self.local.unwrap_or(0)), None),
            Role::Client => ("service", self.remote, self.local),
        };
        let code = service.map_or(0, of_service);
        let lost = match (&self.lost, service) {
            (Some(why), _) => Some(why.as_str()),
            (None, None) if self.failed.is_none() && !self.unread => Some("it ended without an exit code"),
            (None, _) => None,
        };
        match (lost, &self.failed) {
            (Some(why), _) => {
                Ending { status: EXIT_LOST, trouble: Some(format!("the link to the {whom} was lost: {why}")) }
            }
            (None, Some(why)) => {
                Ending { status: if code == 0 { EXIT_TROUBLE } else { code }, trouble: Some(why.clone()) }
            }
            (None, None) if code != 0 => Ending::new(code),
            (None, None) => match program {
                None | Some(0) if self.unread => Ending::new(EXIT_UNREAD),
                program => Ending::new(program.unwrap_or(0)),
            },
        }
    }
}

/// The service's exit code as an exit status. A code that does not fit into 8 bits must not become another one by
/// losing bits, least of all 0.
fn of_service(code: i32) -> i32 {
    if (0..=255).contains(&code) { code } else { EXIT_LOST }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(lost: bool, failed: bool) -> Outcome {
        let why = |happened: bool| happened.then(|| "reason".to_owned());
        Outcome { lost: why(lost), failed: why(failed), ..Outcome::default() }
    }

    /// Whatever happened, all that took part in a call agree on its status.
    #[test]
    fn one_rule_for_every_side() {
        for (lost, failed, code, status) in [
            (false, false, 0, 0),
            (false, false, 3, 3),
            (false, true, 0, 125),
            (false, true, 3, 3),
            (true, false, 0, 255),
            (true, false, 3, 255),
            (true, true, 0, 255),
            (true, true, 3, 255),
        ] {
            let service = Outcome { local: Some(code), ..outcome(lost, failed) };
            let client = Outcome { remote: Some(code), ..outcome(lost, failed) };
            let with_program = Outcome { local: Some(0), ..client.clone() };
            for (role, outcome) in
                [(Role::Service, service), (Role::Client, client), (Role::Client, with_program)]
            {
                let ending = outcome.ending(role);
                assert_eq!(ending.status, status, "{role:?} {outcome:?}");
                assert_eq!(ending.trouble.is_some(), lost || failed, "{role:?} {outcome:?}");
            }
        }
    }

    #[test]
    fn a_service_without_a_process_ends_well_unless_something_else_happened() {
        let status = |lost, failed| outcome(lost, failed).ending(Role::Service).status;
        assert_eq!([status(false, false), status(false, true), status(true, false)], [0, 125, 255]);
    }

    #[test]
    fn neither_failure_is_lost() {
        let status = |remote, program, unread| {
            let outcome = Outcome { remote, local: program, unread, ..Outcome::default() };
            outcome.ending(Role::Client).status
        };
        assert_eq!(status(Some(0), Some(0), false), 0);
        assert_eq!(status(Some(0), Some(3), false), 3);
        assert_eq!(status(Some(42), Some(0), false), 42);
        assert_eq!(status(Some(42), Some(3), false), 42);
        // The service's code never came, and nothing says why.
        assert_eq!(status(None, None, false), 255);
        assert_eq!(status(None, Some(3), false), 255);
        // It was cut off because its reader had gone.
        assert_eq!(status(None, None, true), 141);
        assert_eq!(status(None, Some(0), true), 141);
        assert_eq!(status(None, Some(3), true), 3);
        assert_eq!(status(Some(42), None, true), 42);
    }

    #[test]
    fn codes_beyond_eight_bits_are_not_cut() {
        assert_eq!([0, 1, 255, 256, 512, -1, i32::MIN].map(of_service), [0, 1, 255, 255, 255, 255, 255]);
    }
}
