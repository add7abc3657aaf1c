//! What happens at the serving agent while a call is measured: its processes for the call, and what it logs.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::stage::Stage;

/// How long the agent's process may stay when a call is over.
const ENDS_WITHIN: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Bytes of a log that are looked at.
const LOG_LIMIT: u64 = 64 << 10;

/// The serving agent's side of a call that is under way.
#[derive(Debug)]
pub(super) struct AgentSide {
    pumps: Vec<i32>,
    ends: Vec<OwnedFd>,
    log: Option<PathBuf>,
    log_before: u64,
}

impl AgentSide {
    /// The only call that is under way.
    pub(super) fn of_call(stage: &Stage) -> Self {
        let pumps = stage.pumps();
        let handle = |pid: &i32| pidfd_open(Pid::from_raw(*pid)?, PidfdFlags::empty()).ok();
        let log = stage.agent_log();
        let log_before = log.as_ref().and_then(|log| fs::metadata(log).ok()).map_or(0, |meta| meta.len());
        Self { ends: pumps.iter().filter_map(handle).collect(), pumps, log, log_before }
    }

    /// Its processes.
    pub(super) fn pumps(&self) -> &[i32] {
        &self.pumps
    }

    /// Waits for its end; what it logged since.
    pub(super) fn finish(self) -> String {
        for end in &self.ends {
            let mut ended = [PollFd::new(end, PollFlags::IN)];
            let _ = rustix::io::retry_on_intr(|| poll(&mut ended, Some(&ENDS_WITHIN)));
        }
        let read = || -> io::Result<Vec<u8>> {
            let Some(log) = &self.log else { return Ok(Vec::new()) };
            let mut log = File::open(log)?;
            log.seek(SeekFrom::Start(self.log_before))?;
            let mut said = Vec::new();
            log.take(LOG_LIMIT).read_to_end(&mut said)?;
            Ok(said)
        };
        String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
    }
}
