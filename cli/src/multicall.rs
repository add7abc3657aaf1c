//! One executable, every program: the name it is called by decides.
//!
//! Every binary of the package is this same dispatcher with another default, so a lab needs nothing
//! but links to the executable that is already running. The two exceptions are `qrexec-client-vm` and `qrexec-agent`:
//! every call starts or forks them, so each has a binary with nothing else in it ([`single`]).

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use engine::say;

use crate::policy_tools as tools;
use crate::{bench, client, client_vm, definitions, lab, logging, policy_eval, status, usage};

/// A program: its name and its main function, which takes the arguments with the name first and gives
/// the exit status.
type Program = (&'static str, fn(Vec<OsString>) -> i32);

/// Every program that can be called by name, but for those of bulk file copy.
const PROGRAMS: &[Program] = &[
    ("policy.Get", tools::admin::service::main),
    ("policy.GetFiles", tools::admin::service::main),
    ("policy.List", tools::admin::service::main),
    ("policy.RegisterArgument", tools::register::main),
    ("policy.Remove", tools::admin::service::main),
    ("policy.Replace", tools::admin::service::main),
    ("policy.include.Get", tools::admin::service::main),
    ("policy.include.List", tools::admin::service::main),
    ("policy.include.Remove", tools::admin::service::main),
    ("policy.include.Replace", tools::admin::service::main),
    ("qrexec-agent", agent::main),
    ("qrexec-bench", bench::main),
    ("qrexec-client", client::main),
    ("qrexec-client-vm", client_vm::main),
    ("qrexec-daemon", daemon::main),
    ("qrexec-fork-server", agent::fork_server::main),
    ("qrexec-lab", lab::main),
    ("qrexec-legacy-convert", tools::convert::main),
    ("qrexec-policy", tools::exec::policy_main),
    ("qrexec-policy-agent", tools::agent::main),
    ("qrexec-policy-daemon", tools::daemon::main),
    ("qrexec-policy-eval", policy_eval::main),
    ("qrexec-policy-exec", tools::exec::main),
    ("qrexec-policy-graph", tools::graph::main),
    ("qrexec-policy-restore", tools::restore::main),
    ("qrexec-vm-helper", tools::helper::main),
    ("qrexec_client_vm", client_vm::main),
    ("qubes-policy", tools::admin::client::main),
    ("qubes-policy-admin", tools::admin::service::main),
    ("qubes-policy-editor", tools::editor::main),
    ("qubes-policy-lint", tools::lint::main),
    ("qubes-rpc-multiplexer", agent::multiplexer::main),
];

/// The names of all programs: what a lab makes links for.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    programs().map(|(name, _)| *name)
}

/// Runs the program that the executable was called as, or `default` if that is none of ours.
pub fn main(default: &str) -> ExitCode {
    engine::process::claim_children();
    let args: Vec<OsString> = std::env::args_os().collect();
    let called = args.first().map(Path::new).and_then(Path::file_name).and_then(|name| name.to_str());
    let Some((name, program)) = called.and_then(find).or_else(|| find(default)) else {
        say::error(format_args!("{default} is not part of this build"));
        return exit_code(status::TROUBLE);
    };
    logging::init(name, &args, || Some(definitions::of(name)?.command));
    exit_code(program(args))
}

/// Runs one program with this command line, whatever the executable was called as: what its binary does not name is not
/// in it.
pub fn single(name: &str, program: fn(Vec<OsString>) -> i32, command: fn() -> clap::Command) -> ExitCode {
    engine::process::claim_children();
    let args: Vec<OsString> = std::env::args_os().collect();
    logging::init(name, &args, || Some(usage::complete(command())));
    exit_code(program(args))
}

fn find(name: &str) -> Option<&'static Program> {
    programs().find(|(known, _)| *known == name)
}

/// All programs, those of bulk file copy included.
fn programs() -> impl Iterator<Item = &'static Program> {
    PROGRAMS.iter().chain(copy::PROGRAMS)
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
        assert!(find("qrexec-client").is_some_and(|(name, _)| *name == "qrexec-client"));
        assert!(find("qrexec-client-vm").is_some_and(|(name, _)| *name == "qrexec-client-vm"));
        assert!(find("qrexec").is_none());
    }

    #[test]
    fn names_are_unique_and_sorted() {
        assert!(PROGRAMS.is_sorted_by(|(a, _), (b, _)| a < b));
    }
}
