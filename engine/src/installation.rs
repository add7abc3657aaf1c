#![forbid(unsafe_code)]
//! What this program is a part of. It is stated at the start, checked against what the machine shows, and passed down.
//! Who may become whom follows from this statement, and from nothing that is found by chance, such as the kind of
//! transport.

use std::ffi::{OsStr, OsString};

use ring::Kind;

/// The environment variable with the statement: `system`, which is the default, or `lab`.
const STATEMENT: &str = "QREXEC_INSTALLATION";

/// An environment variable that every process of a lab has.
const LABS_MARK: &str = "QUBES_LAB";

/// What this program is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Installation {
    /// A machine with users, login sessions and a journal.
    System,
    /// One of the folders that stand for machines on another system: it runs as the user who started it, logs nothing
    /// into that system's journal, and serves no other part of that system.
    Lab,
}

/// A statement that cannot be true.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Disagreement {
    /// A word that is neither `system` nor `lab`.
    #[error("{STATEMENT}={0:?}: expected system or lab")]
    Unknown(OsString),
    /// Calls go over Xen, where every qube has a system of its own.
    #[error("{STATEMENT}=lab, but calls go over Xen, and no lab has qubes")]
    LabOfQubes,
    /// The statement was lost on the way to this process.
    #[error("this is part of a lab ({LABS_MARK} is set), and {STATEMENT}=lab is missing")]
    SystemInALab,
}

impl Installation {
    /// What the environment states, if that can be true on a machine where calls use this transport.
    ///
    /// # Errors
    /// The statement cannot be true. Then nothing may be started.
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
