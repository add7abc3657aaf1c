//! The services of policy administration, as qrexec starts them: `policy.List`, `policy.Get+NAME`, ….

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use clap::Parser;
use engine::say;

use super::{Admin, Error, MAX_FILE, Name};
use crate::failure::Failure;
use crate::usage;

const PROGRAM: &str = "qubes-policy-admin";

/// The exit status of a call that was refused.
const REFUSED: i32 = 1;
/// The exit status for trouble of our own.
const INTERNAL: i32 = 2;
/// The exit status for a file that is not there.
pub const NOT_FOUND: i32 = 3;

impl Admin {
    /// The folder of this machine: the last of `QREXEC_POLICY_DIR`, else `/etc/qubes/policy.d`.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let folders = std::env::var_os("QREXEC_POLICY_DIR").filter(|folders| !folders.is_empty());
        let last = folders.and_then(|folders| std::env::split_paths(&folders).last());
        let old = std::env::var_os("QREXEC_OLD_POLICY_DIR").filter(|folder| !folder.is_empty());
        let old = old.map_or_else(|| policy::load::OLD_POLICY_FOLDER.into(), PathBuf::from);
        Self::new(last.unwrap_or_else(|| policy::load::POLICY_FOLDER.into()), old)
    }

    /// Does what a call of `service` (`policy.List` and so on) with this argument and input wants, and
    /// gives its output.
    ///
    /// # Errors
    /// Why not; nothing was changed then.
    pub fn call(&self, service: &str, argument: &str, input: &[u8]) -> Result<Vec<u8>, Error> {
        let (method, include) = match service.strip_prefix("policy.include.") {
            Some(method) => (method, true),
            None => (service.strip_prefix("policy.").unwrap_or_default(), false),
        };
        let refuse = |what: &str| Err(Error::Protocol(what.to_owned()));
        let name = Name { include, name: argument.to_owned() };
        if matches!(method, "List" | "Get" | "GetFiles") && !input.is_empty() {
            return refuse("Unexpected payload");
        }
        let _lock = self.lock()?;
        match method {
            "List" if !argument.is_empty() => refuse("Unexpected argument"),
            "List" => self.list(include),
            "Get" => self.get(&name),
            "Replace" => {
                let Some(end) = input.iter().position(|byte| *byte == b'\n') else {
                    return refuse("Payload needs to include first line with token");
                };
                let (token, rest) = input.split_at(end);
                self.replace(&name, text(token)?, rest.get(1..).unwrap_or_default()).map(|()| Vec::new())
            }
            "Remove" => self.remove(&name, text(input)?.trim_end_matches('\n')).map(|()| Vec::new()),
            "GetFiles" if !include => self.files_of(argument),
            _ => Err(Error::Protocol(format!("unrecognized method: {service:?}"))),
        }
    }
}

fn text(bytes: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(bytes).map_err(|_| Error::Protocol("Unrecognized token".to_owned()))
}

/// Serves the administration of the qrexec policy.
///
/// Link it to the names of the services: policy.List, policy.Get, policy.GetFiles, policy.Replace,
/// policy.Remove, policy.include.List and so on. qrexec says by the environment what is called; the command
/// line of a service is its argument, which is not looked at.
#[derive(Debug, Parser)]
#[command(name = PROGRAM)]
struct Args {}

/// The command line, for manual pages and completions.
pub fn command() -> clap::Command {
    <Args as clap::CommandFactory>::command()
}

/// Runs the service that the environment names; the arguments do not matter. Without such an environment
/// this is no call, and the command line is read. Gives the exit status.
pub fn main(args: Vec<OsString>) -> i32 {
    if std::env::var_os("QREXEC_REMOTE_DOMAIN").is_none() {
        return usage::run(PROGRAM, args, |_: &Args| {
            Err(Failure::usage("this is a service, for qrexec to start"))
        });
    }
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let (full, source) = (variable("QREXEC_SERVICE_FULL_NAME"), variable("QREXEC_REMOTE_DOMAIN"));
    let (service, argument) = full.split_once('+').unwrap_or((&full, ""));
    let mut input = Vec::new();
    let read = io::stdin().lock().take(MAX_FILE as u64 + 1).read_to_end(&mut input);
    let done = match read {
        Ok(_) if input.len() > MAX_FILE => Err(Error::Protocol("The payload is too long".to_owned())),
        Ok(_) => Admin::of_this_machine().call(service, argument, &input),
        Err(error) => Err(error.into()),
    };
    match done.and_then(|output| Ok(io::stdout().write_all(&output)?)) {
        Ok(()) => {
            tracing::info!("{full} by {source}");
            0
        }
        Err(error) => {
            say::error(format_args!("{PROGRAM}: {full:?} by {source:?}: {} {error}", error.class()));
            match error {
                Error::NotFound(_) => NOT_FOUND,
                Error::Io(_) => INTERNAL,
                _ => REFUSED,
            }
        }
    }
}
