//! `qubes-policy`: administration by command line, here in dom0 or from a qube that may.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;

use clap::Parser;
use engine::process::own_executable;
use wire::escape::Escaped;

use super::{Admin, Error, MAX_FILE, Name};
use crate::failure::Failure;
use crate::policy_tools::reply::in_memory;
use crate::usage;

const PROGRAM: &str = "qubes-policy";
/// The kind of error by which dom0 says that a file is not there.
const NOT_FOUND: &str = "PolicyAdminFileNotFoundException";
/// As much of dom0's error output is looked at, in bytes.
const MAX_SAID: usize = 4096;

/// Lists, shows, replaces and removes files of the qrexec policy.
///
/// In dom0 it works on the policy folder; elsewhere it asks dom0, whose policy must allow that.
#[derive(Debug, Parser)]
#[command(name = PROGRAM, override_usage = "qubes-policy [-l] [include/]\n       qubes-policy -g|-r|-d [include/]NAME")]
struct PolicyAdminArgs {
    /// List the files (the default).
    #[arg(short, long, group = "method")]
    list: bool,
    /// Print a file.
    #[arg(short, long, group = "method")]
    get: bool,
    /// Replace a file, or make it, with what is read from stdin.
    #[arg(short, long, group = "method")]
    replace: bool,
    /// Remove a file.
    #[arg(short = 'd', long, group = "method")]
    remove: bool,
    /// The file, without `.policy`.
    #[arg(value_name = "[include/]NAME", default_value = "")]
    name: String,
}

/// Where the administration is done.
#[derive(Debug)]
pub enum AdminClient {
    /// Here.
    Here(Admin),
    /// In dom0, by calls.
    Dom0,
}

/// Why a call brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// There is no such file.
    #[error("there is no such file")]
    NotFound,
    /// Refused, for a reason that was said already or is said here.
    #[error("{0}")]
    Failed(String),
}

impl AdminClient {
    /// Here if this is dom0: there is a policy folder, or one is named by `QREXEC_POLICY_DIR`. A VM of a lab is not dom0,
    /// whatever the machine has on which the lab runs: that folder is none of its business.
    #[must_use]
    pub fn of_this_machine() -> Self {
        if is_vm_of_a_lab() {
            return Self::Dom0;
        }
        let admin = Admin::of_this_machine();
        if admin.folder.is_dir() { Self::Here(admin) } else { Self::Dom0 }
    }

    /// Calls `policy.METHOD`, or `policy.include.METHOD`.
    ///
    /// # Errors
    /// Why it brought nothing.
    pub fn call(&self, method: &str, name: &Name, input: &[u8]) -> Result<Vec<u8>, CallError> {
        let service = format!("policy.{}{method}", if name.include { "include." } else { "" });
        match self {
            Self::Here(admin) => admin.call(&service, &name.name, input).map_err(|error| match error {
                Error::NotFound(_) => CallError::NotFound,
                error => CallError::Failed(error.to_string()),
            }),
            Self::Dom0 => {
                let service = format!("{service}+{}", name.name);
                call_dom0(&service, input).map_err(|error| CallError::Failed(error.to_string()))?
            }
        }
    }
}

/// A lab names the policy folder for its dom0 only.
pub(crate) fn is_vm_of_a_lab() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    is_set("QUBES_LAB") && !is_set("QREXEC_POLICY_DIR")
}

fn call_dom0(service: &str, input: &[u8]) -> io::Result<Result<Vec<u8>, CallError>> {
    let output = Command::new(own_executable())
        .arg0("qrexec-client-vm")
        .args(["--", "dom0", service])
        .stdin(in_memory(input)?)
        .output()?;
    if output.status.success() {
        return Ok(Ok(output.stdout));
    }
    let said = output.stderr.get(..MAX_SAID).unwrap_or(&output.stderr);
    Ok(Err(understand(&String::from_utf8_lossy(said), service, &output.status.to_string())))
}

/// What dom0 said: the kind of the error and its text, or something else.
fn understand(said: &str, service: &str, status: &str) -> CallError {
    let (class, text) = said.split_once(' ').unwrap_or_default();
    match class {
        NOT_FOUND => CallError::NotFound,
        _ if class.starts_with("PolicyAdmin") => CallError::Failed(Escaped::new(text).to_string()),
        _ if said.trim().is_empty() => CallError::Failed(format!("{service}: {status}")),
        _ => CallError::Failed(format!("{service}: {status}: {}", Escaped::new(said.trim_end()))),
    }
}

/// The command line, for manual pages and completions.
pub fn command() -> clap::Command {
    <PolicyAdminArgs as clap::CommandFactory>::command()
}

/// Runs the program with these arguments, its name first, and gives its exit status.
pub fn main(args: Vec<OsString>) -> i32 {
    usage::run(PROGRAM, args, run)
}

fn run(args: &PolicyAdminArgs) -> Result<(), Failure> {
    let client = AdminClient::of_this_machine();
    let name = if args.name == "include" { Name::parse("include/") } else { Name::parse(&args.name) };
    let bad = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-' | '_'));
    if let Some(bad) = name.name.chars().find(|c| bad(*c)) {
        return Err(Failure::usage(format!("the name has a {bad:?} in it")));
    }
    let changes = args.get || args.replace || args.remove;
    if changes == name.name.is_empty() {
        return Err(Failure::usage(if changes { "name a file" } else { "--list takes no name" }));
    }
    let refused = |error: CallError| Failure { status: 1, message: error.to_string() };
    let output = if args.get {
        let got = client.call("Get", &name, b"").map_err(refused)?;
        let end = got.iter().position(|byte| *byte == b'\n').map_or(got.len(), |end| end.saturating_add(1));
        got.get(end..).unwrap_or_default().to_vec()
    } else if args.replace {
        let mut input = b"any\n".to_vec();
        let read = io::stdin().lock().take(MAX_FILE as u64).read_to_end(&mut input);
        read.map_err(Failure::during("reading stdin"))?;
        client.call("Replace", &name, &input).map_err(refused)?
    } else if args.remove {
        client.call("Remove", &name, b"any").map_err(refused)?
    } else {
        client.call("List", &name, b"").map_err(refused)?
    };
    io::stdout().write_all(&output).map_err(Failure::during("writing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dom0_says_is_understood_by_its_first_word() {
        let said = |text: &str| understand(text, "policy.Get+x", "exit status: 1").to_string();
        assert!(matches!(
            understand(&format!("{NOT_FOUND} Not found: x"), "policy.Get+x", ""),
            CallError::NotFound
        ));
        assert_eq!(said("PolicyAdminTokenException Token mismatch"), "Token mismatch");
        assert_eq!(said("PolicyAdminSyntaxException a\u{1b}b"), "a\\x1bb");
        assert_eq!(said(""), "policy.Get+x: exit status: 1");
        assert_eq!(said("Request refused\n"), "policy.Get+x: exit status: 1: Request refused");
    }
}
