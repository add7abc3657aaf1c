//! `cargo xtask ci`: what has to pass before a change counts, after `cargo test`: the checks, then the heavier suites,
//! as root and as an ordinary user, within an hour on two cores.

mod machine;
mod programs;
mod user;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::own_library::OwnLibrary;
use crate::steps::{Failure, SKIPPED, step};
use crate::{perf, windows};
use programs::Programs;
use user::User;

/// How long one part may take. On a quiet machine with two cores the longest one needs a third of its limit.
const LIMIT: Duration = Duration::from_secs(1800);
/// How long one test program may take.
const PROGRAM_LIMIT: Duration = Duration::from_secs(900);
/// How long the tests by wine may take.
const WINDOWS_LIMIT: Duration = Duration::from_secs(240);

/// Modules of the tests from end to end that are run once more without namespaces and over the other transport.
const OTHER_GROUND: [&str; 5] = ["lab::", "call::", "bulk::", "storm::", "chaos::"];

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Format, clippy, documentation, licences, layering, unsafe
    Check,
    /// Every test program as an ordinary user with an ordinary user's limits
    OrdinaryUser,
    /// The programs end to end without namespaces, and over the socket transport
    OtherGround,
    /// `cargo xtask suites`
    Suites,
    /// `cargo xtask xen`
    Xen,
    /// `cargo xtask usb`
    Usb,
    /// The programs for Windows, by wine
    Windows,
    /// The small programs with a standard library of their own, whose source the part before has unpacked
    Lean,
}

/// Runs the parts that are named, all if none is, and says at the end what could not be tried.
pub(crate) fn run(parts: &[Part]) -> Result<(), Failure> {
    let list = SkippedList::new()?;
    machine::install_what_tests_need();
    let user = User::of_this_machine()?;
    for part in Part::value_variants() {
        if parts.contains(part) || parts.is_empty() {
            let name = part.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
            let begun = Instant::now();
            eprintln!("\n=== {name}");
            run_part(*part, &user, &list)?;
            eprintln!("=== {name}: passed in {} s", begun.elapsed().as_secs());
        }
    }
    eprintln!("\n=== all passed");
    list.print();
    Ok(())
}

fn run_part(part: Part, user: &User, list: &SkippedList) -> Result<(), Failure> {
    match part {
        Part::Check => this_program(&["check"], list),
        Part::OrdinaryUser => ordinary_user(user, list),
        Part::OtherGround => other_ground(user, list),
        Part::Suites => this_program(&["suites"], list),
        Part::Windows => windows_by_wine(list),
        Part::Lean => calls_by_small_programs(list),
        Part::Xen => {
            if machine::can_boot_xen() {
                this_program(&["xen"], list)
            } else {
                crate::steps::skipped(
                    "xen",
                    "qemu, busybox or Debian's packages of Xen cannot be installed here",
                );
                Ok(())
            }
        }
        Part::Usb => {
            if machine::can_boot_linux() {
                this_program(&["usb"], list)
            } else {
                crate::steps::skipped("usb", "qemu, busybox or Debian's kernel cannot be installed here");
                Ok(())
            }
        }
    }
}

/// The agent and the client for Windows, in labs; their rules and the messages as programs for Windows.
fn windows_by_wine(list: &SkippedList) -> Result<(), Failure> {
    let folder = match windows::build().and_then(|folder| windows::test().map(|()| folder)) {
        Ok(folder) => folder,
        Err(windows::NoWindows::Skipped(why)) => {
            crate::steps::skipped("windows", &why);
            return Ok(());
        }
        Err(windows::NoWindows::Failed(failure)) => return Err(failure),
    };
    for program in Programs::built()?.named(programs::END_TO_END) {
        let mut command = within(WINDOWS_LIMIT);
        command.arg(program).arg("--quiet").arg("windows::").env("QREXEC_WINDOWS_DIR", &folder);
        step("ends to ends by wine", list.passed_to(&mut command))?;
    }
    Ok(())
}

/// A few calls by the agent and the client as they are installed where the standard library's source is there.
fn calls_by_small_programs(list: &SkippedList) -> Result<(), Failure> {
    let Some(library) = OwnLibrary::find() else {
        crate::steps::skipped("lean", "the standard library's source cannot be had here");
        return Ok(());
    };
    this_program(&["perf", "--quick", "--scenario", "calls,latency"], list)?;
    // A build that fails is replaced by one with the compiler's library, which is no reason for a user to stop.
    let agent = fs::read_link(perf::folder().join("qrexec-agent")).map_err(|error| error.to_string())?;
    let is_own = agent.components().any(|part| part.as_os_str() == library.host.as_str());
    if is_own { Ok(()) } else { Err("the agent has no standard library of its own".to_owned()) }
}

/// Another task of this program as a process of its own, so that it can be ended when it hangs.
fn this_program(task: &[&str], list: &SkippedList) -> Result<(), Failure> {
    let own = std::env::current_exe().map_err(|error| format!("this program: {error}"))?;
    let mut command = within(LIMIT);
    command.arg(own).args(task);
    step(&task.join(" "), list.passed_to(&mut command))
}

fn ordinary_user(user: &User, list: &SkippedList) -> Result<(), Failure> {
    let programs = Programs::built()?;
    for program in programs.all() {
        let mut command = user.command(PROGRAM_LIMIT);
        command.arg(program).arg("--quiet");
        step(&format!("{} as {}", programs::name(program), user.name()), list.passed_to(&mut command))?;
    }
    Ok(())
}

fn other_ground(user: &User, list: &SkippedList) -> Result<(), Failure> {
    let programs = Programs::built()?;
    for program in programs.named(programs::END_TO_END) {
        let grounds: [(&str, Command, &str, &str); 3] = [
            ("without namespaces", within(PROGRAM_LIMIT), "QUBES_LAB_NO_NAMESPACE", "1"),
            ("over sockets", within(PROGRAM_LIMIT), "QREXEC_TEST_TRANSPORT", "socket"),
            ("without namespaces, ordinary user", user.command(PROGRAM_LIMIT), "QUBES_LAB_NO_NAMESPACE", "1"),
        ];
        for (ground, mut command, variable, value) in grounds {
            command.arg(program).arg("--quiet").args(OTHER_GROUND).env(variable, value);
            step(&format!("ends to ends {ground}"), list.passed_to(&mut command))?;
        }
    }
    Ok(())
}

/// `timeout`, which ends what it starts when it takes too long.
fn within(limit: Duration) -> Command {
    let mut command = Command::new("timeout");
    command.arg(limit.as_secs().to_string()).current_dir(crate::steps::root());
    command
}

/// The file in which tests and tasks write down what they could not try.
struct SkippedList {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl SkippedList {
    fn new() -> Result<Self, Failure> {
        let failed = |error: std::io::Error| format!("the list of what was skipped: {error}");
        let folder = tempfile::tempdir().map_err(failed)?;
        let path = folder.path().join("skipped");
        fs::write(&path, "").map_err(failed)?;
        // Tests are run as an ordinary user, too.
        machine::set_mode(folder.path(), 0o711).map_err(failed)?;
        machine::set_mode(&path, 0o666).map_err(failed)?;
        Ok(Self { path, _folder: folder })
    }

    fn passed_to<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env(SKIPPED, &self.path)
    }

    fn print(&self) {
        print!("{}", fs::read_to_string(&self.path).unwrap_or_default());
    }
}
