//! The programs around the policy: those that decide, those that ask, those that help to write it.
//!
//! | module | one job |
//! |---|---|
//! | `asker` | `qubesd` asked once at a time, for everybody |
//! | [`admin`] | the policy folder under administration, its services and their client `qubes-policy` |
//! | [`agent`] | `qrexec-policy-agent`: the user's side of questions and notices |
//! | [`convert`] | `qrexec-legacy-convert`: from the old format to the new |
//! | [`daemon`] | `qrexec-policy-daemon`: decisions on a socket |
//! | [`dvm`] | `qfile-daemon-dvm`: a call of R2 to a disposable |
//! | [`editor`], [`lint`] | `qubes-policy-editor`, `qubes-policy-lint`: writing policy without errors |
//! | [`exec`] | `qrexec-policy-exec` and `qrexec-policy`: one decision on the command line |
//! | [`graph`] | `qrexec-policy-graph`: what a policy lets through, as a picture |
//! | [`judge`] | one question from its text to its answer |
//! | `old` | making the call of a VM of R1 or R2 |
//! | [`people`] | questions and notices to the user, by way of their GUI qube |
//! | `places` | who may wait for the user, and how many notices are shown |
//! | [`r3`] | a machine of R3: files that are made when they are missing, and "yes to all" |
//! | [`register`] | the service `policy.RegisterArgument` |
//! | [`restore`] | `qrexec-policy-restore`: files of a backup |
//! | [`system`] | what qubes there are, from a file or from `qubesd` |
//! | [`helper`] | `qrexec-vm-helper`: starting what a call needs, removing it afterwards |
//! | `turns` | a queue in which sources take turns |
//! | [`vms`] | starting qubes, making and removing disposables |

use std::path::Path;

use crate::failure::Failure;

pub mod admin;
pub mod agent;
mod asker;
pub mod convert;
pub mod daemon;
pub mod dvm;
pub mod editor;
pub mod exec;
pub mod graph;
pub mod helper;
pub mod judge;
pub mod lint;
mod old;
pub mod people;
mod places;
pub mod r3;
pub mod register;
mod reply;
pub mod restore;
pub mod system;
mod turns;
pub mod vms;

/// A lab's machines have nothing to do with the policy of the system on which the lab runs.
///
/// # Errors
/// This is part of a lab, and one of the folders is that system's.
pub(crate) fn check_not_the_hosts<'a>(folders: impl IntoIterator<Item = &'a Path>) -> Result<(), Failure> {
    let hosts =
        [policy::load::POLICY_FOLDER, policy::load::RUNTIME_POLICY_FOLDER, policy::load::OLD_POLICY_FOLDER];
    let in_a_lab = std::env::var_os("QUBES_LAB").is_some_and(|lab| !lab.is_empty());
    match folders.into_iter().find(|folder| hosts.iter().any(|host| folder.starts_with(host))) {
        Some(folder) if in_a_lab => Err(Failure::trouble(format!(
            "{} is no part of this lab: its policy is in its dom0, see \"qrexec-lab exec dom0 sh\"",
            folder.display()
        ))),
        _ => Ok(()),
    }
}

/// The number of a group.
fn group(name: &str) -> Option<rustix::fs::Gid> {
    let text = std::fs::read_to_string("/etc/group").ok()?;
    let mut lines = text.lines().map(|line| line.split(':'));
    let number =
        lines.find_map(|mut fields| (fields.next() == Some(name)).then(|| fields.nth(1)).flatten())?;
    number.parse().ok().map(rustix::fs::Gid::from_raw)
}
