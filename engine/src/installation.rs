#![forbid(unsafe_code)]
//! What this program is a part of. It is stated at the start, checked against what is there, and passed down: who may
//! become whom follows from it, and from nothing that is found by chance, such as what carries the bytes.

use std::ffi::{OsStr, OsString};

use ring::Kind;

/// States what this is: `system`, which holds if nothing is stated, or `lab`.
const STATEMENT: &str = "QREXEC_INSTALLATION";

/// Every process of a lab has it.
const LABS_MARK: &str = "QUBES_LAB";

/// What this program is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Installation {
    /// A machine of its own with users, login sessions, a journal.
    System,
    /// One of the folders that play machines on a system of somebody else's: it runs for whoever started it, logs nothing
    /// into that system's journal, and serves no other part of that system.
    Lab,
}

/// A statement that cannot be true.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Disagreement {
    /// It is no word of ours.
    #[error("{STATEMENT}={0:?}: expected system or lab")]
    Unknown(OsString),
    /// Qubes have a system each.
    #[error("{STATEMENT}=lab, but calls go over Xen, and no lab has qubes")]
    LabOfQubes,
    /// Somebody has lost the statement on the way.
    #[error("this is part of a lab ({LABS_MARK} is set), and {STATEMENT}=lab is missing")]
    SystemInALab,
}

impl Installation {
    /// What the environment states, if it can be true of a machine where calls go this way.
    ///
    /// # Errors
    /// It cannot. Nothing must be started then.
    pub fn stated(transport: Kind) -> Result<Self, Disagreement> {
        let mark = std::env::var_os(LABS_MARK);
        Self::check(std::env::var_os(STATEMENT).as_deref(), mark.is_some(), transport)
    }

    fn check(statement: Option<&OsStr>, is_marked: bool, transport: Kind) -> Result<Self, Disagreement> {
        let stated = match statement.map(|word| (word, word.to_str())) {
            None | Some((_, Some("system"))) => Self::System,
            Some((_, Some("lab"))) => Self::Lab,
            Some((word, _)) => return Err(Disagreement::Unknown(word.to_owned())),
        };
        match (stated, transport) {
            (Self::Lab, Kind::Xen) => Err(Disagreement::LabOfQubes),
            (Self::System, _) if is_marked => Err(Disagreement::SystemInALab),
            _ => Ok(stated),
        }
    }

    /// Whether it is a lab.
    #[must_use]
    pub fn is_lab(self) -> bool {
        self == Self::Lab
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 3] = [Kind::Shm, Kind::Socket, Kind::Xen];

    #[test]
    fn what_carries_the_bytes_says_nothing_of_what_this_is() {
        for kind in KINDS {
            assert_eq!(Installation::check(None, false, kind), Ok(Installation::System));
            assert_eq!(Installation::check(Some("system".as_ref()), false, kind), Ok(Installation::System));
        }
        for kind in [Kind::Shm, Kind::Socket] {
            assert_eq!(Installation::check(Some("lab".as_ref()), true, kind), Ok(Installation::Lab));
            assert_eq!(Installation::check(Some("lab".as_ref()), false, kind), Ok(Installation::Lab));
        }
    }

    #[test]
    fn a_statement_that_cannot_be_true_is_refused() {
        let lab = Some(OsStr::new("lab"));
        assert_eq!(Installation::check(lab, true, Kind::Xen), Err(Disagreement::LabOfQubes));
        for kind in KINDS {
            assert_eq!(Installation::check(None, true, kind), Err(Disagreement::SystemInALab));
            let word = OsStr::new("Lab");
            assert_eq!(Installation::check(Some(word), true, kind), Err(Disagreement::Unknown(word.into())));
        }
    }
}
