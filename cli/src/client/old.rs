//! A call by a daemon of protocol 1: its data goes through the daemon, and so through this process.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use daemon::r2::marker;
use engine::localfd::{self, Direction, LocalFd};
use engine::process::Child;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use wire::escape::filter_terminal;
use wire::header::{HEADER_LEN, Header};
use wire::names::Target;
use wire::r2::{MAX_DATA, WaitStatus, ty};

use super::args::{Plan, Purpose};
use crate::failure::Failure;
use crate::local_program::{LocalEnd, LocalProgram, SavedStreams};
use crate::status;
use crate::stdio::Streams;

/// Bytes read from either side before they are passed on.
const BATCH: usize = 1 << 16;

/// Whether the daemon of this qube speaks protocol 1.
pub(super) fn is_meant(folder: &Path, qube: &Target) -> bool {
    marker(folder, qube.as_str()).exists()
}

/// Runs the command, or connects to the callers that wait, and gives the exit status.
pub(super) fn call(plan: &Plan) -> Result<i32, Failure> {
    let (what, word) = match &plan.purpose {
        Purpose::StartOnly => (ty::CLIENT_JUST_EXEC, plan.command.as_slice()),
        Purpose::Existing { ident, .. } => (ty::CLIENT_CONNECT, ident.as_bytes()),
        Purpose::Connect(_) => {
            let why =
                format!("the daemon of {} is of R2, where a request is met with -l CMD -c ID", plan.target);
            return Err(Failure::trouble(why));
        }
        Purpose::Here | Purpose::Local(_) => (ty::CLIENT_EXEC, plan.command.as_slice()),
    };
    let path = daemon::local_socket::path(&plan.socket_dir, plan.target.as_str());
    let socket = engine::unix::connect(&path)
        .map_err(Failure::during(format_args!("{}: cannot reach its daemon", plan.target)))?;
    let body = [word, b"\0"].concat();
    let header = Header::new(what, u32::try_from(body.len()).unwrap_or(u32::MAX));
    write_all(&socket, &[&header.to_bytes()[..], &body].concat())
        .map_err(Failure::during(format_args!("{}: asking its daemon", plan.target)))?;
    if plan.purpose == Purpose::StartOnly {
        return Ok(0);
    }
    let local = match &plan.purpose {
        Purpose::Local(line) | Purpose::Existing { local: line, .. } => {
            let program = LocalProgram::shell(std::os::unix::ffi::OsStrExt::from_bytes(line.as_slice()));
            program.with_env("QREXEC_REMOTE_DOMAIN", plan.target.as_str()).start(&SavedStreams::default())?
        }
        _ => Streams::take(false).map_err(Failure::during("stdin and stdout"))?.into(),
    };
    let call = Call::new(plan, socket, local).map_err(Failure::during("the call's streams"))?;
    call.run(&plan.prefix).map_err(Failure::during(plan.target.as_str()))
}

fn write_all(socket: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = rustix::io::retry_on_intr(|| send(socket, bytes, SendFlags::NOSIGNAL))?;
        bytes = bytes.get(count..).unwrap_or_default();
    }
    Ok(())
}

/// One call.
struct Call {
    socket: OwnedFd,
    source: Option<LocalFd>,
    sink: Option<LocalFd>,
    stderr: Option<LocalFd>,
    child: Option<Child>,
    filters: [bool; 2],
    /// Read from the local side, to be sent.
    up: Pending,
    /// From the daemon: the rest of a message, then what is to be written.
    down: Vec<u8>,
    to_sink: Pending,
    to_stderr: Pending,
    code: Option<WaitStatus>,
    hung_up: bool,
    sink_ends: bool,
}

/// Bytes on their way.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    done: usize,
}

impl Pending {
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.done..).unwrap_or_default()
    }

    fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.is_empty() {
            self.bytes.clear();
            self.done = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Moves on by what `write` takes. `false`: it never takes anything again.
    fn moves(&mut self, write: impl FnOnce(&[u8]) -> io::Result<usize>) -> bool {
        match write(self.rest()) {
            Ok(count) => self.done = self.done.saturating_add(count),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return false,
        }
        true
    }
}

impl Call {
    fn new(plan: &Plan, socket: OwnedFd, local: LocalEnd) -> io::Result<Self> {
        let LocalEnd { child, streams, .. } = local;
        let adopt = |fd, direction| LocalFd::adopt(fd, direction);
        Ok(Self {
            socket,
            source: Some(adopt(streams.source, Direction::In)?),
            // A reader that is gone already takes nothing.
            sink: streams.sink.and_then(|sink| adopt(sink, Direction::Out).ok()),
            stderr: adopt(localfd::copy_stderr()?, Direction::Out).ok(),
            child,
            filters: [plan.filter_stdout, plan.filter_stderr],
            up: Pending::default(),
            down: Vec::new(),
            to_sink: Pending::default(),
            to_stderr: Pending::default(),
            code: None,
            hung_up: false,
            sink_ends: false,
        })
    }

    fn run(mut self, prefix: &[u8]) -> io::Result<i32> {
        self.up.push(prefix);
        while !self.is_over() {
            self.step()?;
        }
        // The local program sees the end of its input.
        self.sink = None;
        self.source = None;
        if let Some(mut child) = self.child {
            child.wait()?;
        }
        match self.code {
            Some(code) => Ok(code.client_status()),
            None => {
                tracing::error!("the link to the qube was lost before the exit code came");
                Ok(status::LOST)
            }
        }
    }

    fn is_over(&self) -> bool {
        (self.code.is_some() || self.hung_up) && self.to_sink.is_empty() && self.to_stderr.is_empty()
    }

    /// Waits for what can be moved, and moves it.
    fn step(&mut self) -> io::Result<()> {
        let [reads, writes, takes, sink_takes, stderr_takes] = self.wait()?;
        if sink_takes
            && let Some(sink) = &self.sink
            && !self.to_sink.moves(|bytes| sink.write(bytes))
        {
            self.sink = None;
        }
        if stderr_takes
            && let Some(stderr) = &self.stderr
            && !self.to_stderr.moves(|bytes| stderr.write(bytes))
        {
            self.stderr = None;
        }
        // What nobody reads is dropped, the other direction goes on.
        if self.sink.is_none() {
            self.to_sink = Pending::default();
        }
        if self.stderr.is_none() {
            self.to_stderr = Pending::default();
        }
        if self.sink_ends && self.to_sink.is_empty() {
            self.end_sink();
        }
        if writes {
            let socket = &self.socket;
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            // A daemon that is gone is seen by the read.
            if !self.up.moves(|bytes| Ok(send(socket, bytes, flags)?)) {
                self.up = Pending::default();
                self.source = None;
            }
        }
        if takes {
            self.take()?;
        }
        if reads { self.hear() } else { Ok(()) }
    }

    /// What of these can be done: read the daemon, write to it, read locally, write locally, write to stderr.
    fn wait(&self) -> io::Result<[bool; 5]> {
        // One message after the other: what is not taken here waits in the socket, and the daemon sees to the rest.
        let reads = self.to_sink.is_empty() && self.to_stderr.is_empty() && !self.hung_up;
        let none = self.socket.as_fd();
        let wanted = [
            reads,
            !self.up.is_empty(),
            self.source.is_some() && self.up.is_empty(),
            self.sink.is_some() && !self.to_sink.is_empty(),
            self.stderr.is_some() && !self.to_stderr.is_empty(),
        ];
        let locals =
            [self.source.as_ref(), self.sink.as_ref(), self.stderr.as_ref()].map(|fd| fd.map(LocalFd::as_fd));
        let [source, sink, stderr] = locals.map(|fd| fd.unwrap_or(none));
        let fds = [none, none, source, sink, stderr];
        let way = [PollFlags::IN, PollFlags::OUT, PollFlags::IN, PollFlags::OUT, PollFlags::OUT];
        let places: Vec<usize> =
            (0..wanted.len()).filter(|place| wanted.get(*place) == Some(&true)).collect();
        let mut polled: Vec<PollFd<'_>> = places
            .iter()
            .filter_map(|place| Some(PollFd::from_borrowed_fd(*fds.get(*place)?, *way.get(*place)?)))
            .collect();
        match poll(&mut polled, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut can = [false; 5];
        for (place, polled) in places.iter().zip(&polled) {
            if let Some(can) = can.get_mut(*place) {
                *can = !polled.revents().is_empty();
            }
        }
        Ok(can)
    }

    /// Reads the local side.
    fn take(&mut self) -> io::Result<()> {
        let Some(source) = &self.source else { return Ok(()) };
        let mut buffer = vec![0; BATCH];
        match source.read(&mut buffer) {
            Ok(0) => {
                self.source = None;
                // A daemon that is gone already needs no end.
                let _ = shutdown(&self.socket, Shutdown::Write);
            }
            Ok(count) => self.up.push(buffer.get(..count).unwrap_or_default()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Reads the daemon.
    fn hear(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; BATCH];
        match recv(&self.socket, buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
            Ok((0, _)) | Err(rustix::io::Errno::CONNRESET) => self.hung_up = true,
            Ok((count, _)) => self.down.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let all = std::mem::take(&mut self.down);
        let mut bytes = all.as_slice();
        while let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() {
            let header = Header::from_bytes(*header);
            let len = usize::try_from(header.len).unwrap_or(usize::MAX);
            if len > MAX_DATA {
                return Err(io::Error::other(format!("its daemon sends a message of {} bytes", header.len)));
            }
            let Some((body, rest)) = rest.split_at_checked(len) else { break };
            self.message(header.ty, body)?;
            bytes = rest;
        }
        self.down = bytes.to_vec();
        Ok(())
    }

    fn message(&mut self, ty: u32, body: &[u8]) -> io::Result<()> {
        let [filter_stdout, filter_stderr] = self.filters;
        let filtered = |wanted: bool| {
            let mut body = body.to_vec();
            if wanted {
                filter_terminal(&mut body);
            }
            body
        };
        match (ty, body) {
            (ty::TO_CLIENT_STDOUT, []) => {
                self.sink_ends = true;
                if self.to_sink.is_empty() {
                    self.end_sink();
                }
            }
            (ty::TO_CLIENT_STDOUT, _) if self.sink.is_some() => self.to_sink.push(&filtered(filter_stdout)),
            (ty::TO_CLIENT_STDERR, [_, ..]) if self.stderr.is_some() => {
                self.to_stderr.push(&filtered(filter_stderr));
            }
            (ty::TO_CLIENT_STDOUT | ty::TO_CLIENT_STDERR, _) => {}
            (ty::TO_CLIENT_EXIT_CODE, body) => {
                let bytes =
                    body.try_into().map_err(|_| io::Error::other("its daemon sends half a status"))?;
                self.code = Some(WaitStatus::from_bytes(bytes));
            }
            (other, _) => {
                return Err(io::Error::other(format!("its daemon sends a message of type {other:#x}")));
            }
        }
        Ok(())
    }

    fn end_sink(&mut self) {
        if let Some(sink) = self.sink.take() {
            sink.finish(Direction::Out, true);
        }
    }
}
