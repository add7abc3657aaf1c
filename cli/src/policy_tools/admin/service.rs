//! The services of policy administration, as qrexec starts them: `policy.List`, `policy.Get+NAME`, ….

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Parser;
use rustix::fs::{FlockOperation, Mode, OFlags};
use wire::escape::Escaped;

use super::{Admin, Error, MAX_FILE, Name};
use crate::failure::Failure;
use crate::usage;

const PROGRAM: &str = "qubes-policy-admin";

/// The exit status of a call that was refused.
const REFUSED: i32 = 1;
/// The exit status for trouble of our own.
const INTERNAL: i32 = 2;
/// Where the calls are logged, if nothing else is said.
const LOG: &str = "/var/log/qubes/policy-admin.log";
/// A log that is longer than this is renamed, and a new one begun.
const MAX_LOG: u64 = 4 << 20;

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
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '+' | '-');
        if !argument.chars().all(plain) {
            return Err(Error::Protocol(format!("Invalid argument: {argument:?}")));
        }
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
/// line of a service is its argument, which is not looked at. Calls are logged to QREXEC_POLICY_ADMIN_LOG, else to
/// /var/log/qubes/policy-admin.log.
#[derive(Debug, Parser)]
#[command(name = PROGRAM)]
struct AdminServiceArgs {}

/// The command line, for manual pages and completions.
pub fn command() -> clap::Command {
    <AdminServiceArgs as clap::CommandFactory>::command()
}

/// Runs the service that the environment names; the arguments do not matter. Without such an environment
/// this is no call, and the command line is read. Gives the exit status.
pub fn main(args: Vec<OsString>) -> i32 {
    if std::env::var_os("QREXEC_REMOTE_DOMAIN").is_none() {
        return usage::run(PROGRAM, args, |_: &AdminServiceArgs| {
            Err(Failure::usage("this is a service, for qrexec to start"))
        });
    }
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let (full, source) = (variable("QREXEC_SERVICE_FULL_NAME"), variable("QREXEC_REMOTE_DOMAIN"));
    let log = std::env::var_os("QREXEC_POLICY_ADMIN_LOG").filter(|path| !path.is_empty());
    let log = log.map_or_else(|| PathBuf::from(LOG), PathBuf::from);
    let (service, argument) = full.split_once('+').unwrap_or((&full, ""));
    let done = if super::client::is_vm_of_a_lab() {
        Err(Error::Protocol("a VM of a lab has no policy".to_owned()))
    } else {
        answer(service, argument)
    };
    let [called, source] = [full.as_str(), source.as_str()].map(Escaped::new);
    let Err(error) = done else {
        write_log(&log, &format!("{called} ({source})"));
        return 0;
    };
    write_log(
        &log,
        &format!("{called} ({source}): error: {} {}", error.class(), Escaped::new(&error.to_string())),
    );
    let (said, status) = match error {
        Error::Io(_) => (format!("Internal error. See '{}' in dom0 for details.", log.display()), INTERNAL),
        error => (format!("{} {error}", error.class()), REFUSED),
    };
    // Exactly this: the caller's library takes the first word for the kind of the error, and the rest for its text.
    let _ = io::stderr().write_all(said.as_bytes());
    status
}

fn answer(service: &str, argument: &str) -> Result<(), Error> {
    let mut input = Vec::new();
    io::stdin().lock().take(MAX_FILE as u64 + 1).read_to_end(&mut input)?;
    if input.len() > MAX_FILE {
        return Err(Error::Protocol("The payload is too long".to_owned()));
    }
    let output = Admin::of_this_machine().call(service, argument, &input)?;
    Ok(io::stdout().write_all(&output)?)
}

/// Adds a line to the log. The call has been done or refused already: that its log cannot be written changes nothing.
fn write_log(path: &Path, line: &str) {
    let open = || -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        Ok(File::from(rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o640))?))
    };
    let written = || -> io::Result<()> {
        let mut file = open()?;
        let ours = file.metadata()?;
        let is_there = |meta: std::fs::Metadata| (meta.dev(), meta.ino()) == (ours.dev(), ours.ino());
        // Whoever has the lock renames, if it still has this name then; others go on with the file that they have.
        if ours.is_file()
            && ours.len() > MAX_LOG
            && rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
            && std::fs::symlink_metadata(path).is_ok_and(is_there)
        {
            let mut old = path.as_os_str().to_owned();
            old.push(".1");
            std::fs::rename(path, old)?;
            file = open()?;
        }
        let time = humantime::format_rfc3339_millis(SystemTime::now());
        file.write_all(format!("{time} {line}\n").as_bytes())
    };
    // There is nobody else to tell: what this process says on its error output is the caller's.
    let _ = written();
}
