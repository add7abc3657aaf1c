//! Starting qubes, and making and removing disposables: by `qubesd`, or in a lab by a command.

use std::ffi::OsString;
use std::io;
use std::process::{Command, Stdio};
use std::time::Duration;

use wire::names::Target;

use crate::qubesd;

/// What `qubesd` says to the start of a qube that runs already.
const RUNS_ALREADY: &[u8] = b"QubesVMNotHaltedError";
/// What it says to the end of a qube that does not exist, or not any more.
const IS_GONE: &[u8] = b"QubesVMNotFoundError";

/// Who manages the qubes.
#[derive(Clone, Debug)]
pub enum Vms {
    /// `qubesd`.
    Qubesd,
    /// A command: `COMMAND start QUBE`, `COMMAND create TEMPLATE` (which prints the new qube's name) and
    /// `COMMAND kill QUBE`.
    Command(OsString),
}

impl Vms {
    /// The command that `QREXEC_VM_COMMAND` names, else `qubesd`.
    #[must_use]
    pub fn from_env() -> Self {
        let command = std::env::var_os("QREXEC_VM_COMMAND").filter(|command| !command.is_empty());
        command.map_or(Self::Qubesd, Self::Command)
    }

    /// Starts a qube; one that runs already is no error.
    ///
    /// # Errors
    /// Why it does not run.
    pub fn start(&self, qube: &Target) -> io::Result<()> {
        match self {
            Self::Command(command) => run(command, "start", qube).map(drop),
            Self::Qubesd => match self.qubesd("admin.vm.Start", qube, b"") {
                Err(qubesd::Error::Refused(why)) if why.starts_with(RUNS_ALREADY) => Ok(()),
                done => done.map(drop).map_err(io::Error::other),
            },
        }
    }

    /// Makes a disposable of a template (a name or `uuid:…`) and gives its name, or `uuid:…`.
    ///
    /// # Errors
    /// Why there is none.
    pub fn create(&self, template: &Target) -> io::Result<Target> {
        let by_uuid = template.as_str().starts_with("uuid:");
        let answer = match self {
            Self::Command(command) => run(command, "create", template)?,
            Self::Qubesd => self
                .qubesd("admin.vm.CreateDisposable", template, if by_uuid { b"uuid" } else { b"" })
                .map_err(io::Error::other)?,
        };
        let name = std::str::from_utf8(&answer).map_err(io::Error::other)?.trim_end_matches('\n');
        let qube = Target::new(name).ok().filter(|qube| qube.keyword().is_none() && !qube.is_dom0());
        qube.ok_or_else(|| io::Error::other(format!("{name:?} is no name for a disposable")))
    }

    /// Ends a qube at once; a disposable is removed with that.
    ///
    /// # Errors
    /// Why it goes on.
    pub fn kill(&self, qube: &Target) -> io::Result<()> {
        match self {
            Self::Command(command) => run(command, "kill", qube).map(drop),
            Self::Qubesd => match self.qubesd("admin.vm.Kill", qube, b"") {
                Err(qubesd::Error::Refused(why)) if why.starts_with(IS_GONE) => Ok(()),
                done => done.map(drop).map_err(io::Error::other),
            },
        }
    }

    fn qubesd(&self, method: &str, qube: &Target, payload: &[u8]) -> Result<Vec<u8>, qubesd::Error> {
        qubesd::call(qubesd::Socket::Admin, method, qube, payload)
    }
}

fn run(command: &OsString, verb: &str, qube: &Target) -> io::Result<Vec<u8>> {
    let output = Command::new(command)
        .args([verb, qube.as_str()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| io::Error::other(format!("{}: {error}", command.display())))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(io::Error::other(format!("{} {verb} {qube}: {}", command.display(), output.status)))
}

/// A disposable that is removed when this is dropped.
#[derive(Debug)]
pub struct Disposable<'a> {
    vms: &'a Vms,
    qube: Target,
}

impl<'a> Disposable<'a> {
    /// Makes and starts one.
    ///
    /// # Errors
    /// It could not be made, or not started; nothing of it is left then.
    pub fn new(vms: &'a Vms, template: &Target) -> io::Result<Self> {
        let made = Self { vms, qube: vms.create(template)? };
        vms.start(&made.qube)?;
        Ok(made)
    }

    /// What it is called.
    #[must_use]
    pub fn qube(&self) -> &Target {
        &self.qube
    }
}

impl Drop for Disposable<'_> {
    fn drop(&mut self) {
        if let Err(error) = persist(|| self.vms.kill(&self.qube), std::thread::sleep) {
            tracing::error!("the disposable {} could not be removed: {error}", self.qube);
        }
    }
}

/// Pauses before each new attempt to remove a disposable, in seconds: five minutes in all, which is longer than a restart
/// of what manages the qubes takes.
const PAUSES: [u64; 9] = [1, 2, 4, 8, 16, 32, 60, 90, 90];

/// Tries again, after growing pauses, until it works or there is no hope left.
fn persist(mut attempt: impl FnMut() -> io::Result<()>, mut pause: impl FnMut(Duration)) -> io::Result<()> {
    for seconds in PAUSES {
        match attempt() {
            Ok(()) => return Ok(()),
            Err(error) => tracing::warn!("removing a disposable: {error}; again in {seconds} s"),
        }
        pause(Duration::from_secs(seconds));
    }
    attempt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removal_that_fails_is_tried_again_for_minutes() {
        for (failures, works) in [(0, true), (3, true), (9, true), (10, false)] {
            let (mut left, mut waited) = (failures, Duration::ZERO);
            let attempt = || match left {
                0 => Ok(()),
                _ => {
                    left -= 1;
                    Err(io::Error::other("qubesd is being restarted"))
                }
            };
            assert_eq!(persist(attempt, |pause| waited += pause).is_ok(), works);
            assert_eq!(left, 0);
            assert_eq!(waited.as_secs(), PAUSES.iter().take(failures).sum::<u64>());
        }
    }
}
