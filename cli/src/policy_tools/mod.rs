//! The programs around the policy: those that decide, those that ask, those that help to write it.
//!
//! | module | one job |
//! |---|---|
//! | [`agent`] | `qrexec-policy-agent`: the user's side of questions and notices |
//! | [`daemon`] | `qrexec-policy-daemon`: decisions on a socket |
//! | [`exec`] | `qrexec-policy-exec` and `qrexec-policy`: one decision on the command line |
//! | [`judge`] | one question from its text to its answer |
//! | [`people`] | questions and notices to the user, by way of his GUI qube |
//! | [`system`] | what qubes there are, from a file or from `qubesd` |
//! | [`vms`] | starting qubes, making and removing disposables |

pub mod agent;
pub mod daemon;
pub mod exec;
pub mod judge;
pub mod people;
mod reply;
pub mod system;
pub mod vms;
