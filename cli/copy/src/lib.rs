//! Bulk file copy between machines: upstream's programs by their names and command lines, and the commands for people.
//!
//! | module | one job |
//! |---|---|
//! | [`receiver`] | a stream into a folder, and nowhere else |
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

pub mod agent;
pub mod beneath;
pub mod outlet;
pub mod progress;
pub mod qvm;
pub mod receiver;
pub mod record;
pub mod remove;
pub mod sender;
pub mod shown;
pub mod sum;
pub mod tar;
pub mod tree_check;
pub mod unpacker;
pub mod walk;

/// A program: its name, and its `main`, which takes the command line and gives the exit status.
pub type Program = (&'static str, fn(Vec<OsString>) -> i32);

/// All programs, sorted by name.
pub const PROGRAMS: &[Program] = &[
    ("qfile-agent", agent::main),
    ("qfile-dom0-agent", agent::dom0_main),
    ("qfile-dom0-unpacker", unpacker::dom0_main),
    ("qfile-unpacker", unpacker::main),
    ("qubes-fs-tree-check", tree_check::main),
    ("qvm-copy", qvm::main),
    ("qvm-copy-to-vm", qvm::main),
    ("qvm-move", qvm::main),
    ("qvm-move-to-vm", qvm::main),
    ("tar2qfile", tar::main),
];

/// Runs the program that the executable was called as, or `default` if that is none of these.
pub fn run(default: &str) -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let called = args.first().map(Path::new).and_then(Path::file_name).and_then(|name| name.to_str());
    let find = |wanted: &str| PROGRAMS.iter().find(|(name, _)| *name == wanted);
    let program = called.and_then(find).or_else(|| find(default));
    let status = program.map_or(1, |(_, program)| program(args));
    u8::try_from(status).map_or(ExitCode::FAILURE, ExitCode::from)
}
