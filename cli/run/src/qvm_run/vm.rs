//! `qvm-run-vm`: what qubes have had for a command in another one.

use std::ffi::OsString;

use clap::Parser;
use cli::failure::Failure;
use cli::usage;

use super::args::{Goal, Streams, Task};
use super::payload::What;

const PROGRAM: &str = "qvm-run-vm";

/// What a wrong command line ends with, which scripts know.
const USAGE: i32 = 1;

/// Run a command in another qube, with its streams here.
#[derive(Debug, Parser)]
#[command(
    name = "qvm-run-vm",
    override_usage = "qvm-run-vm [OPTIONS] QUBE COMMAND [ARG…]\n       qvm-run-vm [OPTIONS] --dispvm COMMAND [ARG…]",
    after_help = "\
One word as COMMAND is a line for the qube's shell; several are a program and its arguments. Options end at QUBE. qvm-run is \
the same with more options.

Example:
  qvm-run-vm @dispvm -- sha256sum <file

Exit status: that of the command; 1 for a wrong command line; else as qvm-run(1) has it.

See also: qvm-run(1), qrexec-client-vm(1), qrexec-services(7)."
)]
struct QvmRunVmArgs {
    /// A new disposable is not to wait for its session
    #[arg(short = 't', long)]
    no_gui: bool,
    /// In a new disposable qube
    #[arg(short, long)]
    dispvm: bool,
    /// The qube, and the command with its arguments
    #[arg(num_args = 0.., trailing_var_arg = true, value_names = ["QUBE", "COMMAND"])]
    words: Vec<OsString>,
}

/// The command line, for manual pages and completions.
pub fn command() -> clap::Command {
    <QvmRunVmArgs as clap::CommandFactory>::command()
}

/// Runs the program with these arguments, its name first, and gives its exit status.
pub fn main(args: Vec<OsString>) -> i32 {
    match usage::parse::<QvmRunVmArgs>(PROGRAM, args) {
        Ok(args) => match task(args) {
            Ok(task) => super::run(PROGRAM, &task).unwrap_or_else(|failure| failure.report(PROGRAM)),
            Err(failure) => {
                failure.report(PROGRAM);
                USAGE
            }
        },
        Err(0) => 0,
        Err(_) => USAGE,
    }
}

fn task(args: QvmRunVmArgs) -> Result<Task, Failure> {
    let mut words = args.words;
    let name = match (args.dispvm, words.is_empty()) {
        (true, _) => "@dispvm".to_owned(),
        (false, true) => return Err(Failure::usage("a qube and a command are needed")),
        (false, false) => words.remove(0).to_string_lossy().replace('$', "@"),
    };
    if words.first().is_some_and(|word| word == "--") {
        words.remove(0);
    }
    let what = What::of(words, false, false, None)?;
    let disposable = name.strip_prefix("@dispvm").map(str::to_owned);
    let template = disposable.map(|rest| rest.strip_prefix(':').unwrap_or_default().to_owned());
    let (out, err) = (is_terminal(&std::io::stdout()), is_terminal(&std::io::stderr()));
    Ok(Task {
        // A disposable waits for its session unless that is switched off; nobody waits for another qube's.
        gui: Some(template.is_some() && !args.no_gui),
        goal: match template {
            Some(template) => Goal::Disposable { template },
            None => Goal::Qube(name),
        },
        what,
        user: None,
        autostart: true,
        streams: Streams::Ours { stdin: true },
        filter: out,
        filter_stderr: err,
        leave_unfiltered: false,
        colours: [None, None],
        told: false,
    })
}

fn is_terminal(stream: &impl std::io::IsTerminal) -> bool {
    stream.is_terminal()
}
