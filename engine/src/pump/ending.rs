#![forbid(unsafe_code)]
//! The one rule for what a call's exit status is, for the agent, services of dom0 and both clients.
//!
//! 1. The link was lost: 255.
//! 2. The service failed: its own code.
//! 3. Data could not be delivered: 125.
//! 4. A local program failed: its code.
//! 5. The reader of what the service sends went away first: 141, as for a program that `SIGPIPE` ends.
//! 6. Otherwise 0.

use std::ffi::OsString;
use std::io;

use wire::error::{Misuse, PeerError};
use wire::stream::Role;
use wire::usbip::Violation;

use crate::process::EXIT_TROUBLE;

/// The link was lost before the service's exit code came. Also used for codes that no exit status can express.
pub const EXIT_LOST: i32 = 255;

/// What the service sent had no reader any more.
pub const EXIT_UNREAD: i32 = 141;

/// How a pump ended.
#[derive(Debug, Default)]
pub enum Ending {
    /// The exit code has come, or was sent, and the local side has everything that arrived.
    #[default]
    Complete,
    /// The link was lost before the call was complete.
    Lost(Lost),
    /// Something on this side failed. (A local descriptor whose other end was closed is no failure.)
    Failed(Failure),
    /// What the service sent had no reader any more, so the call was ended.
    Unread,
}

/// Why a link was lost.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// The ring or its doorbell failed.
    #[error(transparent)]
    Ring(#[from] ring::Error),
    /// The other side broke the protocol.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The other side has closed the link.
    #[error("the other side closed the link before the call was complete")]
    Closed,
    /// The other side has closed the link, and no local event can come either.
    #[error("the link is gone and nothing else is left to wait for")]
    Alone,
}

/// What failed on this side.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A local descriptor or process.
    #[error("{what}: {source}")]
    Local {
        /// What was being done.
        what: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// There never was a stdout to write to.
    #[error("stdout is closed, so what the service sent is lost")]
    Mute,
    /// The filter for USB over IP refused something.
    #[error("USB filter, {whose}: {why}")]
    Refused {
        /// Which side sent it.
        whose: Refused,
        /// What is wrong with them.
        why: Violation,
    },
    /// The process could not be confined.
    #[error("confining this process: {0}")]
    Confinement(io::Error),
    /// The pump broke the protocol: a bug of this program.
    #[error(transparent)]
    Misuse(#[from] Misuse),
    /// The environment asks for a driver that does not exist.
    #[error("QREXEC_ENGINE={0:?}: expected auto, poll or uring")]
    Engine(OsString),
}

/// Whose bytes a filter refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Those of the local side.
    Ours,
    /// Those of the other side.
    Theirs,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Refused::Ours => "what this side sends",
            Refused::Theirs => "what the other side sent",
        })
    }
}

impl Failure {
    /// Says what was being done when a system call failed.
    pub(super) fn during(what: &'static str) -> impl FnOnce(io::Error) -> Failure {
        move |source| Failure::Local { what, source }
    }
}

impl From<Lost> for Ending {
    fn from(lost: Lost) -> Ending {
        Ending::Lost(lost)
    }
}

impl From<ring::Error> for Ending {
    fn from(error: ring::Error) -> Ending {
        Ending::Lost(error.into())
    }
}

impl From<PeerError> for Ending {
    fn from(error: PeerError) -> Ending {
        Ending::Lost(error.into())
    }
}

impl From<Failure> for Ending {
    fn from(failure: Failure) -> Ending {
        Ending::Failed(failure)
    }
}

impl From<Misuse> for Ending {
    fn from(misuse: Misuse) -> Ending {
        Ending::Failed(misuse.into())
    }
}

/// The result of a call.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How the pump ended.
    pub ending: Ending,
    /// The service's exit code, as the client received it.
    pub remote: Option<i32>,
    /// The local process's exit code, 128 + n for a signal.
    pub local: Option<i32>,
    /// Payload bytes that arrived.
    pub bytes_in: u64,
    /// Payload bytes that were sent.
    pub bytes_out: u64,
    /// The costs.
    pub cost: Cost,
}

impl From<Failure> for Outcome {
    /// Nothing was moved.
    fn from(failure: Failure) -> Outcome {
        Outcome { ending: failure.into(), ..Outcome::default() }
    }
}

/// How much a call costs this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// All system calls of the pump's loop: transfers, sleeps and doorbells.
    pub syscalls: u64,
    /// How often the pump slept.
    pub sleeps: u64,
    /// Doorbells rung.
    pub rings: u64,
    /// Doorbells answered.
    pub wakes: u64,
    /// Bytes that this process copied between rings and memory: headers, and payload that has to be looked at.
    pub copied: u64,
    /// The driver at the end of the call.
    pub engine: &'static str,
}

/// The exit status of a call, for each program that took part in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit status.
    pub status: i32,
    /// What went wrong, for people. `None` if the service or a local program failed by itself.
    pub trouble: Option<String>,
}

impl Exit {
    fn with(status: i32) -> Exit {
        Exit { status, trouble: None }
    }

    fn lost(whom: &str, why: &dyn std::fmt::Display) -> Exit {
        Exit { status: EXIT_LOST, trouble: Some(format!("the link to the {whom} was lost: {why}")) }
    }
}

impl Outcome {
    /// The exit status of the call, as seen from this side of the link.
    pub fn exit(&self, role: Role) -> Exit {
        let (whom, service, program) = match role {
            // A service without a process, that is a socket, ends with 0.
            Role::Service => ("caller", Some(self.local.unwrap_or(0)), None),
            Role::Client => ("service", self.remote, self.local),
        };
        let code = service.map_or(0, of_service);
        match (&self.ending, service) {
            (Ending::Lost(why), _) => Exit::lost(whom, why),
            (Ending::Complete, None) => Exit::lost(whom, &"it ended without an exit code"),
            (Ending::Failed(why), _) => {
                let status = if code == 0 { EXIT_TROUBLE } else { code };
                Exit { status, trouble: Some(why.to_string()) }
            }
            (Ending::Complete | Ending::Unread, _) if code != 0 => Exit::with(code),
            (Ending::Unread, _) if program.is_none_or(|code| code == 0) => Exit::with(EXIT_UNREAD),
            (Ending::Complete | Ending::Unread, _) => Exit::with(program.unwrap_or(0)),
        }
    }

    /// Why the link was lost, if it was.
    pub fn lost(&self) -> Option<&Lost> {
        match &self.ending {
            Ending::Lost(why) => Some(why),
            _ => None,
        }
    }

    /// What failed on this side, if anything did.
    pub fn failed(&self) -> Option<&Failure> {
        match &self.ending {
            Ending::Failed(why) => Some(why),
            _ => None,
        }
    }
}

/// The service's exit code as an exit status. A code that does not fit into 8 bits must not be cut to another one,
/// least of all to 0.
fn of_service(code: i32) -> i32 {
    if (0..=255).contains(&code) { code } else { EXIT_LOST }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDINGS: [fn() -> Ending; 4] = [
        || Ending::Complete,
        || Ending::Lost(Lost::Closed),
        || Ending::Failed(Failure::Mute),
        || Ending::Unread,
    ];

    /// Whatever happened, all programs of a call report the same status.
    #[test]
    fn one_rule_for_every_side() {
        for (ending, [of_0, of_3]) in ENDINGS.into_iter().zip([[0, 3], [255, 255], [125, 3]]) {
            for (code, status) in [(0, of_0), (3, of_3)] {
                let service = Outcome { local: Some(code), ending: ending(), ..Outcome::default() };
                let client = Outcome { remote: Some(code), ending: ending(), ..Outcome::default() };
                let with_program =
                    Outcome { local: Some(0), remote: Some(code), ending: ending(), ..Outcome::default() };
                for (role, outcome) in
                    [(Role::Service, service), (Role::Client, client), (Role::Client, with_program)]
                {
                    let exit = outcome.exit(role);
                    assert_eq!(exit.status, status, "{role:?} {outcome:?}");
                    let went_well = matches!(outcome.ending, Ending::Complete);
                    assert_eq!(exit.trouble.is_none(), went_well, "{role:?} {outcome:?}");
                }
            }
        }
    }

    #[test]
    fn a_service_without_a_process_ends_well_unless_something_else_happened() {
        let status = |ending: fn() -> Ending| {
            Outcome { ending: ending(), ..Outcome::default() }.exit(Role::Service).status
        };
        let [complete, lost, failed, _] = ENDINGS;
        assert_eq!([complete, failed, lost].map(status), [0, 125, 255]);
    }

    #[test]
    fn neither_failure_is_lost() {
        let status = |remote, program, unread| {
            let ending = if unread { Ending::Unread } else { Ending::Complete };
            let outcome = Outcome { remote, local: program, ending, ..Outcome::default() };
            outcome.exit(Role::Client).status
        };
        assert_eq!(status(Some(0), Some(0), false), 0);
        assert_eq!(status(Some(0), Some(3), false), 3);
        assert_eq!(status(Some(42), Some(0), false), 42);
        assert_eq!(status(Some(42), Some(3), false), 42);
        // The service's code never came, and there is no reason.
        assert_eq!(status(None, None, false), 255);
        assert_eq!(status(None, Some(3), false), 255);
        // It was cut off because it had no reader any more.
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
