#![forbid(unsafe_code)]
//! The outgoing direction: what is read from local descriptors becomes messages in the ring.
//!
//! A byte is read from the [`Source`] into the place that [`Layout`] gives it, and is published with its header. A
//! turn asks where the next read may [go](Sender::offer), [publishes](Sender::publish) what the transfer has read, and
//! sends [the rest](Sender::rest): everything that is no plain transfer.

mod checked;
mod layout;
mod one_socket;
mod source;

use std::io;
use std::os::fd::AsFd;

use ring::{Link, Producer, Spans};
use rustix::event::PollFlags;
use wire::header::HEADER_LEN;
use wire::stream::{Kind, Outgoing, Role};
use wire::version::Version;

use super::driver::{ERR_SOURCE, PIPE, REQUEST, Ready, SOURCE, TRANSFER, Wants};
use super::ending::{Ending, Failure};
use super::gate::Gate;
use super::stderr_copy::StderrCopy;
use crate::localfd::LocalFd;
use layout::Layout;
pub(super) use one_socket::OneSocket;
pub(super) use source::Source;

/// How much stderr is read at once when a log gets a copy.
const LOGGED: usize = 16 << 10;

/// A read to be made in this turn.
#[derive(Clone, Copy)]
pub(super) struct Reading {
    is_stderr: bool,
    layout: Layout,
}

/// What the outgoing direction begins with.
pub(super) struct Outward {
    pub(super) role: Role,
    pub(super) version: Version,
    pub(super) source: Source,
    pub(super) err_source: Source,
    pub(super) log: Option<StderrCopy>,
    pub(super) prefix: Vec<u8>,
    pub(super) one_socket: Option<OneSocket>,
    pub(super) gate: Option<Gate>,
}

/// Everything that concerns sending.
pub(super) struct Sender {
    producer: Producer,
    outgoing: Outgoing,
    role: Role,
    source: Source,
    err_source: Source,
    log: Option<StderrCopy>,
    /// Sent before anything that is read.
    prefix: Vec<u8>,
    one_socket: Option<OneSocket>,
    /// The filter after the source.
    gate: Option<Gate>,
    /// The error that comes after the prefix, which is still sent first.
    breach: Option<Failure>,
    /// stderr was read last, so stdout is next.
    err_was_read: bool,
    /// The peer accepts nothing any more.
    is_cut: bool,
    /// Payload bytes that were sent so far.
    sent: u64,
}

impl Sender {
    pub(super) fn new(producer: Producer, outward: Outward) -> Sender {
        let Outward { role, version, source, err_source, log, prefix, one_socket, gate } = outward;
        Sender {
            producer,
            outgoing: Outgoing::new(role, version),
            role,
            source,
            err_source,
            log,
            prefix,
            one_socket,
            gate,
            breach: None,
            err_was_read: false,
            is_cut: false,
            sent: 0,
        }
    }

    // ---- a turn -----------------------------------------------------------------------------

    /// Where the next read may go: nowhere while the ring has no useful room, or while nothing may be read.
    pub(super) fn offer<'a>(
        &'a mut self,
        link: &mut Link,
        spans: &mut Spans<'a>,
    ) -> Result<Option<(Reading, &'a LocalFd)>, Ending> {
        let Some(layout) = self.layout(link)? else { return Ok(None) };
        let is_stderr = self.is_turn_of_stderr();
        let this: &'a Sender = self;
        let source = if is_stderr { &this.err_source } else { &this.source };
        let Some(fd) = source.readable() else { return Ok(None) };
        for (at, len) in layout.slots() {
            if !this.producer.spans(at, len, spans) {
                break;
            }
        }
        Ok((!spans.is_empty()).then_some((Reading { is_stderr, layout }, fd)))
    }

    fn layout(&mut self, link: &mut Link) -> Result<Option<Layout>, Ending> {
        let by_hand = self.log.is_some() && self.is_turn_of_stderr();
        let direct = self.direct();
        if !self.has_readable() || !self.prefix.is_empty() || by_hand || direct == 0 {
            return Ok(None);
        }
        let Some(room) = self.room(link)? else { return Ok(None) };
        let chunk = self.outgoing.max_chunk();
        let transfer = TRANSFER + HEADER_LEN * TRANSFER.div_ceil(chunk as usize);
        // Half of a small ring at a time, so that the other side can work on the other half.
        let part = room.min(transfer).min(self.producer.size() / 2);
        // No byte after the payload may get into the ring before it was checked.
        let payload = direct.saturating_add(HEADER_LEN.saturating_mul(direct.div_ceil(chunk as usize)));
        Ok(self.is_enough(room).then(|| Layout::new(part.min(payload), chunk)))
    }

    /// Handles the result of a read into `asked` bytes of room.
    pub(super) fn publish(
        &mut self,
        link: &mut Link,
        reading: Reading,
        asked: usize,
        result: io::Result<usize>,
    ) -> Result<(), Ending> {
        let Reading { is_stderr, layout } = reading;
        self.err_was_read = is_stderr;
        let source = if is_stderr { &mut self.err_source } else { &mut self.source };
        match result {
            Ok(0) => self.end_source(is_stderr),
            Ok(n) => {
                let short = n < asked;
                source.after_read(n, short);
                if let Some(gate) = self.gate.as_ref().filter(|_| !is_stderr) {
                    gate.moved(n);
                }
                let kind = if is_stderr { Kind::Stderr } else { self.role.sends() };
                self.put_headers(kind, layout, n)?;
                let useful = (self.producer.size() / 4) as u64;
                if short || self.producer.unflushed() >= useful {
                    link.flush_data(&mut self.producer)?;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => source.set_ready(false),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // As with a log's copy: the call continues without its error output.
            Err(_) if is_stderr => source.close(),
            Err(e) => {
                source.close();
                return Err(Failure::during("reading what is to be sent")(e).into());
            }
        }
        Ok(())
    }

    /// Writes the headers of `n` bytes that lie in the layout's slots, and publishes everything.
    fn put_headers(&mut self, kind: Kind, layout: Layout, n: usize) -> Result<(), Ending> {
        let mut end = 0;
        for (at, len) in layout.chunks(n) {
            let header = self.outgoing.header(kind, len as u32)?;
            self.producer.put(at, &header.to_bytes());
            end = at + HEADER_LEN + len;
        }
        self.producer.commit(end);
        self.sent += n as u64;
        Ok(())
    }

    /// Sends what is no plain transfer: prefix, logged stderr, ends of streams. Returns whether anything was sent.
    pub(super) fn rest(&mut self, link: &mut Link) -> Result<bool, Ending> {
        let mut moved = self.send_prefix(link)?;
        if self.log.is_some() && self.is_turn_of_stderr() && self.prefix.is_empty() {
            moved |= self.send_logged_stderr(link)?;
        }
        moved |= self.send_checked(link)?;
        // A service that has asked for one socket and then closes its stdout has not ended its stream.
        if !self.source.is_open() && self.outgoing.is_open(self.role.sends()) {
            moved |= self.look_for_request()?;
        }
        if self.prefix.is_empty() && !self.source.is_open() {
            moved |= self.send_eof(link, self.role.sends())?;
        }
        if self.role == Role::Service {
            moved |= self.send_end_of_stderr(link)?;
        }
        Ok(moved)
    }

    fn send_prefix(&mut self, link: &mut Link) -> Result<bool, Ending> {
        if self.prefix.is_empty() {
            return Ok(false);
        }
        // Bytes are copied only as often as needed: a peer that makes room byte by byte must not cause the rest to be
        // moved each time.
        if let Some(room) = self.room(link)?
            && !self.is_enough(room)
        {
            return Ok(false);
        }
        let mut prefix = std::mem::take(&mut self.prefix);
        let sent = self.send_copy(link, self.role.sends(), &prefix)?;
        if !self.is_cut {
            prefix.drain(..sent);
            self.prefix = prefix;
        }
        Ok(sent > 0)
    }

    /// Copies bytes from private memory into the ring as one chunk. Returns how many were taken.
    fn send_copy(&mut self, link: &mut Link, kind: Kind, bytes: &[u8]) -> Result<usize, Ending> {
        let Some(room) = self.room(link)? else { return Ok(bytes.len()) };
        let len = bytes.len().min(room.saturating_sub(HEADER_LEN)).min(self.outgoing.max_chunk() as usize);
        if len > 0 {
            let header = self.outgoing.header(kind, len as u32)?;
            self.producer.put(0, &header.to_bytes());
            self.producer.put(HEADER_LEN, &bytes[..len]);
            self.producer.commit(HEADER_LEN + len);
            self.sent += len as u64;
            // Every sleep is preceded by a ring, and one ring is enough for a message of which more can be read
            // already.
            if !(len == bytes.len() && self.has_payload_to_come()) {
                link.flush_data(&mut self.producer)?;
            }
        }
        Ok(len)
    }

    /// Reads stderr into private memory, gives the log its copy, and sends the bytes.
    fn send_logged_stderr(&mut self, link: &mut Link) -> Result<bool, Ending> {
        let Some(room) = self.room(link)? else { return Ok(false) };
        let enough = self.is_enough(room) && room > HEADER_LEN;
        let Some(fd) = self.err_source.readable().filter(|_| enough) else { return Ok(false) };
        self.err_was_read = true;
        let mut bytes = vec![0u8; (room - HEADER_LEN).min(LOGGED).min(self.outgoing.max_chunk() as usize)];
        match fd.read(&mut bytes) {
            Ok(0) => self.err_source.close(),
            Ok(n) => {
                self.err_source.after_read(n, n < bytes.len());
                if let Some(log) = &mut self.log {
                    log.write(&bytes[..n]);
                }
                self.send_copy(link, Kind::Stderr, &bytes[..n])?;
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

    /// Sends the end of stderr if it has ended. A service without stderr sends it before anything that the peer sends.
    pub(super) fn send_end_of_stderr(&mut self, link: &mut Link) -> Result<bool, Ending> {
        if self.err_source.is_open() { Ok(false) } else { self.send_eof(link, Kind::Stderr) }
    }

    fn send_eof(&mut self, link: &mut Link, kind: Kind) -> Result<bool, Ending> {
        if !self.outgoing.is_open(kind) || self.room(link)?.is_none_or(|room| room < HEADER_LEN) {
            return Ok(false);
        }
        let header = self.outgoing.eof(kind)?;
        self.put_message(link, &header.to_bytes())?;
        Ok(true)
    }

    /// Sends the exit code, if nothing else is left to send and there is room.
    pub(super) fn send_exit_code(&mut self, link: &mut Link, code: i32) -> Result<bool, Ending> {
        if !self.owes_only_code() || self.room(link)?.is_none_or(|room| room < HEADER_LEN + 4) {
            return Ok(false);
        }
        let message = self.outgoing.exit_code(code)?;
        self.put_message(link, &message)?;
        Ok(true)
    }

    fn put_message(&mut self, link: &mut Link, message: &[u8]) -> Result<(), Ending> {
        self.producer.put(0, message);
        self.producer.commit(message.len());
        Ok(link.flush_data(&mut self.producer)?)
    }

    // ---- room -------------------------------------------------------------------------------

    /// Free bytes; `None` once the peer accepts nothing any more.
    fn room(&mut self, link: &mut Link) -> Result<Option<usize>, Ending> {
        if self.is_cut {
            return Ok(None);
        }
        match link.writable(&mut self.producer) {
            Ok(room) => Ok(Some(room)),
            Err(ring::Error::Closed) => {
                self.cut_off();
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether there are bytes that the local process wrote before it ended, and room for them. A turn reads either
    /// stdout or stderr, so this may take several turns.
    pub(super) fn has_last_words(&mut self, link: &mut Link) -> Result<bool, Ending> {
        let any = self.source.has_last_words() || self.err_source.has_last_words();
        let room = if any { self.room(link)? } else { None };
        Ok(room.is_some_and(|room| self.is_enough(room)))
    }

    /// Whether this much room is worth a read: it is useful, or the most that there can be.
    fn is_enough(&self, room: usize) -> bool {
        room >= self.useful_room() || self.producer.in_flight() == 0
    }

    /// Less room than this is not worth a read, nor being woken for.
    fn useful_room(&self) -> usize {
        (self.producer.size() / 4).min(16 << 10)
    }

    /// For how much room something is waiting, in bytes; 0: nothing is. `code_is_known`: the exit code can be sent.
    pub(super) fn wants_room(&self, code_is_known: bool) -> usize {
        let ended = |source: &Source, kind| !source.is_open() && self.outgoing.is_open(kind);
        if self.is_cut {
            0
        } else if !self.prefix.is_empty() || self.has_readable() {
            self.useful_room()
        } else if ended(&self.source, self.role.sends()) || ended(&self.err_source, Kind::Stderr) {
            HEADER_LEN
        } else if code_is_known && self.owes_only_code() {
            HEADER_LEN + 4
        } else {
            0
        }
    }

    // ---- what there is to send --------------------------------------------------------------

    fn has_readable(&self) -> bool {
        self.source.readable().is_some() || self.err_source.readable().is_some()
    }

    /// Whether stderr is to be read next: both in turn if both have something, so that neither waits for ever.
    fn is_turn_of_stderr(&self) -> bool {
        self.err_source.readable().is_some() && !(self.err_was_read && self.source.readable().is_some())
    }

    /// Whether the main source may still have something to send.
    pub(super) fn may_say_more(&self) -> bool {
        self.source.is_open() || !self.prefix.is_empty()
    }

    /// Whether the end of the main stream has been sent.
    pub(super) fn has_ended(&self) -> bool {
        !self.outgoing.is_open(self.role.sends())
    }

    /// Whether a service has sent everything but its exit code.
    fn owes_only_code(&self) -> bool {
        self.role == Role::Service
            && !self.outgoing.is_open(Kind::Stdout)
            && !self.outgoing.is_open(Kind::Stderr)
            && !self.outgoing.exit_sent()
    }

    /// Whether the exit code has been sent.
    pub(super) fn exit_sent(&self) -> bool {
        self.outgoing.exit_sent()
    }

    /// Whether the peer accepts nothing any more.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Payload bytes that were sent so far.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    // ---- ends -------------------------------------------------------------------------------

    /// Nothing can be sent any more. What has arrived is still delivered.
    pub(super) fn cut_off(&mut self) {
        self.is_cut = true;
        self.prefix.clear();
        self.close();
    }

    /// Reads no more from the main source.
    pub(super) fn stop_reading(&mut self) {
        self.source.close();
    }

    /// The peer accepts nothing more of the main stream.
    pub(super) fn fall_silent(&mut self) {
        self.source.close();
        self.prefix.clear();
    }

    pub(super) fn close(&mut self) {
        self.source.close();
        self.err_source.close();
    }

    /// Returns the ring's half, for use after the call, and the request for one socket. As long as the latter exists
    /// its signal stays blocked; afterwards the signal would end this process.
    pub(super) fn into_parts(self) -> (Producer, Option<OneSocket>) {
        (self.producer, self.one_socket)
    }

    // ---- sleep ------------------------------------------------------------------------------

    /// Adds the events to wake up for. While room is waited for, a readable source would wake it in vain.
    pub(super) fn add_wants<'a>(&'a self, wants: &mut Wants<'a>, waits_for_room: bool, is_process: bool) {
        for (source, place) in [(&self.source, SOURCE), (&self.err_source, ERR_SOURCE)] {
            wants[place] =
                source.pollable().filter(|_| !waits_for_room).map(|fd| (fd.as_fd(), PollFlags::IN));
        }
        // Only a process can ask for one socket.
        wants[REQUEST] = self
            .one_socket
            .as_ref()
            .filter(|_| is_process)
            .and_then(OneSocket::pollable)
            .map(|fd| (fd, PollFlags::IN));
    }

    /// Notes the result of the sleep.
    pub(super) fn woken(&mut self, ready: &Ready, process_may_have_ended: bool) -> Result<(), Ending> {
        for (source, place) in [(&mut self.source, SOURCE), (&mut self.err_source, ERR_SOURCE)] {
            if !ready[place].is_empty() {
                source.set_ready(true);
            }
            if process_may_have_ended {
                // Its last bytes came before its end, perhaps after they were last looked for.
                source.has_ended_behind();
            }
        }
        if !ready[REQUEST].is_empty() {
            self.look_for_request()?;
        }
        Ok(())
    }

    /// Whether the source's input is for other programs, so that no event tells when it is for this one.
    pub(super) fn is_for_others(&self) -> bool {
        self.source.is_for_others()
    }

    /// Has the next sleep wait for such input again.
    pub(super) fn look_again(&mut self) {
        self.source.look_again();
    }

    /// Used before the sleep, in which the link looks at both halves.
    pub(super) fn producer(&mut self) -> &mut Producer {
        &mut self.producer
    }

    /// Marks which descriptors are open, for the driver to release the others.
    pub(super) fn note_open(&self, open: &mut [bool]) {
        open[SOURCE] = self.source.is_open();
        open[ERR_SOURCE] = self.err_source.is_open();
    }

    // ---- size -------------------------------------------------------------------------------

    /// Widens the local pipe, for a call that moves much.
    pub(super) fn grow(&self) {
        if let Some(fd) = self.source.pollable() {
            fd.grow((4 * self.producer.size()).min(PIPE));
        }
    }

    /// The source, if it can be slept on.
    pub(super) fn local_end(&self) -> Option<&LocalFd> {
        self.source.pollable()
    }

    /// Returns memory that an idle call does not need.
    pub(super) fn trim(&mut self) -> Result<(), Ending> {
        Ok(self.producer.trim().map_err(ring::Error::from)?)
    }
}
