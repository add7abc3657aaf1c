//! What this process may still do once it has begun to take a stranger's bytes: use one folder.

use std::os::fd::AsFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus,
    Scope,
};

/// The newest rules that are asked for; a kernel that has fewer applies those.
const NEWEST: ABI = ABI::V6;

/// Confines this process to `folder`: no other file can be opened or made, nothing started, no port opened. Whether the
/// kernel could do so for the file system. Temporary files have to be opened afterwards: what was opened by other
/// credentials cannot be given a name by `AT_EMPTY_PATH`.
pub fn confine(folder: impl AsFd) -> bool {
    let inside = (AccessFs::from_all(NEWEST))
        & !(AccessFs::Execute
            | AccessFs::MakeChar
            | AccessFs::MakeBlock
            | AccessFs::MakeFifo
            | AccessFs::MakeSock);
    let confined = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(|rules| rules.scope(Scope::from_all(NEWEST)))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.add_rule(PathBeneath::new(folder, inside)))
        .and_then(landlock::RulesetCreated::restrict_self);
    confined.is_ok_and(|status| status.ruleset != RulesetStatus::NotEnforced)
}
