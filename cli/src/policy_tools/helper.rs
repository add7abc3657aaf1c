//! `qrexec-vm-helper`: what `qrexec-daemon` has started for a call whose target does not run yet.
//!
//! It prints the name under which the target is found as soon as it runs. A disposable is removed when
//! standard input ends, which it does when the call is over and when the daemon is gone.

use std::ffi::OsString;
use std::io::{self, Write};

use clap::Parser;
use wire::names::Target;

use super::vms::{Disposable, Vms};
use crate::failure::Failure;
use crate::usage;

const PROGRAM: &str = "qrexec-vm-helper";

/// Starts a qube, or makes a disposable that lives until stdin ends.
#[derive(Debug, Parser)]
#[command(name = PROGRAM)]
enum VmHelperArgs {
    /// Start a qube.
    Start {
        /// Its name or uuid:UUID.
        qube: String,
    },
    /// Make a disposable and start it.
    Disposable {
        /// Its template.
        template: String,
    },
}

/// The command line, for manual pages and completions.
pub fn command() -> clap::Command {
    <VmHelperArgs as clap::CommandFactory>::command()
}

/// Runs the program with these arguments, its name first, and gives its exit status.
pub fn main(args: Vec<OsString>) -> i32 {
    usage::run(PROGRAM, args, run)
}

fn run(args: &VmHelperArgs) -> Result<(), Failure> {
    let vms = Vms::from_env();
    let target = |name: &str| Target::new(name).map_err(Failure::during(format_args!("{name:?}")));
    // Whoever does not read it has no use for the target any more.
    let say = |name: &Target| writeln!(io::stdout(), "{name}").and_then(|()| io::stdout().flush());
    match args {
        VmHelperArgs::Start { qube } => {
            let qube = target(qube)?;
            vms.start(&qube).map_err(Failure::during(format_args!("starting {qube}")))?;
            let _ = say(&qube);
        }
        VmHelperArgs::Disposable { template } => {
            let template = target(template)?;
            let made = Disposable::new(&vms, &template)
                .map_err(Failure::during(format_args!("a disposable of {template}")))?;
            let _ = say(made.qube());
            if let Err(error) = io::copy(&mut io::stdin().lock(), &mut io::sink()) {
                tracing::warn!("waiting for the end of the call: {error}");
            }
        }
    }
    Ok(())
}
