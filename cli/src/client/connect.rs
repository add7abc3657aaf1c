//! A command in one qube for a request that waits in another: this program only introduces the two.

use super::args::{Plan, Waiting};
use super::daemon::{Daemon, Error};
use crate::failure::Failure;

/// What upstream's tools end with when this fails.
const FAILED: i32 = 137;

/// Has the command run in the target and tells the waiting request where to meet it.
pub(super) fn connect(plan: &Plan, waiting: &Waiting) -> Result<(), Failure> {
    let failed = |qube: &dyn std::fmt::Display, error: &Error| Failure {
        status: FAILED,
        message: format!("{qube}: {error}"),
    };
    let in_target = |error| failed(&plan.target, &error);
    let in_source = |error| failed(&waiting.source, &error);

    let mut target = Daemon::connect(&plan.socket_dir, &plan.target).map_err(in_target)?;
    let endpoint = target.exec(false, waiting.source_id, &plan.command).map_err(in_target)?;
    let mut source = Daemon::connect(&plan.socket_dir, waiting.source_id).map_err(in_source)?;
    source.service_connect(waiting.ident, endpoint).map_err(in_source)?;
    if plan.wait_for_end { target.wait_for_end().map_err(in_target) } else { Ok(()) }
}
