//! Bulk file copy between machines: upstream's programs by their names and command lines, and the commands for people.
//!
//! What receives is crate `filecopy`, which the agent has as well.
//!
//! | module | one job |
//! |---|---|
//! | [`sender`] | trees of files into a stream, and the answer |
//! | [`walk`] | a tree, with bounded descriptors and memory |
//! | [`tree_check`] | whether a tree can be sent, before anything is |
//! | [`record`] | what a sender sent, for whoever removes it afterwards |
//! | [`remove`] | removes exactly that |
//! | [`unpacker`], [`agent`], [`tar`], [`qvm`] | the programs |
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // they end a program whose output nobody takes

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use cli::programs::Program;

pub mod agent;
mod fresh;
pub mod outlet;
pub mod progress;
pub mod qvm;
pub mod record;
pub mod remove;
pub mod sender;
pub mod tar;
pub mod tree_check;
pub mod unpacker;
pub mod walk;
mod way;

/// All programs, sorted by name. Their command lines are upstream's to the letter, and no reader of options does them
/// justice.
pub const PROGRAMS: &[Program] = &[
    Program::bare("qfile-agent", agent::main),
    Program::bare("qfile-dom0-agent", agent::dom0_main),
    Program::bare("qfile-dom0-unpacker", unpacker::dom0_main),
    Program::bare("qfile-unpacker", unpacker::main),
    Program::bare("qubes-fs-tree-check", tree_check::main),
    Program::bare("qvm-copy", qvm::main),
    Program::bare("qvm-copy-to-vm", qvm::main),
    Program::bare("qvm-move", qvm::main),
    Program::bare("qvm-move-to-vm", qvm::main),
    Program::bare("tar2qfile", tar::main),
];

/// Runs the program that the executable was called as, or `default` if that is none of these.
pub fn run(default: &str) -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let called = args.first().map(Path::new).and_then(Path::file_name).and_then(|name| name.to_str());
    let find = |wanted: &str| PROGRAMS.iter().find(|program| program.name == wanted);
    let program = called.and_then(find).or_else(|| find(default));
    let status = program.map_or(1, |program| (program.main)(args));
    u8::try_from(status).map_or(ExitCode::FAILURE, ExitCode::from)
}
