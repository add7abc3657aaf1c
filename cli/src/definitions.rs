//! The command lines of the programs that are installed, for manual pages and completions.

use clap::{Command, CommandFactory};

use crate::policy_tools as tools;
use crate::usage::complete;
use crate::{bench, client, client_vm, lab, policy_eval};

/// What one program takes, and where its manual page belongs.
#[derive(Debug)]
pub struct Definition {
    /// The command line.
    pub command: Command,
    /// The section of the manual: 1 for what people type, 8 for what the system runs.
    pub section: u8,
}

/// Every program with a command line of its own.
pub fn all() -> Vec<Definition> {
    let define = |section: u8, command: Command| Definition { command: complete(command), section };
    vec![
        define(8, agent::Options::command()),
        define(1, bench::command()),
        define(1, client::command()),
        define(1, client_vm::command()),
        define(8, daemon::cli::Args::command()),
        define(8, agent::fork_server::Options::command()),
        define(1, lab::command()),
        define(1, tools::convert::command()),
        define(8, tools::exec::command("qrexec-policy")),
        define(8, tools::agent::command()),
        define(8, tools::daemon::command()),
        define(1, policy_eval::command()),
        define(8, tools::exec::command("qrexec-policy-exec")),
        define(1, tools::graph::command()),
        define(1, tools::restore::command()),
        define(8, tools::helper::command()),
        define(1, tools::admin::client::command()),
        define(8, tools::admin::service::command()),
        define(1, tools::editor::command()),
        define(1, tools::lint::command()),
    ]
}

/// The definition of the program that is called by this name.
pub(crate) fn of(program: &str) -> Option<Definition> {
    // The oldest name of a program has underscores.
    let name = program.replace('_', "-");
    all().into_iter().find(|definition| definition.command.get_name() == name)
}

#[cfg(test)]
mod tests {
    /// Called by others with words of a fixed form, without options.
    const WITHOUT_OPTIONS: [&str; 1] = ["qubes-rpc-multiplexer"];

    #[test]
    fn every_program_that_people_call_is_defined() {
        let services = |name: &&str| name.starts_with("policy.");
        // Their command lines are upstream's to the letter, and no reader of options does them justice.
        let copies = |name: &&str| copy::PROGRAMS.iter().any(|(known, _)| known == name);
        for name in crate::multicall::names().filter(|name| !services(name) && !copies(name)) {
            assert_ne!(super::of(name).is_some(), WITHOUT_OPTIONS.contains(&name), "{name}");
        }
    }

    #[test]
    fn every_definition_is_sound_and_named_as_its_program() {
        for definition in super::all() {
            assert!(crate::multicall::names().any(|name| name == definition.command.get_name()));
            definition.command.debug_assert();
        }
    }
}
