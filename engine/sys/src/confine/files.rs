#![forbid(unsafe_code)]
//! By Landlock: no files except below some places, and no network. What is open stays open.

use std::io;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::{May, Place};

/// The newest version of the rules; a kernel with an older one applies as many as it has.
const NEWEST: ABI = ABI::V6;

/// Gives up every file and every port of this thread for good, except below these places, and also connections to
/// abstract sockets of processes outside; starting a program gains no privilege any more. Returns whether this kernel
/// could do so for files.
///
/// Signals to processes outside are not given up: Landlock would count a service that was started before as one of
/// these.
pub(super) fn give_up(places: &[Place<'_>]) -> io::Result<bool> {
    let below =
        places.iter().map(|place| PathBeneath::new(place.at, rights(place.may))).map(Ok::<_, RulesetError>);
    let confined = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(|rules| rules.scope(Scope::AbstractUnixSocket))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.add_rules(below))
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(io::Error::other)?;
    Ok(confined.ruleset != RulesetStatus::NotEnforced)
}

fn rights(may: May) -> BitFlags<AccessFs> {
    match may {
        May::Read => AccessFs::ReadFile | AccessFs::ReadDir,
        May::Remove => AccessFs::RemoveFile | AccessFs::RemoveDir,
        May::Make => {
            AccessFs::ReadFile
                | AccessFs::ReadDir
                | AccessFs::WriteFile
                | AccessFs::Truncate
                | AccessFs::MakeReg
                | AccessFs::MakeDir
                | AccessFs::MakeSym
                | AccessFs::RemoveFile
                | AccessFs::RemoveDir
        }
    }
}

/// Whether this kernel has Landlock.
pub(super) fn are_supported() -> bool {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .is_ok()
}
