//! `qrexec-client`: runs commands and services in qubes, from dom0.
//!
//! What is asked for is one of four things: a command in a qube with its data here ([`call`]), the same
//! for a request that waits in another qube ([`connect`]), a service of dom0 for such a request or for a
//! caller in dom0 itself ([`dom0`]). With a daemon of protocol 1 all of that is [`old`].

use std::ffi::OsString;

use crate::failure::Failure;
use crate::{status, usage};

mod args;
mod call;
mod connect;
mod daemon;
mod dom0;
mod killer;
mod old;
pub mod own;

use args::{ClientArgs, Plan, Purpose};
use killer::Killer;

const PROGRAM: &str = "qrexec-client";

/// The command line, for manual pages and completions.
pub fn command() -> clap::Command {
    <ClientArgs as clap::CommandFactory>::command()
}

/// Runs the program with these arguments, its name first, and gives its exit status.
pub fn main(args: Vec<OsString>) -> i32 {
    let plan = match usage::parse::<ClientArgs>(PROGRAM, args).map(ClientArgs::plan) {
        Ok(Ok(plan)) => plan,
        Ok(Err(failure)) => return failure.report(PROGRAM),
        Err(status) => return status,
    };
    let killer = (plan.kill && !plan.target.is_dom0()).then(|| Killer::begin(&plan.target)).transpose();
    let killer = match killer.map_err(Failure::during("a process that kills the qube")) {
        Ok(killer) => killer,
        Err(failure) => return failure.report(PROGRAM),
    };
    let result = run(&plan);
    killer.into_iter().for_each(Killer::kill);
    match result {
        // Only what ran may be passed over, never that nobody knows how it ended.
        Ok(_) if !plan.exit_code => 0,
        Ok(status) => status,
        Err(failure) => failure.report(PROGRAM),
    }
}

/// Does what was asked for; gives the status of what ran.
fn run(plan: &Plan) -> Result<i32, Failure> {
    if old::is_meant(&plan.socket_dir, &plan.target) {
        return old::call(plan);
    }
    match (&plan.purpose, plan.target.is_dom0()) {
        (Purpose::Existing { .. }, _) => {
            let why =
                format!("{}: its daemon is not of R2: -c needs ID,SRC,SRCID, and a COMMAND", plan.target);
            Err(Failure::trouble(why))
        }
        (Purpose::Connect(waiting), true) => dom0::run_service(plan, waiting),
        (Purpose::Connect(waiting), false) => connect::connect(plan, waiting).map(|()| 0),
        (Purpose::Local(_), true) => {
            Err(Failure::trouble("-l does not go with dom0: connect the two commands with a pipe"))
        }
        (Purpose::Here, true) => dom0::run(plan, false),
        (Purpose::StartOnly, true) => dom0::run(plan, true),
        (_, false) => call::call(plan),
    }
}

/// The start of a message about a qube's daemon.
fn about(qube: impl std::fmt::Display) -> impl FnOnce(daemon::Error) -> Failure {
    move |error| Failure { status: status::TROUBLE, message: format!("{qube}: {error}") }
}
