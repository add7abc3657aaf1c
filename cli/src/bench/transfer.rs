//! Moves bytes through one call, or through a plain pipe, and measures it.
//!
//! Source and sink run and have said so before the first byte is written; the time is from the source's first write to
//! the sink's last byte, so neither a program's start nor a call's is in it. Both then wait, so that the processes
//! between them are still there when their use of the processor is read.

use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter, Read, Seek, SeekFrom, Write, pipe};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ChildStderr, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::procfs;
use super::report::{Reports, Span};
use super::roles::{Load, Role};
use super::stage::{Running, Stage};
use crate::failure::Failure;

/// The yardstick's pipe holds this much.
const YARDSTICK_PIPE: usize = 1 << 20;

/// How long the agent's process may stay when a call is over.
const PUMP_ENDS_WITHIN: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Bytes of a log that are looked at.
const LOG_LIMIT: u64 = 64 << 10;

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// From the client to the service.
    Send,
    /// From the service to the client.
    Receive,
    /// Both at once, a full load each way.
    Both,
}

/// How a transfer went.
#[derive(Clone, Debug)]
pub(super) struct Moved {
    /// From the first write to the last byte.
    pub(super) seconds: f64,
    /// Both ways together.
    pub(super) bytes: u64,
    /// Processor time of the client's and of the service's qrexec process, in seconds.
    pub(super) cpu: Option<(f64, f64)>,
    /// What the client and the agent said during the call, their counters perhaps.
    pub(super) said: (String, String),
}

impl Moved {
    pub(super) fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.seconds
    }

    fn new(sources: &[Span], sinks: &[Span], bytes: u64) -> Result<Self, Failure> {
        let moved: u64 = sinks.iter().map(|span| span.bytes).sum();
        let start = sources.iter().map(|span| span.start).min().unwrap_or(0);
        let end = sinks.iter().map(|span| span.end).max().unwrap_or(0);
        match end.checked_sub(start) {
            Some(time) if time > 0 && moved == bytes => {
                Ok(Self { seconds: time as f64 / 1e9, bytes, cpu: None, said: Default::default() })
            }
            Some(_) => Err(Failure::trouble(format!("{moved} of {bytes} bytes arrived"))),
            None => Err(Failure::trouble("the bytes arrived before they were sent")),
        }
    }
}

/// A role at our side of a call.
struct Local {
    process: Running,
    reports: Reports<ChildStderr>,
}

impl Local {
    fn start(stage: &Stage, role: Role, stdin: PipeReader, stdout: Stdio) -> Result<Self, Failure> {
        let mut command = stage.role(role)?;
        let mut process =
            Running::start(command.stdin(stdin).stdout(stdout).stderr(Stdio::piped()), "a local role")?;
        let reports = reports_of(&mut process)?;
        Ok(Self { process, reports })
    }
}

fn reports_of(process: &mut Running) -> Result<Reports<ChildStderr>, Failure> {
    let stderr = process.child().stderr.take();
    stderr.map(Reports::new).ok_or_else(|| Failure::trouble("a process without a standard error"))
}

fn new_pipe() -> Result<(PipeReader, PipeWriter), Failure> {
    pipe().map_err(Failure::during("a pipe"))
}

/// Tells a source to begin.
fn go(mut to: &PipeWriter) -> Result<(), Failure> {
    to.write_all(b"!").map_err(Failure::during("starting the source"))
}

/// From one role to another through one pipe, without any qrexec.
pub(super) fn direct(stage: &Stage, load: Load) -> Result<Moved, Failure> {
    let (start, starter) = new_pipe()?;
    let (from_pipe, to_pipe) = new_pipe()?;
    let _ = rustix::pipe::fcntl_setpipe_size(&to_pipe, YARDSTICK_PIPE);
    let mut sink = Local::start(stage, Role::Sink(load), from_pipe, Stdio::null())?;
    let mut source = Local::start(stage, Role::Source(load), start, to_pipe.into())?;
    sink.reports.ready()?;
    source.reports.ready()?;
    go(&starter)?;
    let moved = Moved::new(&[source.reports.source()?], &[sink.reports.sink()?], load.bytes)?;
    drop(starter);
    source.process.finish()?;
    sink.process.finish()?;
    Ok(moved)
}

/// Through a call.
pub(super) fn through_call(
    stage: &Stage,
    way: Way,
    buffer: Option<&str>,
    load: Load,
) -> Result<Moved, Failure> {
    let mut call = Call::start(stage, way, buffer, load)?;
    let mut moved = call.transfer(way, load)?;
    let agent = Agent::of_call(stage);
    moved.cpu = call.cpu(&agent);
    moved.said = (call.finish()?, agent.finish());
    Ok(moved)
}

/// A call and the roles beside it, ready to move bytes.
struct Call {
    client: Running,
    remote: Reports<ChildStderr>,
    source: Option<Local>,
    sink: Option<Local>,
    /// Starts the source, wherever it is; its end ends the call.
    starter: PipeWriter,
}

impl Call {
    fn start(stage: &Stage, way: Way, buffer: Option<&str>, load: Load) -> Result<Self, Failure> {
        let (start, starter) = new_pipe()?;
        let (stdin, to_stdin) = new_pipe()?;
        let (from_stdout, stdout) = new_pipe()?;
        let role = match way {
            Way::Send => Role::Sink(load),
            Way::Receive => Role::Source(load),
            Way::Both => Role::Duplex(load),
        };
        let mut command = stage.call_role(buffer, role)?;
        command.stderr(Stdio::piped());
        let (mut source, mut sink) = (None, None);
        if way == Way::Receive {
            command.stdin(start);
        } else {
            command.stdin(stdin);
            source = Some(Local::start(stage, Role::Source(load), start, to_stdin.into())?);
        }
        if way == Way::Send {
            command.stdout(Stdio::null());
        } else {
            command.stdout(stdout);
            sink = Some(Local::start(stage, Role::Sink(load), from_stdout, Stdio::null())?);
        }
        let mut client = Running::start(&mut command, "qrexec-client-vm")?;
        let mut remote = reports_of(&mut client)?;
        for reports in [source.as_mut(), sink.as_mut()].into_iter().flatten().map(|local| &mut local.reports)
        {
            reports.ready()?;
        }
        remote.ready()?;
        Ok(Self { client, remote, source, sink, starter })
    }

    fn transfer(&mut self, way: Way, load: Load) -> Result<Moved, Failure> {
        go(&self.starter)?;
        let (mut sources, mut sinks) = (Vec::new(), Vec::new());
        if way != Way::Receive {
            sinks.push(self.remote.sink()?);
        }
        if way != Way::Send {
            sources.push(self.remote.source()?);
        }
        if let Some(local) = &mut self.sink {
            sinks.push(local.reports.sink()?);
        }
        if let Some(local) = &mut self.source {
            sources.push(local.reports.source()?);
        }
        Moved::new(&sources, &sinks, load.bytes * sinks.len() as u64)
    }

    /// What the two processes of the call have used so far, which is what they used for the transfer.
    fn cpu(&self, agent: &Agent) -> Option<(f64, f64)> {
        let client = procfs::cpu_seconds(self.client.pid()?)?;
        let pumps = agent.pumps.iter().map(|pid| procfs::cpu_seconds(*pid));
        let server = pumps.sum::<Option<f64>>().filter(|seconds| *seconds > 0.0)?;
        Some((client, server))
    }

    /// Ends the call; what the client said beside the reports.
    fn finish(self) -> Result<String, Failure> {
        drop(self.starter);
        if let Some(source) = self.source {
            source.process.finish()?;
        }
        let said = self.remote.rest();
        self.client.finish().map_err(|mut failure| {
            failure.message = format!("{}: {}", failure.message, said.trim());
            failure
        })?;
        self.sink.map_or(Ok(()), |sink| sink.process.finish())?;
        Ok(said)
    }
}

/// The serving agent's side of a call that is under way.
struct Agent {
    pumps: Vec<i32>,
    ends: Vec<OwnedFd>,
    log: PathBuf,
    log_before: u64,
}

impl Agent {
    fn of_call(stage: &Stage) -> Self {
        let pumps = stage.pumps();
        let handle = |pid: &i32| pidfd_open(Pid::from_raw(*pid)?, PidfdFlags::empty()).ok();
        let log = stage.agent_log();
        let log_before = fs::metadata(&log).map_or(0, |meta| meta.len());
        Self { ends: pumps.iter().filter_map(handle).collect(), pumps, log, log_before }
    }

    /// Waits for its end; what it logged since.
    fn finish(self) -> String {
        for end in &self.ends {
            let mut ended = [PollFd::new(end, PollFlags::IN)];
            let _ = rustix::io::retry_on_intr(|| poll(&mut ended, Some(&PUMP_ENDS_WITHIN)));
        }
        let read = || -> io::Result<Vec<u8>> {
            let mut log = File::open(&self.log)?;
            log.seek(SeekFrom::Start(self.log_before))?;
            let mut said = Vec::new();
            log.take(LOG_LIMIT).read_to_end(&mut said)?;
            Ok(said)
        };
        String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
    }
}
