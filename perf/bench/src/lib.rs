//! `qrexec-bench`: measures real calls in a lab of its own, or between this VM and another.
//!
//! A [`scenario`] has cases, a case is run several times on every [`stage`] (a lab with one build's programs), and every
//! run gives a number for each metric. The programs at the ends of a call are [`roles`] of this same executable.
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // they end a program whose output nobody takes

mod agent_side;
mod busy;
mod compare;
mod copies;
mod counters;
mod facts;
mod guard;
mod line;
mod machine;
mod machines;
mod options;
mod page;
mod process;
mod procfs;
mod report;
mod results;
mod roles;
mod runner;
mod scenario;
mod scenarios;
mod settings;
mod stage;
mod stats;
mod table;
mod transfer;
mod trees;
mod upstream;

use std::ffi::OsString;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::Path;

use busy::Busy;
use facts::Facts;
use guard::Guard;
use options::{Action, Cli, Options, Plan};
use results::Recording;
use roles::Role;
use stage::Stage;

use cli::failure::Failure;
use cli::programs::{Page, Program};
use cli::{status, usage};

/// The program's name, and that of the service which plays its roles.
const PROGRAM: &str = "qrexec-bench";

/// Exit status of a comparison with something worse in it than it may be.
const BELOW: i32 = 1;

/// What this crate adds to an executable.
pub const PROGRAMS: &[Program] = &[Program::new(PROGRAM, main, Page::new(1, command))];

fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Runs the program with these arguments, its name first, and gives its exit status.
pub fn main(args: Vec<OsString>) -> i32 {
    match Role::asked(args.get(1..).unwrap_or_default()) {
        Some(Some(role)) => return role.play(),
        Some(None) => return usage::wrong(PROGRAM, "there is no such role"),
        None => {}
    }
    let cli: Cli = match usage::parse(PROGRAM, args) {
        Ok(cli) => cli,
        Err(status) => return status,
    };
    let done = match &cli.action {
        Some(Action::Compare { old, new, fail_below }) => show_comparison(old, new, *fail_below),
        None => measure(&cli.options),
    };
    done.map_or_else(|failure| failure.report(PROGRAM), |()| 0)
}

fn show_comparison(old: &Path, new: &Path, fail_below: Option<f64>) -> Result<(), Failure> {
    let (old, new) = (Recording::read(old)?, Recording::read(new)?);
    show(&compare::text(&old, &new))?;
    let worse = fail_below.map(|least| compare::below(&old, &new, least)).unwrap_or_default();
    if worse.is_empty() {
        return Ok(());
    }
    Err(Failure { status: BELOW, message: format!("below --fail-below: {}", worse.join("; ")) })
}

fn measure(options: &Options) -> Result<(), Failure> {
    let Plan { scenarios, settings, place } = options.plan()?;
    if let Some(path) = &options.json {
        // Better now than after a minute.
        let opened = File::options().append(true).create(true).open(path);
        opened.map_err(Failure::during(format_args!("writing {}", path.display())))?;
    }
    let folder = tempfile::tempdir_in(place).map_err(Failure::during("a temporary folder"))?;
    let guard = Guard::start(folder.path())?;
    let own = options.bin_dir.as_deref();
    let mut stages = vec![match &options.target {
        Some(target) => Stage::apart(&build_name(None), target, &settings, folder.path())?,
        None => Stage::start(&build_name(own), own, &settings, folder.path())?,
    }];
    if let Some(vs) = options.vs.as_deref() {
        stages.push(Stage::start(&build_name(Some(vs)), Some(vs), &settings, folder.path())?.compared());
    }
    let builds = stages.iter().map(|stage| stage.name.clone()).collect();
    let mut recording = Recording::new(&settings, builds);
    recording.facts = (!settings.quick).then(Facts::here);
    let busy = Busy::start(options.busy);
    recording.scenarios = runner::run(&scenarios, &settings, &stages, &guard)?;
    drop(busy);
    stages.into_iter().try_for_each(Stage::down)?;
    if let Some(path) = &options.json {
        recording.write(path)?;
    }
    if let Some(folder) = &options.report {
        page::write(&recording, folder)?;
    }
    let bold = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    show(&table::text(&recording, bold))
}

/// What a build is called in results: where it comes from.
fn build_name(folder: Option<&Path>) -> String {
    folder.map_or_else(|| "this build".to_owned(), |folder| folder.display().to_string())
}

fn show(text: &str) -> Result<(), Failure> {
    let written = std::io::stdout().lock().write_all(text.as_bytes());
    written.map_err(|error| Failure { status: status::TROUBLE, message: format!("standard output: {error}") })
}
