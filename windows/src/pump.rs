//! Moving the bytes of one call.
//!
//! The vchan belongs to one thread, which only waits for events. Each pipe has a thread of its own, which may wait as
//! long as the process at its other end takes.

use std::fs::File;
use std::io::Write;
use std::os::windows::io::{AsRawHandle, OwnedHandle};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};

use wire::header::{HEADER_LEN, Header};
use wire::stream::{Incoming, Kind, Next, Outgoing, Role};
use wire::version::Version;

use crate::codes;
use crate::link::LinkError;
use crate::sys::event::{Event, wait_for};
use crate::sys::pipe;
use crate::sys::process::Process;
use crate::sys::vchan::{Presence, Vchan};

/// Bytes that wait for a process that does not read. If there are more, the other side of the link is not read either.
const MAX_PENDING: usize = 256 << 10;
/// Bytes that are moved at once.
const PIECE: usize = 64 << 10;
/// Pieces of a stream that wait for the link.
const WAITING: usize = 2;

/// The local ends of a call.
#[derive(Debug, Default)]
pub(crate) struct PumpStreams {
    /// Where the other side's main stream goes.
    pub(crate) sink: Option<OwnedHandle>,
    /// Where the other side's error output goes.
    pub(crate) stderr_sink: Option<OwnedHandle>,
    /// Where the main stream to be sent is read.
    pub(crate) source: Option<PumpSource>,
    /// Where the error output to be sent is read.
    pub(crate) stderr_source: Option<PumpSource>,
    /// The process whose exit code is sent.
    pub(crate) child: Option<Process>,
}

/// Where a stream to be sent is read.
#[derive(Debug)]
pub(crate) struct PumpSource {
    /// The pipe or file.
    pub(crate) handle: OwnedHandle,
    /// Reading 0 bytes means the end: of a file, but not of a pipe that was made here.
    pub(crate) nothing_is_end: bool,
}

/// The state of a call.
struct Pump<'a> {
    vchan: &'a mut Vchan,
    incoming: Incoming,
    outgoing: Outgoing,
    role: Role,
    header: Vec<u8>,
    body: Body,
    out: Vec<u8>,
    out_at: usize,
    pieces: Receiver<(Kind, Vec<u8>)>,
    open_sources: usize,
    sink: Option<Sink>,
    stderr_sink: Option<Sink>,
    child: Option<Process>,
    code: Option<i32>,
}

/// What the bytes after a header are.
enum Body {
    Nothing,
    Payload(Kind, usize),
    ExitCode(Vec<u8>, usize),
    Skipped(usize),
}

/// Moves everything. Returns the service's exit code, whichever side the service is on.
pub(crate) fn run(
    vchan: &mut Vchan,
    wake: &Arc<Event>,
    (role, version): (Role, Version),
    streams: PumpStreams,
) -> Result<i32, LinkError> {
    let (sender, pieces) = sync_channel(WAITING);
    let mut open_sources = 0_usize;
    for (kind, source) in [(role.sends(), streams.source), (Kind::Stderr, streams.stderr_source)] {
        if let Some(source) = source {
            read_source(source, kind, version, sender.clone(), wake.clone());
            open_sources = open_sources.saturating_add(1);
        }
    }
    drop(sender);
    let mut pump = Pump {
        vchan,
        incoming: Incoming::new(role, version),
        outgoing: Outgoing::new(role, version),
        role,
        header: Vec::new(),
        body: Body::Nothing,
        out: Vec::new(),
        out_at: 0,
        pieces,
        open_sources,
        sink: streams.sink.map(|handle| Sink::new(handle, wake)),
        stderr_sink: streams.stderr_sink.map(|handle| Sink::new(handle, wake)),
        child: streams.child,
        code: None,
    };
    loop {
        let moved = pump.receive()? | pump.transmit()?;
        if let Some(code) = pump.result() {
            return Ok(code);
        }
        if moved {
            continue;
        }
        // Everything that was there before this moment has been read, unless a process has no room for it.
        let over = pump.vchan.presence() == Presence::Closed && pump.vchan.ready() == 0;
        if over && pump.incoming.exit_code().is_none() {
            return Err(LinkError::Closed);
        }
        let mut handles = vec![pump.vchan.event(), wake.as_raw_handle()];
        handles.extend(pump.child.as_ref().filter(|_| pump.code.is_none()).map(AsRawHandle::as_raw_handle));
        if wait_for(&handles, None)? == Some(2) {
            pump.code =
                pump.child.as_ref().map(|child| child.exit_code().map_or(codes::LOST, codes::of_process));
        }
    }
}

/// Ends a call that has no streams: only the exit code is sent.
pub(crate) fn tell(
    vchan: &mut Vchan,
    wake: &Event,
    version: Version,
    just: bool,
    code: i32,
) -> Result<(), LinkError> {
    let mut message = Vec::new();
    let mut outgoing = Outgoing::new(Role::Service, version);
    if just {
        outgoing = Outgoing::just_exec(version);
    } else {
        for kind in [Kind::Stdout, Kind::Stderr] {
            message.extend(outgoing.eof(kind).map(Header::to_bytes).into_iter().flatten());
        }
    }
    message.extend(outgoing.exit_code(code).into_iter().flatten());
    let mut unsent = message.as_slice();
    while !unsent.is_empty() {
        let sent = vchan.write(unsent)?;
        unsent = unsent.get(sent..).unwrap_or_default();
        if sent == 0 {
            if vchan.presence() == Presence::Closed {
                return Err(LinkError::Closed);
            }
            wait_for(&[vchan.event(), wake.as_raw_handle()], None)?;
        }
    }
    Ok(())
}

impl Pump<'_> {
    /// Takes what has arrived, as far as there is room for it. Returns whether anything was taken.
    fn receive(&mut self) -> Result<bool, LinkError> {
        let mut moved = false;
        let mut buffer = vec![0; PIECE];
        loop {
            match &mut self.body {
                Body::Nothing => {
                    let missing = HEADER_LEN.saturating_sub(self.header.len());
                    let count = self.vchan.read(buffer.get_mut(..missing).unwrap_or_default())?;
                    if count == 0 {
                        return Ok(moved);
                    }
                    self.header.extend(buffer.get(..count).unwrap_or_default());
                    if let Some(header) = self.header.first_chunk::<HEADER_LEN>() {
                        let header = Header::from_bytes(*header);
                        self.header.clear();
                        self.begin(header)?;
                    }
                }
                Body::Payload(kind, left) => {
                    let kind = *kind;
                    let sink = if kind == Kind::Stderr { &self.stderr_sink } else { &self.sink };
                    let room = sink.as_ref().map_or(PIECE, Sink::room);
                    let wanted = (*left).min(room).min(buffer.len());
                    let count = self.vchan.read(buffer.get_mut(..wanted).unwrap_or_default())?;
                    if count == 0 {
                        return Ok(moved);
                    }
                    *left = left.saturating_sub(count);
                    if let Some(sink) = sink {
                        sink.give(buffer.get(..count).unwrap_or_default());
                    }
                }
                Body::ExitCode(body, left) => {
                    let wanted = (*left).min(buffer.len());
                    let count = self.vchan.read(buffer.get_mut(..wanted).unwrap_or_default())?;
                    if count == 0 && *left > 0 {
                        return Ok(moved);
                    }
                    *left = left.saturating_sub(count);
                    // Only the first four bytes matter.
                    let kept = buffer.get(..count.min(4_usize.saturating_sub(body.len())));
                    body.extend(kept.unwrap_or_default());
                    if *left == 0 {
                        self.incoming.on_exit_code(body);
                        self.sink = self.sink.take().map(Sink::ended);
                        self.stderr_sink = self.stderr_sink.take().map(Sink::ended);
                        self.body = Body::Nothing;
                    }
                }
                Body::Skipped(left) => {
                    let wanted = (*left).min(buffer.len());
                    let count = self.vchan.read(buffer.get_mut(..wanted).unwrap_or_default())?;
                    if count == 0 {
                        return Ok(moved);
                    }
                    *left = left.saturating_sub(count);
                }
            }
            if matches!(self.body, Body::Payload(_, 0) | Body::Skipped(0)) {
                self.body = Body::Nothing;
            }
            moved = true;
        }
    }

    fn begin(&mut self, header: Header) -> Result<(), LinkError> {
        let size = |len: u32| usize::try_from(len).unwrap_or(usize::MAX);
        match self.incoming.on_header(header)? {
            Next::Payload { kind, len } => self.body = Body::Payload(kind, size(len)),
            Next::Eof(Kind::Stderr) => self.stderr_sink = self.stderr_sink.take().map(Sink::ended),
            Next::Eof(_) => self.sink = self.sink.take().map(Sink::ended),
            Next::ExitCode { len } => self.body = Body::ExitCode(Vec::new(), size(len)),
            Next::Ignore { len } => self.body = Body::Skipped(size(len)),
        }
        Ok(())
    }

    /// Sends what is there, as far as there is room for it. Returns whether anything was sent.
    fn transmit(&mut self) -> Result<bool, LinkError> {
        let mut moved = false;
        loop {
            let unsent = self.out.get(self.out_at..).unwrap_or_default();
            if unsent.is_empty() {
                if !self.next_message() {
                    return Ok(moved);
                }
                continue;
            }
            let count = self.vchan.write(unsent)?;
            if count == 0 {
                return Ok(moved);
            }
            self.out_at = self.out_at.saturating_add(count);
            moved = true;
        }
    }

    /// Prepares the next message, if there is one. Returns whether there was.
    fn next_message(&mut self) -> bool {
        self.out.clear();
        self.out_at = 0;
        match self.pieces.try_recv() {
            Ok((kind, piece)) => {
                let header = match u32::try_from(piece.len()) {
                    Ok(0) | Err(_) => {
                        self.open_sources = self.open_sources.saturating_sub(1);
                        self.outgoing.eof(kind)
                    }
                    Ok(len) => self.outgoing.header(kind, len),
                };
                // A stream that has ended already sends nothing more.
                let Ok(header) = header else { return true };
                self.out.extend(header.to_bytes());
                self.out.extend(piece);
                true
            }
            Err(TryRecvError::Empty) => false,
            Err(TryRecvError::Disconnected) => self.last_message(),
        }
    }

    /// Prepares the exit code, once the process and its streams have ended.
    fn last_message(&mut self) -> bool {
        let (Role::Service, Some(code), false) = (self.role, self.code, self.outgoing.exit_sent()) else {
            return false;
        };
        for kind in [Kind::Stdout, Kind::Stderr] {
            if self.outgoing.is_open(kind) {
                self.out.extend(self.outgoing.eof(kind).map(Header::to_bytes).into_iter().flatten());
            }
        }
        self.out.extend(self.outgoing.exit_code(code).into_iter().flatten());
        true
    }

    /// The exit code, once nothing is left to do.
    fn result(&self) -> Option<i32> {
        match self.role {
            Role::Service => {
                let sent = self.outgoing.exit_sent() && self.out_at >= self.out.len();
                self.code.filter(|_| sent)
            }
            Role::Client => {
                let taken = |sink: &Option<Sink>| sink.as_ref().is_none_or(Sink::is_done);
                let code = self.incoming.exit_code()?;
                (taken(&self.sink) && taken(&self.stderr_sink)).then_some(code)
            }
        }
    }
}

/// A thread that reads a stream to its end.
fn read_source(
    source: PumpSource,
    kind: Kind,
    version: Version,
    pieces: SyncSender<(Kind, Vec<u8>)>,
    wake: Arc<Event>,
) {
    let size = usize::try_from(version.max_chunk()).unwrap_or(PIECE).min(PIECE);
    std::thread::spawn(move || {
        let mut buffer = vec![0; size];
        loop {
            let piece = match pipe::read(&source.handle, &mut buffer) {
                Ok(Some(0)) if !source.nothing_is_end => continue,
                Ok(Some(count)) => buffer.get(..count).unwrap_or_default().to_vec(),
                Ok(None) | Err(_) => Vec::new(),
            };
            let ended = piece.is_empty();
            // The call is over, and the pieces are needed no more.
            if pieces.send((kind, piece)).is_err() {
                return;
            }
            wake.set();
            if ended {
                // Before the last sender is dropped, since otherwise the end would be noticed late.
                drop(pieces);
                return wake.set();
            }
        }
    });
}

/// A thread that writes a stream.
struct Sink {
    pieces: Option<Sender<Vec<u8>>>,
    state: Arc<SinkState>,
}

#[derive(Default)]
struct SinkState {
    pending: AtomicUsize,
    /// Everything is written and the stream closed, or it has no reader.
    done: AtomicBool,
}

impl Sink {
    fn new(handle: OwnedHandle, wake: &Arc<Event>) -> Self {
        let (sender, pieces) = channel::<Vec<u8>>();
        let state = Arc::new(SinkState::default());
        let (theirs, wake) = (state.clone(), wake.clone());
        std::thread::spawn(move || {
            let mut file = File::from(handle);
            let mut takes = true;
            for piece in pieces {
                takes = takes && file.write_all(&piece).is_ok();
                theirs.pending.fetch_sub(piece.len(), Ordering::SeqCst);
                wake.set();
            }
            drop(file);
            theirs.done.store(true, Ordering::SeqCst);
            wake.set();
        });
        Self { pieces: Some(sender), state }
    }

    fn room(&self) -> usize {
        MAX_PENDING.saturating_sub(self.state.pending.load(Ordering::SeqCst))
    }

    fn give(&self, bytes: &[u8]) {
        let Some(pieces) = &self.pieces else { return };
        self.state.pending.fetch_add(bytes.len(), Ordering::SeqCst);
        if pieces.send(bytes.to_vec()).is_err() {
            self.state.pending.fetch_sub(bytes.len(), Ordering::SeqCst);
        }
    }

    /// Ends the stream, once everything is written.
    fn ended(self) -> Self {
        Self { pieces: None, state: self.state }
    }

    fn is_done(&self) -> bool {
        self.state.done.load(Ordering::SeqCst)
    }
}
