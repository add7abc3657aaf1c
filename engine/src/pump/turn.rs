#![forbid(unsafe_code)]
//! One turn of the pump: what can move, moves once; what has ended, ends.

use std::io;
use std::os::fd::AsFd;

use ring::{Channel, Spans};
use rustix::event::{PollFd, PollFlags, poll};
use wire::header::HEADER_LEN;
use wire::stream::{Kind, Outgoing, Role};

use super::driver::{
    CHILD, Driver, ERR_SINK, ERR_SOURCE, LINK, PLACES, Ready, SINK, SOURCE, Transfer, Wants,
};
use super::ends::{Sink, Source, same_file};
use super::inbound::{Head, Inbound};
use super::outbound::Layout;
use super::{Call, Cost, Outcome, Stop};
use crate::localfd::{Direction, LocalFd};
use crate::process::Child;

/// Bytes copied at once where bytes must be looked at: filtered, logged or spilt.
const BOUNCE: usize = 16 << 10;

/// What a turn achieved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    /// Something moved; there may be more.
    Moved,
    /// Nothing can move now.
    Idle,
    /// The call is complete.
    Done,
}

/// What arrived bytes wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Arrivals {
    /// Nothing: the next turn moves them.
    Movable,
    /// For more bytes than the `usize` that are there.
    Starved(usize),
    /// For a local descriptor.
    Blocked,
}

/// Everything about one running call.
pub(super) struct Pump {
    channel: Channel,
    role: Role,
    inbound: Inbound,
    outgoing: Outgoing,
    sink: Sink,
    err_sink: Sink,
    source: Source,
    err_source: Source,
    log: Option<LocalFd>,
    prefix: Vec<u8>,
    child: Option<Child>,
    /// Its descriptor said so: time to ask.
    child_may_have_ended: bool,
    /// The client's stdin has ended, or its service has: nothing more arrives for the sink.
    in_ended: bool,
    exit_on_client_eof: bool,
    exit_on_service_eof: bool,
    /// The peer takes nothing any more.
    cut: bool,
    outcome: Outcome,
    sleeps: u64,
}

impl Pump {
    pub(super) fn new(channel: Channel, call: Call) -> io::Result<Pump> {
        let service = call.role == Role::Service;
        let one_socket = match (&call.stdin, &call.stdout) {
            (Some(a), Some(b)) => same_file(a, b),
            _ => false,
        };
        // A caller's own sockets are shared with its shell: they are closed, not shut down.
        let shut = service || call.child.is_some() || one_socket;
        let (err_in, err_out) = if service { (call.stderr, None) } else { (None, call.stderr) };
        Ok(Pump {
            inbound: Inbound::new(call.role, call.version),
            outgoing: Outgoing::new(call.role, call.version),
            sink: Sink::new(call.stdin, shut, call.filter_stdout)?,
            err_sink: Sink::new(err_out, false, call.filter_stderr)?,
            source: Source::new(call.stdout, shut)?,
            err_source: Source::new(err_in, false)?,
            log: call.log_stderr.and_then(|fd| LocalFd::adopt(fd, Direction::Out).ok()),
            prefix: call.prefix,
            child: call.child,
            child_may_have_ended: false,
            in_ended: false,
            exit_on_client_eof: call.exit_on_client_eof,
            exit_on_service_eof: call.exit_on_service_eof,
            cut: false,
            outcome: Outcome::default(),
            sleeps: 0,
            role: call.role,
            channel,
        })
    }

    /// Payload bytes moved so far, both ways.
    pub(super) fn moved(&self) -> u64 {
        self.outcome.bytes_in + self.outcome.bytes_out
    }

    /// Widens the local pipes of a call that moves much.
    pub(super) fn grow(&mut self) {
        let (tx, rx) = (self.channel.tx().size(), self.channel.rx().size());
        if let Some(fd) = self.source.pollable() {
            fd.grow(tx);
        }
        if let Some(fd) = self.sink.pollable() {
            fd.grow(rx);
        }
    }

    pub(super) fn turn(&mut self, driver: &mut dyn Driver) -> Result<Turn, Stop> {
        let mut moved = self.look_at_child()?;
        moved |= self.take_headers()?;
        moved |= self.transfer(driver)?;
        moved |= self.inbound_rest()?;
        moved |= self.outbound_rest()?;
        if self.is_done() {
            // A service's last word must leave this process; a client has heard it and owes nothing.
            let said = self.role == Role::Client || self.cut || self.channel.drained();
            return Ok(if said { Turn::Done } else { Turn::Idle });
        }
        if !moved && !self.channel.is_open() && matches!(self.arrivals()?, Arrivals::Starved(_)) {
            self.on_link_closed()?;
        }
        Ok(if moved { Turn::Moved } else { Turn::Idle })
    }

    // ---- inbound ----------------------------------------------------------------------------

    /// Parses the headers that have arrived, ahead of their payload.
    fn take_headers(&mut self) -> Result<bool, Stop> {
        let ready = self.channel.readable()?;
        let mut any = false;
        while let Some(at) = self.inbound.next_header(ready) {
            let mut header = [0u8; HEADER_LEN];
            self.channel.rx().get(at, &mut header);
            self.inbound.on_header(header)?;
            any = true;
        }
        Ok(any)
    }

    fn sink_of(&mut self, kind: Kind) -> &mut Sink {
        if kind == Kind::Stderr { &mut self.err_sink } else { &mut self.sink }
    }

    /// What is in front of the ring and is not a plain transfer.
    fn inbound_rest(&mut self) -> Result<bool, Stop> {
        let mut moved = self.err_sink.drain_spill().map_err(Stop::local("writing stderr"))?;
        let ready = self.channel.rx().known_ready();
        match self.inbound.head() {
            Head::Empty => return Ok(moved),
            Head::Data(kind) => moved |= self.payload_by_hand(kind, ready)?,
            Head::Eof(kind) => {
                let n = self.inbound.took_eof();
                self.release(n)?;
                self.on_peer_eof(kind)?;
                moved = true;
            }
            Head::Exit { at, want } => {
                if at + want <= ready {
                    let mut body = [0u8; 4];
                    self.channel.rx().get(at, &mut body[..want]);
                    let code = self.inbound.on_exit(&body[..want]);
                    self.on_exit_code(code)?;
                    moved = true;
                }
            }
            Head::Skip => {
                let n = self.inbound.skip(ready);
                self.release(n)?;
                moved |= n > 0;
            }
        }
        Ok(moved)
    }

    /// Payload that is discarded, filtered or spilt: the paths that copy.
    fn payload_by_hand(&mut self, kind: Kind, ready: usize) -> Result<bool, Stop> {
        let Some((at, len)) = self.inbound.pieces(ready).next() else {
            return Ok(false);
        };
        let sink = self.sink_of(kind);
        if !sink.is_open() {
            let n = self.inbound.took(len);
            self.outcome.bytes_in += len as u64;
            self.release(n)?;
            return Ok(true);
        }
        let spills = kind == Kind::Stderr && (sink.is_blocked() || sink.has_spill());
        if !spills && (!sink.filter || sink.is_blocked()) {
            return Ok(false);
        }
        let mut len = len.min(BOUNCE);
        if spills {
            len = len.min(sink.spill_room());
            if len == 0 {
                return Ok(false);
            }
        }
        let filter = sink.filter;
        let mut bytes = vec![0u8; len];
        self.channel.rx().get(at, &mut bytes);
        if filter {
            wire::escape::filter_terminal(&mut bytes);
        }
        let sink = self.sink_of(kind);
        let taken = if spills {
            sink.keep(&bytes);
            len
        } else {
            match sink.writable().map(|fd| fd.write(&bytes)) {
                None => 0,
                Some(Ok(n)) => {
                    sink.after_write(n < len);
                    n
                }
                Some(Err(e)) => {
                    sink.on_error(e).map_err(Stop::local("writing what the other side sent"))?;
                    0
                }
            }
        };
        let n = self.inbound.took(taken);
        self.outcome.bytes_in += taken as u64;
        self.release(n)?;
        Ok(true)
    }

    fn on_peer_eof(&mut self, kind: Kind) -> Result<(), Stop> {
        match kind {
            Kind::Stderr => self.err_sink.end(),
            Kind::Stdin | Kind::Stdout => {
                self.sink.end();
                self.in_ended = true;
                if self.exit_on_client_eof {
                    self.source.close();
                }
            }
        }
        Ok(())
    }

    fn on_exit_code(&mut self, code: i32) -> Result<(), Stop> {
        self.outcome.remote = Some(code);
        self.in_ended = true;
        self.sink.end();
        self.err_sink.end();
        // Nobody there wants our bytes any more.
        self.source.close();
        self.prefix.clear();
        Ok(())
    }

    /// Gives ring memory back, and rings when a useful part has become free.
    fn release(&mut self, n: usize) -> Result<(), Stop> {
        if n > 0 {
            self.channel.release(n);
            if self.channel.unflushed_room() >= (self.channel.rx().size() / 2) as u64 {
                self.channel.flush_room()?;
            }
        }
        Ok(())
    }

    // ---- both ways, in place ----------------------------------------------------------------

    /// The turn's two transfers: ring → sink and source → ring.
    fn transfer(&mut self, driver: &mut dyn Driver) -> Result<bool, Stop> {
        let layout = self.layout()?;
        let from_err = self.err_source.readable().is_some();
        let head = self.inbound.head();
        let (tx, rx) = self.channel.halves();

        let mut drain = Spans::new();
        let sink = match head {
            Head::Data(Kind::Stderr) => &mut self.err_sink,
            _ => &mut self.sink,
        };
        let to = sink.writable().filter(|_| !sink.filter && matches!(head, Head::Data(_)));
        if let Some(fd) = to {
            let mut limit = fd.write_limit();
            for (at, len) in self.inbound.pieces(rx.known_ready()) {
                let len = len.min(limit);
                if len == 0 || !rx.spans(at, len, &mut drain) {
                    break;
                }
                limit -= len;
            }
        }

        let mut fill = Spans::new();
        let source = if from_err { &self.err_source } else { &self.source };
        let from = source.readable().filter(|_| layout.is_some());
        if let (Some(_), Some(layout)) = (from, layout) {
            for (at, len) in layout.slots() {
                if !tx.spans(at, len, &mut fill) {
                    break;
                }
            }
        }

        let transfers = [
            to.filter(|_| !drain.is_empty()).map(|fd| Transfer::Drain(fd, &drain)),
            from.filter(|_| !fill.is_empty()).map(|fd| Transfer::Fill(fd, &fill)),
        ];
        if transfers.iter().all(Option::is_none) {
            return Ok(false);
        }
        let (offered, asked) = (drain.bytes(), fill.bytes());
        let [drained, filled] = driver.transfer(transfers);
        if let Some(result) = drained {
            self.after_drain(head == Head::Data(Kind::Stderr), offered, result)?;
        }
        if let (Some(result), Some(layout)) = (filled, layout) {
            self.after_fill(from_err, layout, asked, result)?;
        }
        Ok(true)
    }

    fn after_drain(&mut self, err: bool, offered: usize, result: io::Result<usize>) -> Result<(), Stop> {
        let sink = if err { &mut self.err_sink } else { &mut self.sink };
        match result {
            Ok(n) => {
                sink.after_write(n < offered);
                self.outcome.bytes_in += n as u64;
                let n = self.inbound.took(n);
                self.release(n)
            }
            Err(e) => sink.on_error(e).map_err(Stop::local("writing what the other side sent")),
        }
    }

    // ---- outbound ---------------------------------------------------------------------------

    /// Where a read may go: `None` while the ring has no useful room, or nothing may be read.
    fn layout(&mut self) -> Result<Option<Layout>, Stop> {
        let wanted = self.source.readable().is_some() || self.err_source.readable().is_some();
        if !wanted || !self.prefix.is_empty() || self.logs_stderr() {
            return Ok(None);
        }
        let Some(room) = self.room()? else { return Ok(None) };
        let enough = room >= self.useful_room() || self.channel.tx().in_flight() == 0;
        Ok(enough.then(|| Layout::new(room, self.outgoing.max_chunk())))
    }

    /// Whether stderr must pass through private memory next, because a log gets a copy.
    fn logs_stderr(&self) -> bool {
        self.log.is_some() && self.err_source.readable().is_some()
    }

    /// Free bytes, `None` once the peer takes nothing any more.
    fn room(&mut self) -> Result<Option<usize>, Stop> {
        if self.cut {
            return Ok(None);
        }
        match self.channel.writable() {
            Ok(room) => Ok(Some(room)),
            Err(ring::Error::Closed) => {
                self.cut_off();
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Nothing can be sent any more. What has arrived is still delivered.
    fn cut_off(&mut self) {
        self.cut = true;
        self.prefix.clear();
        self.source.close();
        self.err_source.close();
    }

    /// Room below this is not worth a read, nor being woken for.
    fn useful_room(&mut self) -> usize {
        (self.channel.tx().size() / 4).min(16 << 10)
    }

    fn after_fill(
        &mut self,
        err: bool,
        layout: Layout,
        asked: usize,
        result: io::Result<usize>,
    ) -> Result<(), Stop> {
        let source = if err { &mut self.err_source } else { &mut self.source };
        match result {
            Ok(0) => source.close(),
            Ok(n) => {
                let short = n < asked;
                source.after_read(short);
                let kind = if err { Kind::Stderr } else { self.role.sends() };
                self.publish(kind, layout, n)?;
                let useful = (self.channel.tx().size() / 4) as u64;
                if short || self.channel.unflushed_data() >= useful {
                    self.channel.flush_data()?;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => source.set_ready(false),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                source.close();
                return Err(Stop::local("reading what is to be sent")(e));
            }
        }
        Ok(())
    }

    /// Writes the headers of `n` bytes that lie in the layout's slots, and publishes it all.
    fn publish(&mut self, kind: Kind, layout: Layout, n: usize) -> Result<(), Stop> {
        let mut end = 0;
        for (at, len) in layout.chunks(n) {
            let header = self.header(kind, len)?;
            self.channel.tx().put(at, &header);
            end = at + HEADER_LEN + len;
        }
        self.channel.commit(end);
        self.outcome.bytes_out += n as u64;
        Ok(())
    }

    fn header(&self, kind: Kind, len: usize) -> Result<[u8; HEADER_LEN], Stop> {
        let header = self.outgoing.header(kind, len as u32);
        header.map(|h| h.to_bytes()).map_err(|misuse| Stop::Failed(misuse.to_string()))
    }

    /// What is to be sent and is not a plain transfer: prefix, logged stderr, ends, the exit code.
    fn outbound_rest(&mut self) -> Result<bool, Stop> {
        let mut moved = self.send_prefix()?;
        if self.logs_stderr() && self.prefix.is_empty() {
            moved |= self.send_logged_stderr()?;
        }
        if self.prefix.is_empty() && !self.source.is_open() {
            moved |= self.send_eof(self.role.sends())?;
        }
        if self.role == Role::Service && !self.err_source.is_open() {
            moved |= self.send_eof(Kind::Stderr)?;
        }
        moved |= self.send_exit_code()?;
        Ok(moved)
    }

    /// Copies bytes of ours into the ring as one chunk: how many were taken.
    fn send_copy(&mut self, kind: Kind, bytes: &[u8]) -> Result<usize, Stop> {
        let Some(room) = self.room()? else { return Ok(bytes.len()) };
        let len = bytes.len().min(room.saturating_sub(HEADER_LEN)).min(self.outgoing.max_chunk() as usize);
        if len > 0 {
            let header = self.header(kind, len)?;
            self.channel.tx().put(0, &header);
            self.channel.tx().put(HEADER_LEN, &bytes[..len]);
            self.channel.commit(HEADER_LEN + len);
            self.outcome.bytes_out += len as u64;
            self.channel.flush_data()?;
        }
        Ok(len)
    }

    fn send_prefix(&mut self) -> Result<bool, Stop> {
        if self.prefix.is_empty() {
            return Ok(false);
        }
        let prefix = std::mem::take(&mut self.prefix);
        let sent = self.send_copy(self.role.sends(), &prefix)?;
        if !self.cut {
            self.prefix = prefix[sent..].to_vec();
        }
        Ok(sent > 0)
    }

    /// Reads stderr into private memory, gives the log its copy and sends the rest of the way.
    fn send_logged_stderr(&mut self) -> Result<bool, Stop> {
        let Some(room) = self.room()? else { return Ok(false) };
        let Some(fd) = self.err_source.readable().filter(|_| room > HEADER_LEN) else { return Ok(false) };
        let mut bytes = vec![0u8; (room - HEADER_LEN).min(BOUNCE).min(self.outgoing.max_chunk() as usize)];
        match fd.read(&mut bytes) {
            Ok(0) => self.err_source.close(),
            Ok(n) => {
                self.err_source.after_read(n < bytes.len());
                if let Some(log) = self.log.as_ref().filter(|log| log.may_try()) {
                    // A log that fails, or that nobody reads, must not stop the call.
                    let _ = log.write(&bytes[..n]);
                }
                self.send_copy(Kind::Stderr, &bytes[..n])?;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.err_source.set_ready(false);
                return Ok(false);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.err_source.close(),
        }
        Ok(true)
    }

    fn send_eof(&mut self, kind: Kind) -> Result<bool, Stop> {
        if !self.outgoing.is_open(kind) {
            return Ok(false);
        }
        match self.room()? {
            Some(room) if room < HEADER_LEN => return Ok(false),
            None => return Ok(false),
            Some(_) => {}
        }
        let header = self.outgoing.eof(kind).map_err(|misuse| Stop::Failed(misuse.to_string()))?;
        self.channel.tx().put(0, &header.to_bytes());
        self.channel.commit(HEADER_LEN);
        self.channel.flush_data()?;
        if kind != Kind::Stderr && self.exit_on_service_eof {
            self.sink.close();
            self.in_ended = true;
        }
        Ok(true)
    }

    /// Whether nothing but the exit code is left to send, and it is known.
    fn is_last_word(&self) -> bool {
        let silent = !self.outgoing.is_open(Kind::Stdout) && !self.outgoing.is_open(Kind::Stderr);
        let ended = match &self.child {
            Some(_) => self.outcome.local.is_some(),
            None => self.in_ended || !self.sink.is_open(),
        };
        silent && ended && !self.outgoing.exit_sent()
    }

    fn send_exit_code(&mut self) -> Result<bool, Stop> {
        if self.role != Role::Service || !self.is_last_word() {
            return Ok(false);
        }
        if self.room()?.is_none_or(|room| room < HEADER_LEN + 4) {
            return Ok(false);
        }
        let code = self.outcome.local.unwrap_or(0);
        let message = self.outgoing.exit_code(code).map_err(|misuse| Stop::Failed(misuse.to_string()))?;
        self.channel.tx().put(0, &message);
        self.channel.commit(message.len());
        self.channel.flush()?;
        Ok(true)
    }

    // ---- endings ----------------------------------------------------------------------------

    /// The process's exit closes its stdin; what it has written is still drained.
    fn look_at_child(&mut self) -> Result<bool, Stop> {
        if self.outcome.local.is_some() || !self.child_may_have_ended {
            return Ok(false);
        }
        let Some(child) = &mut self.child else { return Ok(false) };
        self.child_may_have_ended = false;
        match child.try_wait() {
            Ok(None) => Ok(false),
            Ok(Some(code)) => {
                self.outcome.local = Some(code);
                self.sink.close();
                Ok(true)
            }
            Err(e) => Err(Stop::local("waiting for the local process")(e)),
        }
    }

    fn is_done(&self) -> bool {
        match self.role {
            Role::Service => self.outgoing.exit_sent(),
            Role::Client => {
                let flushed = !self.sink.is_open() && !self.err_sink.is_open();
                let local = self.child.is_none() || self.outcome.local.is_some();
                self.outcome.remote.is_some() && flushed && local
            }
        }
    }

    /// The peer has closed and everything it left has been read.
    fn on_link_closed(&mut self) -> Result<(), Stop> {
        if self.outcome.remote.is_some() || self.outgoing.exit_sent() {
            self.cut_off();
            return Ok(());
        }
        Err(Stop::Lost("the other side closed the link before the call was complete".into()))
    }

    /// Closes everything, waits for the local process (which is never killed), and reports.
    pub(super) fn finish(mut self, driver: Box<dyn Driver>, stop: Option<Stop>) -> Outcome {
        match stop {
            Some(Stop::Lost(why)) => self.outcome.lost = Some(why),
            Some(Stop::Failed(why)) => self.outcome.failed = Some(why),
            None => {}
        }
        let counters = self.channel.counters();
        self.outcome.cost = Cost {
            syscalls: driver.syscalls() + counters.rings + counters.wakes,
            sleeps: self.sleeps,
            rings: counters.rings,
            wakes: counters.wakes,
            engine: driver.name(),
        };
        self.sink.close();
        self.err_sink.close();
        self.source.close();
        self.err_source.close();
        drop(self.channel);
        // Its polls hold descriptors that whoever we wait for may be waiting on.
        drop(driver);
        if let (Some(child), None) = (&mut self.child, self.outcome.local) {
            self.outcome.local = child.wait().ok();
        }
        self.outcome
    }

    // ---- sleeping ---------------------------------------------------------------------------

    /// Sleeps until something can move, unless it already can.
    pub(super) fn sleep(&mut self, driver: &mut dyn Driver) -> Result<(), Stop> {
        let room = self.wants_room();
        let data = match self.arrivals()? {
            Arrivals::Movable => return Ok(()),
            Arrivals::Starved(have) => Some(have),
            Arrivals::Blocked => None,
        };
        let dead = !self.channel.is_open();
        if !dead && self.channel.arm_for(data, room)? {
            return Ok(());
        }
        self.sleeps += 1;
        let link = self.link_events(dead);
        let wants = self.wants(link, room > 0);
        if wants.iter().all(Option::is_none) {
            return Err(Stop::Lost("the link is gone and nothing else is left to wait for".into()));
        }
        let ready = driver.wait(&wants).map_err(Stop::local("waiting"))?;
        self.woken(&ready)
    }

    /// What the bytes that have arrived, the latest included, are waiting for.
    fn arrivals(&mut self) -> Result<Arrivals, Stop> {
        let ready = self.channel.readable()?;
        let starved = match self.inbound.head() {
            Head::Empty => self.inbound.next_header(ready).is_none(),
            Head::Data(_) => self.inbound.pieces(ready).next().is_none(),
            Head::Exit { at, want } => at + want > ready,
            Head::Skip => ready == 0,
            Head::Eof(_) => false,
        };
        Ok(match self.inbound.head() {
            _ if starved => Arrivals::Starved(ready),
            Head::Data(Kind::Stderr) if self.err_sink.is_stuck() && self.err_sink.spill_room() == 0 => {
                Arrivals::Blocked
            }
            Head::Data(Kind::Stdin | Kind::Stdout) if self.sink.is_stuck() => Arrivals::Blocked,
            _ => Arrivals::Movable,
        })
    }

    /// Room that something waits for, in bytes; 0 for none.
    fn wants_room(&mut self) -> usize {
        let ended = |source: &Source, kind| !source.is_open() && self.outgoing.is_open(kind);
        let eof = ended(&self.source, self.role.sends())
            || (self.role == Role::Service && ended(&self.err_source, Kind::Stderr));
        if self.cut {
            0
        } else if !self.prefix.is_empty() || self.logs_stderr() {
            HEADER_LEN + 1
        } else if self.source.readable().is_some() || self.err_source.readable().is_some() {
            self.useful_room()
        } else if eof {
            HEADER_LEN
        } else if self.role == Role::Service && self.is_last_word() {
            HEADER_LEN + 4
        } else {
            0
        }
    }

    fn link_events(&mut self, dead: bool) -> Option<PollFlags> {
        let mut events = PollFlags::empty();
        if !dead && self.channel.wants_in() {
            events |= PollFlags::IN;
        }
        if self.channel.wants_out() {
            events |= PollFlags::OUT;
        }
        (!events.is_empty()).then_some(events)
    }

    /// While room is waited for, a readable source would only keep waking us.
    fn wants(&self, link: Option<PollFlags>, waits_for_room: bool) -> Wants<'_> {
        let source = |s: &'_ Source| !waits_for_room && s.is_open();
        let sink_events = |s: &Sink| if s.is_blocked() { PollFlags::OUT } else { PollFlags::empty() };
        let mut wants: Wants<'_> = [None; PLACES];
        wants[LINK] = link.map(|events| (self.channel.as_fd(), events));
        wants[SOURCE] =
            self.source.pollable().filter(|_| source(&self.source)).map(|fd| (fd.as_fd(), PollFlags::IN));
        wants[ERR_SOURCE] = self
            .err_source
            .pollable()
            .filter(|_| source(&self.err_source))
            .map(|fd| (fd.as_fd(), PollFlags::IN));
        wants[SINK] = self.sink.pollable().map(|fd| (fd.as_fd(), sink_events(&self.sink)));
        wants[ERR_SINK] = self.err_sink.pollable().map(|fd| (fd.as_fd(), sink_events(&self.err_sink)));
        wants[CHILD] = self
            .child
            .as_ref()
            .filter(|_| self.outcome.local.is_none())
            .map(|child| (child.as_fd(), PollFlags::IN));
        wants
    }

    fn woken(&mut self, ready: &Ready) -> Result<(), Stop> {
        let gone = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
        if !ready[LINK].is_empty() {
            self.channel.on_ready()?;
        }
        for (source, place) in [(&mut self.source, SOURCE), (&mut self.err_source, ERR_SOURCE)] {
            if !ready[place].is_empty() {
                source.set_ready(true);
            }
        }
        for (sink, place) in [(&mut self.sink, SINK), (&mut self.err_sink, ERR_SINK)] {
            if ready[place].intersects(gone) {
                sink.close();
            } else if ready[place].contains(PollFlags::OUT) {
                sink.set_blocked(false);
            }
        }
        self.child_may_have_ended |= !ready[CHILD].is_empty();
        Ok(())
    }
}

/// Sleeps until the link's descriptor is ready, and takes the wake-up.
pub(super) fn wait_for_link(channel: &mut Channel) -> Result<(), ring::Error> {
    let out = if channel.wants_out() { PollFlags::OUT } else { PollFlags::empty() };
    match poll(&mut [PollFd::new(&*channel, PollFlags::IN | out)], None) {
        Ok(_) => channel.on_ready(),
        Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(ring::Error::io("waiting for the link")(error.into())),
    }
}
