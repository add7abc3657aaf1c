//! One executable, every program: the name it is called by decides.
//!
//! Every binary of the package is this same dispatcher with another default. The two exceptions are `qrexec-client-vm`
//! and `qrexec-agent`: every call starts or forks them, so each has a binary with nothing else in it ([`lean`]).

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use engine::getopt::Program;
use engine::say;

use crate::programs::{self, PROGRAMS};
use crate::{logging, status, usage};

/// What Rust ends a program with that panics.
const PANICKED: i32 = 101;

/// Runs the program that the executable was called as, or `default` if that is none of [`PROGRAMS`].
pub fn main(default: &str) -> ExitCode {
    main_of(default, &[PROGRAMS])
}

/// The same for an executable that is the programs of these tables.
pub fn main_of(default: &str, tables: &[&'static [programs::Program]]) -> ExitCode {
    engine::process::claim_children();
    let args: Vec<OsString> = std::env::args_os().collect();
    let called = args.first().map(Path::new).and_then(Path::file_name).and_then(|name| name.to_str());
    let Some(program) = called.and_then(|name| find(tables, name)).or_else(|| find(tables, default)) else {
        say::error(format_args!("{default} is not part of this build"));
        return exit_code(status::TROUBLE);
    };
    logging::init(program.name, logging::level_of(&args, || command_of(tables, program)));
    exit_code((program.main)(args))
}

/// Runs one program whose command line clap defines, whatever the executable was called as: what its binary does not name
/// is not in it.
pub fn single(name: &str, program: fn(Vec<OsString>) -> i32, command: fn() -> clap::Command) -> ExitCode {
    run(name, program, |args| logging::level_of(args, || Some(usage::complete(command()))))
}

/// The same with a command line that is read without clap.
pub fn lean(program: &'static Program, main: fn(Vec<OsString>) -> i32) -> ExitCode {
    engine::process::exit_on_panic(PANICKED);
    let level = |args: &[OsString]| {
        if logging::may_have_a_level(args) { program.log_level(args) } else { None }
    };
    run(program.name, main, level)
}

fn run(
    name: &str,
    program: fn(Vec<OsString>) -> i32,
    level: impl FnOnce(&[OsString]) -> Option<String>,
) -> ExitCode {
    engine::process::claim_children();
    let args: Vec<OsString> = std::env::args_os().collect();
    logging::init(name, level(&args));
    exit_code(program(args))
}

fn find(tables: &[&'static [programs::Program]], name: &str) -> Option<&'static programs::Program> {
    tables.iter().flat_map(|table| table.iter()).find(|program| program.name == name)
}

/// The command line of a program, or of the one that it is another name of: the oldest name has underscores.
fn command_of(tables: &[&'static [programs::Program]], program: &programs::Program) -> Option<clap::Command> {
    let page = match &program.page {
        Some(page) => page,
        None => find(tables, &program.name.replace('_', "-"))?.page.as_ref()?,
    };
    Some(page.command())
}

/// The command line of a program by any of its names.
#[cfg(test)]
pub(crate) fn command_line(name: &str) -> Option<clap::Command> {
    command_of(&[PROGRAMS], find(&[PROGRAMS], name)?)
}

/// An exit status for the system, which takes 8 bits; one that does not fit is a failure.
fn exit_code(status: i32) -> ExitCode {
    u8::try_from(status).map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_their_whole_name() {
        let found = |name| find(&[PROGRAMS], name).map(|program| program.name);
        assert_eq!(found("qrexec-client"), Some("qrexec-client"));
        assert_eq!(found("qrexec-client-vm"), Some("qrexec-client-vm"));
        assert_eq!(found("qrexec"), None);
    }

    #[test]
    fn another_name_of_a_program_has_its_command_line() {
        assert_eq!(command_line("qrexec_client_vm").unwrap().get_name(), "qrexec-client-vm");
        assert!(command_line("policy.List").is_none());
    }
}
