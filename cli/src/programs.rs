//! The one table of programs: what each is called, what runs it, and its command line for manual pages and completions.

use std::ffi::OsString;

use clap::{Command, CommandFactory};

use crate::policy_tools as tools;
use crate::usage::complete;
use crate::{client, client_vm, policy_eval, top, usb};

/// A program that an executable can be called as.
#[derive(Debug)]
pub struct Program {
    /// The name, argv\[0\] without its folders.
    pub name: &'static str,
    /// Its main function: takes the arguments, the name first, and gives the exit status.
    pub main: fn(Vec<OsString>) -> i32,
    /// Its page of the manual; services, which are called with words of a fixed form, have none.
    pub page: Option<Page>,
}

/// What a manual page and completions are made of.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// The section of the manual: 1 for what people type, 8 for what the system runs.
    pub section: u8,
    command: fn() -> Command,
}

impl Page {
    /// A page in this section for this command line.
    #[must_use]
    pub const fn new(section: u8, command: fn() -> Command) -> Self {
        Self { section, command }
    }

    /// The command line, with what all programs have in common.
    #[must_use]
    pub fn command(&self) -> Command {
        complete((self.command)())
    }
}

impl Program {
    /// A program that people or scripts call with options.
    #[must_use]
    pub const fn new(name: &'static str, main: fn(Vec<OsString>) -> i32, page: Page) -> Self {
        Self { name, main, page: Some(page) }
    }

    /// Another name of a program, or one that is called with words of a fixed form: without a page.
    #[must_use]
    pub const fn bare(name: &'static str, main: fn(Vec<OsString>) -> i32) -> Self {
        Self { name, main, page: None }
    }
}

/// Every program of dom0 and of VMs, sorted by name.
pub const PROGRAMS: &[Program] = &[
    Program::bare("policy.Get", tools::admin::service::main),
    Program::bare("policy.GetFiles", tools::admin::service::main),
    Program::bare("policy.List", tools::admin::service::main),
    Program::bare("policy.RegisterArgument", tools::register::main),
    Program::bare("policy.Remove", tools::admin::service::main),
    Program::bare("policy.Replace", tools::admin::service::main),
    Program::bare("policy.include.Get", tools::admin::service::main),
    Program::bare("policy.include.List", tools::admin::service::main),
    Program::bare("policy.include.Remove", tools::admin::service::main),
    Program::bare("policy.include.Replace", tools::admin::service::main),
    Program::new("qfile-daemon-dvm", tools::dvm::main, Page::new(8, tools::dvm::command)),
    Program::new("qrexec-agent", agent::main, Page::new(8, agent::Options::command)),
    Program::new("qrexec-client", client::main, Page::new(1, client::command)),
    Program::new("qrexec-client-vm", client_vm::main, Page::new(1, client_vm::command)),
    Program::new("qrexec-daemon", daemon::main, Page::new(8, daemon::cli::DaemonArgs::command)),
    Program::new(
        "qrexec-fork-server",
        agent::fork_server::main,
        Page::new(8, agent::fork_server::Options::command),
    ),
    Program::new("qrexec-legacy-convert", tools::convert::main, Page::new(1, tools::convert::command)),
    Program::new(
        "qrexec-policy",
        tools::exec::policy_main,
        Page::new(8, || tools::exec::command("qrexec-policy")),
    ),
    Program::new("qrexec-policy-agent", tools::agent::main, Page::new(8, tools::agent::command)),
    Program::new("qrexec-policy-daemon", tools::daemon::main, Page::new(8, tools::daemon::command)),
    Program::new("qrexec-policy-eval", policy_eval::main, Page::new(1, policy_eval::command)),
    Program::new(
        "qrexec-policy-exec",
        tools::exec::main,
        Page::new(8, || tools::exec::command("qrexec-policy-exec")),
    ),
    Program::new("qrexec-policy-graph", tools::graph::main, Page::new(1, tools::graph::command)),
    Program::new("qrexec-policy-restore", tools::restore::main, Page::new(1, tools::restore::command)),
    Program::new("qrexec-top", top::main, Page::new(1, top::command)),
    Program::new("qrexec-vm-helper", tools::helper::main, Page::new(8, tools::helper::command)),
    Program::bare("qrexec_client_vm", client_vm::main),
    Program::new("qubes-policy", tools::admin::client::main, Page::new(1, tools::admin::client::command)),
    Program::new(
        "qubes-policy-admin",
        tools::admin::service::main,
        Page::new(8, tools::admin::service::command),
    ),
    Program::new("qubes-policy-editor", tools::editor::main, Page::new(1, tools::editor::command)),
    Program::new("qubes-policy-lint", tools::lint::main, Page::new(1, tools::lint::command)),
    Program::bare("qubes-rpc-multiplexer", agent::multiplexer::main),
    Program::bare("qubes.USB", usb::export::service),
    Program::bare("qubes.USBAttach", usb::attach::main),
    Program::bare("qubes.USBDetach", usb::detach::main),
    Program::new("usb-detach-all", usb::detach::all, Page::new(8, usb::detach::command)),
    Program::new("usb-device-list", usb::udev::main, Page::new(8, usb::udev::command)),
    Program::new("usb-export", usb::export::main, Page::new(8, usb::export::command)),
    Program::new("usb-import", usb::import::main, Page::new(8, usb::import::command)),
];

/// For the tests of each table of programs: names are sorted and none is there twice, pages make sense and have their program's
/// name.
///
/// # Panics
/// It is not so.
pub fn check(programs: &[Program]) {
    assert!(programs.is_sorted_by(|a, b| a.name < b.name));
    for program in programs {
        if let Some(page) = &program.page {
            assert_eq!(page.command().get_name(), program.name);
            page.command().debug_assert();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_sorted() {
        assert!(PROGRAMS.is_sorted_by(|a, b| a.name < b.name));
    }

    #[test]
    fn every_program_that_people_call_has_a_page() {
        // Called by others with words of a fixed form, without options; the other name of one that has a page.
        let bare = ["qubes-rpc-multiplexer", "qrexec_client_vm"];
        let service = |name: &str| name.starts_with("policy.") || name.starts_with("qubes.");
        for program in PROGRAMS.iter().filter(|program| !service(program.name)) {
            assert_ne!(program.page.is_some(), bare.contains(&program.name), "{}", program.name);
        }
    }

    #[test]
    fn every_command_line_is_sound_and_named_as_its_program() {
        for program in PROGRAMS {
            if let Some(page) = &program.page {
                let command = page.command();
                assert_eq!(command.get_name(), program.name);
                command.debug_assert();
            }
        }
    }
}
