//! What is between the device and who imports it.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use usb_sim::host::Host;

use super::super::super::process::Running;
use super::super::super::procfs;
use super::super::super::roles::Role;
use super::super::super::stage::Stage;
use super::trouble;
use cli::failure::Failure;

/// How long an answer may take before the run fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// Most that a client may say of a call that failed.
const MOST_SAID: u64 = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Road {
    /// Two processes that copy in pieces of 64 KiB.
    Relays,
    /// A call.
    Call,
    /// A call with the filter of USB over IP at both ends.
    Filtered,
}

impl Road {
    pub(super) const ALL: [Self; 3] = [Self::Relays, Self::Call, Self::Filtered];

    pub(super) fn label(self, work: &str) -> String {
        match self {
            Self::Relays => format!("{work}, two relays"),
            Self::Call => work.to_owned(),
            Self::Filtered => format!("{work}, filter"),
        }
    }
}

/// An attached device.
pub(super) struct Ends<'a> {
    pub(super) host: Host,
    stage: &'a Stage,
    /// The call, or relays and device.
    processes: Vec<Running>,
    is_call: bool,
}

impl<'a> Ends<'a> {
    pub(super) fn open(stage: &'a Stage, road: Road, device: &'static str) -> Result<Self, Failure> {
        let (ours, theirs) = pair()?;
        let is_call = road != Road::Relays;
        let mut processes = if is_call {
            let mut command = stage.call_device(device, road == Road::Filtered)?;
            command.stdin(theirs).stdout(Stdio::null()).stderr(Stdio::piped());
            vec![Running::start(&mut command, "a client")?]
        } else {
            relayed(stage, theirs, device)?
        };
        let host = Host::attach(ours, PATIENCE).map_err(trouble);
        let host = host.map_err(|failure| with_words(&mut processes, failure))?;
        Ok(Self { host, stage, processes, is_call })
    }

    /// Seconds that the client and the agent's process have worked so far, if there is a call and the system tells.
    pub(super) fn cpu(&self) -> Option<f64> {
        let client = self.processes.first().filter(|_| self.is_call)?.pid()?;
        let agents = self.stage.pumps().into_iter().chain([client]);
        agents.map(procfs::cpu_seconds).sum()
    }

    /// Detaches the device, and waits for the end of what was between.
    pub(super) fn close(self) -> Result<(), Failure> {
        let Self { host, processes, stage, .. } = self;
        drop(host);
        for process in processes {
            let ended = process.finish();
            if !stage.is_compared() {
                ended?;
            }
        }
        Ok(())
    }

    /// Adds what the client said.
    pub(super) fn blame(mut self, failure: Failure) -> Failure {
        drop(self.host);
        with_words(&mut self.processes, failure)
    }
}

fn with_words(processes: &mut [Running], mut failure: Failure) -> Failure {
    let stderr = processes.first_mut().and_then(|process| process.child().stderr.take());
    let mut said = String::new();
    if let Some(stderr) = stderr
        && stderr.take(MOST_SAID).read_to_string(&mut said).is_ok()
        && !said.is_empty()
    {
        failure.message = format!("{}: {}", failure.message, said.trim());
    }
    failure
}

/// A device behind two relays.
fn relayed(stage: &Stage, host: OwnedFd, device: &'static str) -> Result<Vec<Running>, Failure> {
    let ((first, last), (middle, other)) = (pair()?, pair()?);
    let relay = |there: OwnedFd, here: OwnedFd| {
        let mut command = stage.role(Role::Relay)?;
        command.stdin(there).stdout(here).stderr(Stdio::null());
        Running::start(&mut command, "a relay")
    };
    let mut device: Command = stage.role(Role::Device(device))?;
    device.env_remove("QREXEC_AGENT_PID").stdin(last).stdout(Stdio::null()).stderr(Stdio::null());
    let device = Running::start(&mut device, "a device")?;
    Ok(vec![relay(host, middle)?, relay(other, first)?, device])
}

fn pair() -> Result<(OwnedFd, OwnedFd), Failure> {
    let (a, b) = UnixStream::pair().map_err(Failure::during("a pair of sockets"))?;
    Ok((a.into(), b.into()))
}
