//! The command lines of the programs that are installed, for manual pages and completions.

use clap::{Command, CommandFactory};

use crate::{client, client_vm, lab, policy_eval};

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
    let define = |section: u8, command: Command| Definition { command, section };
    vec![
        define(8, agent::Options::command()),
        define(1, client::command()),
        define(1, client_vm::command()),
        define(8, daemon::cli::Args::command()),
        define(8, agent::fork_server::Options::command()),
        define(1, lab::command()),
        define(1, policy_eval::command()),
    ]
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_definition_is_sound_and_named_as_its_program() {
        for definition in super::all() {
            assert!(crate::multicall::names().any(|name| name == definition.command.get_name()));
            definition.command.debug_assert();
        }
    }
}
