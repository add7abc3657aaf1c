//! Moves bytes through one call, or through a plain pipe, and measures it.
//!
//! Source and sink run and have said so before the first byte is written; the time is from the source's first write to
//! the sink's last byte, so neither a program's start nor a call's is in it. Both then wait, so that the processes
//! between them are still there when their use of the processor is read.

mod files;

use std::io::{PipeReader, PipeWriter, Write, pipe};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{ChildStderr, Stdio};

use engine::step::now;

use super::agent_side::AgentSide;
use super::process::Running;
use super::procfs;
use super::report::{Reports, Span};
use super::roles::{Load, Role};
use super::settings::Ends;
use super::stage::Stage;
use cli::failure::Failure;

/// The yardstick's pipe holds this much.
const YARDSTICK_PIPE: usize = 1 << 20;

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

/// One kind of transfer through a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    pub(super) way: Way,
    pub(super) ends: Ends,
    /// Smallest ring in bytes; `None` for the program's default.
    pub(super) buffer: Option<u64>,
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

    pub(super) fn new(sources: &[Span], sinks: &[Span], bytes: u64) -> Result<Self, Failure> {
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
    fn start(
        stage: &Stage,
        role: Role,
        stdin: impl Into<Stdio>,
        stdout: impl Into<Stdio>,
    ) -> Result<Self, Failure> {
        let mut command = stage.role(role)?;
        let mut process =
            Running::start(command.stdin(stdin).stdout(stdout).stderr(Stdio::piped()), "a local role")?;
        let reports = reports_of(&mut process)?;
        Ok(Self { process, reports })
    }
}

pub(super) fn reports_of(process: &mut Running) -> Result<Reports<ChildStderr>, Failure> {
    let stderr = process.child().stderr.take();
    stderr.map(Reports::new).ok_or_else(|| Failure::trouble("a process without a standard error"))
}

pub(super) fn new_pipe() -> Result<(PipeReader, PipeWriter), Failure> {
    pipe().map_err(Failure::during("a pipe"))
}

/// What is read at one end of a transfer and written at the other.
fn joint(ends: Ends) -> Result<(OwnedFd, OwnedFd), Failure> {
    if ends == Ends::Socket {
        let (ours, theirs) = UnixStream::pair().map_err(Failure::during("a socket"))?;
        return Ok((ours.into(), theirs.into()));
    }
    let (from, to) = new_pipe()?;
    Ok((from.into(), to.into()))
}

/// Tells a source to begin.
pub(super) fn go(mut to: &PipeWriter) -> Result<(), Failure> {
    to.write_all(b"!").map_err(Failure::during("starting the source"))
}

/// From one role to another through one pipe, without any qrexec.
pub(super) fn direct(stage: &Stage, load: Load) -> Result<Moved, Failure> {
    let (start, starter) = new_pipe()?;
    let (from_pipe, to_pipe) = new_pipe()?;
    let _ = rustix::pipe::fcntl_setpipe_size(&to_pipe, YARDSTICK_PIPE);
    let mut sink = Local::start(stage, Role::Sink(load), from_pipe, Stdio::null())?;
    let mut source = Local::start(stage, Role::Source(load), start, to_pipe)?;
    sink.reports.ready()?;
    source.reports.ready()?;
    go(&starter)?;
    let moved = Moved::new(&[source.reports.source()?], &[sink.reports.sink()?], load.bytes)?;
    drop(starter);
    source.process.finish()?;
    sink.process.finish()?;
    Ok(moved)
}

/// Through a call. A client whose end is a file has none to wait for, so its use of the processor is not known then.
pub(super) fn through_call(stage: &Stage, transfer: Transfer, load: Load) -> Result<Moved, Failure> {
    match (transfer.ends, transfer.way) {
        (Ends::File, Way::Send) => return files::send(stage, transfer.buffer, load),
        (Ends::File, Way::Receive) => return files::receive(stage, transfer.buffer, load),
        _ => {}
    }
    let mut call = Call::start(stage, transfer, load)?;
    let mut moved = call.transfer(transfer.way, load)?;
    let agent = AgentSide::of_call(stage);
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
    /// The other end's clock is not ours.
    apart: bool,
}

impl Call {
    fn start(stage: &Stage, transfer: Transfer, load: Load) -> Result<Self, Failure> {
        let Transfer { way, ends, buffer } = transfer;
        let (start, starter) = new_pipe()?;
        let (stdin, to_stdin) = joint(ends)?;
        let (from_stdout, stdout) = joint(ends)?;
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
            source = Some(Local::start(stage, Role::Source(load), start, to_stdin)?);
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
        Ok(Self { client, remote, source, sink, starter, apart: stage.is_apart() })
    }

    fn transfer(&mut self, way: Way, load: Load) -> Result<Moved, Failure> {
        let start = now();
        go(&self.starter)?;
        // What another machine's clock says is replaced by when we sent word and when its word came: a way there and back more.
        let here = |span: Span| if self.apart { Span { start, end: now(), ..span } } else { span };
        let (mut sources, mut sinks) = (Vec::new(), Vec::new());
        if way != Way::Receive {
            sinks.push(here(self.remote.sink()?));
        }
        if way != Way::Send {
            sources.push(here(self.remote.source()?));
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
    fn cpu(&self, agent: &AgentSide) -> Option<(f64, f64)> {
        let client = procfs::cpu_seconds(self.client.pid()?)?;
        let pumps = agent.pumps().iter().map(|pid| procfs::cpu_seconds(*pid));
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
