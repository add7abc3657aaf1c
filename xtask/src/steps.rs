//! Running other programs, and saying which one failed.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a task says when it fails.
pub(crate) type Failure = String;

/// The root of the workspace: the parent of this package's folder.
pub(crate) fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// Cargo itself, in the root of the workspace.
pub(crate) fn cargo<'a>(args: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

/// The compiler.
pub(crate) fn rustc() -> Command {
    Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
}

/// Runs a step under its name; its output goes to the terminal.
pub(crate) fn step(name: &str, command: &mut Command) -> Result<(), Failure> {
    eprintln!("== {name}");
    let status = command.status().map_err(|error| format!("{name}: cannot start: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{name} failed: {status}")) }
}

/// Runs a step that works in this process and returns what is wrong, line by line.
pub(crate) fn findings(name: &str, found: Result<Vec<String>, Failure>) -> Result<(), Failure> {
    eprintln!("== {name}");
    let found = found.map_err(|error| format!("{name}: {error}"))?;
    if found.is_empty() {
        return Ok(());
    }
    Err(format!("{name}:\n  {}", found.join("\n  ")))
}

/// Whether a program can be started at all.
pub(crate) fn is_there(program: &str, args: &[&str]) -> bool {
    let output = Command::new(program).args(args).output();
    output.is_ok_and(|output| output.status.success())
}

/// The variable that names the file in which what was skipped is written down.
pub(crate) const SKIPPED: &str = "CI_SKIPPED";

/// Says that something was not tried. That never fails: what CI wants for it is installed by `cargo xtask ci`, where it can be,
/// and a machine whose archive cannot be reached has neither that nor a system to try packages in; which of the two is
/// missing looks the same. So that it is not lost among an hour's lines, CI collects it in a file and says it at its end.
pub(crate) fn skipped(name: &str, why: &str) {
    eprintln!("== {name}: skipped, {why}");
    let Some(list) = std::env::var_os(SKIPPED) else { return };
    let written = OpenOptions::new().create(true).append(true).open(list);
    if let Err(error) = written.and_then(|mut list| writeln!(list, "SKIPPED: {name}: {why}")) {
        eprintln!("SKIPPED: {name}: {why} (and nobody will say so: {error})");
    }
}

/// What a command says, without blanks around it.
pub(crate) fn said(command: &mut Command) -> Result<String, Failure> {
    let output = command.output().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    String::from_utf8(output.stdout).map(|text| text.trim().to_owned()).map_err(|error| error.to_string())
}
