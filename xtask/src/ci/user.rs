//! An ordinary user: tests have to pass without root's rights and with the limits that users have.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{machine, within};
use crate::steps::{Failure, root};

/// The limits of a login on common systems: descriptors, and locked memory in bytes.
const LIMITS: [&str; 2] = ["--nofile=1024:1024", "--memlock=8388608:8388608"];

/// Whom `useradd` makes where there is no ordinary user.
const MADE: &str = "qrexec-test";

pub(super) enum User {
    /// We are one.
    Myself,
    /// We are root and become this one.
    Other(Account),
}

pub(super) struct Account {
    name: String,
    gid: u32,
    home: tempfile::TempDir,
}

impl User {
    pub(super) fn of_this_machine() -> Result<Self, Failure> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Myself);
        }
        let (name, uid, gid) = find()?.map_or_else(make, Ok)?;
        let failed = |error: std::io::Error| format!("a home for {name}: {error}");
        let home = tempfile::tempdir().map_err(failed)?;
        let run = home.path().join("run");
        fs::create_dir(&run).map_err(failed)?;
        machine::set_mode(&run, 0o700).map_err(failed)?;
        for folder in [home.path(), &run] {
            chown(folder, Some(uid), Some(gid)).map_err(failed)?;
        }
        let account = Account { name, gid, home };
        let programs = target_folder();
        if !account.reads(&programs) {
            return Err(format!(
                "{} cannot reach {}: set CARGO_TARGET_DIR to a folder that everybody can enter",
                account.name,
                programs.display()
            ));
        }
        Ok(Self::Other(account))
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Myself => "myself",
            Self::Other(account) => &account.name,
        }
    }

    /// The beginning of a command line of this user's; the program and its arguments follow.
    pub(super) fn command(&self, limit: Duration) -> Command {
        let mut command = within(limit);
        if let Self::Other(account) = self {
            account.complete(&mut command);
        }
        command
    }
}

impl Account {
    fn complete(&self, command: &mut Command) {
        let home = self.home.path();
        command
            .current_dir(home)
            .env("HOME", home)
            .env("TMPDIR", home)
            .env("XDG_RUNTIME_DIR", home.join("run"));
        command.env("USER", &self.name).env("LOGNAME", &self.name);
        command.arg("prlimit").args(LIMITS).arg("setpriv");
        command
            .arg(format!("--reuid={}", self.name))
            .arg(format!("--regid={}", self.gid))
            .arg("--init-groups");
    }

    fn reads(&self, file: &Path) -> bool {
        let mut command = within(Duration::from_secs(10));
        self.complete(&mut command);
        command.args(["test", "-r"]).arg(file).status().is_ok_and(|status| status.success())
    }
}

/// Where cargo puts what it builds.
fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |folder| root().join(folder))
}

type Found = (String, u32, u32);

/// The first ordinary user that has a shell.
fn find() -> Result<Option<Found>, Failure> {
    let text = fs::read_to_string("/etc/passwd").map_err(|error| format!("/etc/passwd: {error}"))?;
    Ok(text.lines().find_map(ordinary))
}

fn ordinary(line: &str) -> Option<Found> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, _, shell] = fields.as_slice() else { return None };
    let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
    let is_shell = ["/bash", "/dash", "/sh"].iter().any(|end| shell.ends_with(end));
    ((1000..60000).contains(&uid) && is_shell).then(|| ((*name).to_owned(), uid, gid))
}

fn make() -> Result<Found, Failure> {
    crate::steps::step(
        "useradd",
        Command::new("useradd").args(["--create-home", "--shell", "/bin/sh", MADE]),
    )?;
    find()?.ok_or_else(|| format!("useradd made no ordinary user {MADE}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_user_has_a_shell_and_a_number_of_their_own() {
        assert_eq!(ordinary("ann:x:1000:100::/home/ann:/bin/bash"), Some(("ann".into(), 1000, 100)));
        assert_eq!(ordinary("root:x:0:0::/root:/bin/bash"), None);
        assert_eq!(ordinary("nobody:x:65534:65534::/:/usr/sbin/nologin"), None);
        assert_eq!(ordinary("web:x:1001:1001::/srv:/usr/sbin/nologin"), None);
        assert_eq!(ordinary("no passwd line"), None);
    }
}
