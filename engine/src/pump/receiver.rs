#![forbid(unsafe_code)]
//! The incoming direction: messages in the ring are written to local descriptors.
//!
//! A byte waits in the ring until its header was parsed into [`Messages`], goes from there to the [`Sink`], and then
//! its place in the ring is given back. A turn asks what there is to [offer](Receiver::offer), notes what the transfer
//! has [delivered](Receiver::delivered), and [handles](Receiver::hear) everything that is no plain transfer.

mod by_hand;
mod checked;
mod loan;
mod messages;
mod sink;

use std::io;
use std::os::fd::AsFd;

use ring::{Consumer, Link, Spans};
use rustix::event::PollFlags;
use wire::header::HEADER_LEN;
use wire::stream::Kind;

use super::driver::{ERR_SINK, PIPE, Ready, SINK, TRANSFER, Transfer, Wants};
use super::ending::{Ending, Failure};
use super::gate::{Gate, Inbound};
use crate::localfd::LocalFd;
use loan::Loans;
use messages::Head;
pub(super) use messages::Messages;
pub(super) use sink::Sink;

/// What the bytes that have arrived are waiting for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Arrivals {
    /// Nothing: the next turn moves them.
    Movable,
    /// More bytes: only so many are there.
    Starved(usize),
    /// A local descriptor.
    Blocked,
}

/// What the peer has sent besides plain payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Heard {
    Nothing,
    /// A message without consequences for the other direction.
    Something,
    /// The end of its main stream.
    End,
    /// The exit code: the peer accepts nothing any more.
    Exit,
}

/// The state of the peer's main stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Coming {
    Open,
    /// Nothing more arrives for the sink, or is wanted there.
    Ended,
    /// The exit code has come.
    Exit(i32),
}

/// A write to be made in this turn.
#[derive(Clone, Copy)]
pub(super) struct Writing<'a> {
    fd: &'a LocalFd,
    lends: bool,
    place: Place,
}

/// Where a write goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Sink,
    ErrSink,
}

impl<'a> Writing<'a> {
    pub(super) fn place(self) -> Place {
        self.place
    }

    pub(super) fn transfer(self, spans: &'a Spans<'a>) -> Transfer<'a> {
        if self.lends { Transfer::Lend(self.fd, spans) } else { Transfer::Drain(self.fd, spans) }
    }
}

/// Everything that concerns receiving.
pub(super) struct Receiver {
    consumer: Consumer,
    messages: Messages,
    sink: Sink,
    err_sink: Sink,
    loans: Loans,
    /// The filter before the sink, with its bytes.
    inbound: Option<Inbound>,
    coming: Coming,
    /// Payload bytes that have arrived.
    received: u64,
    /// Payload that arrived when it had no reader any more, without stderr.
    unread: u64,
    /// There never was a reader for payload.
    is_mute: bool,
}

impl Receiver {
    /// `splices`: the sink's reader is known to copy what it reads.
    pub(super) fn new(
        consumer: Consumer,
        link: &Link,
        messages: Messages,
        mut sink: Sink,
        err_sink: Sink,
        splices: bool,
        gate: Option<Gate>,
    ) -> Receiver {
        // Checked bytes are in private memory, which cannot be lent.
        if splices && link.lends() && gate.is_none() {
            loan::pipe_size(consumer.size()).into_iter().for_each(|pipe| sink.lend(pipe));
        }
        Receiver {
            consumer,
            messages,
            is_mute: !sink.is_open() && !sink.has_lost_reader(),
            sink,
            err_sink,
            loans: Loans::default(),
            inbound: gate.map(Inbound::new),
            coming: Coming::Open,
            received: 0,
            unread: 0,
        }
    }

    // ---- a turn -----------------------------------------------------------------------------

    /// Checks for new data. Returns whether something new was found, and the payload in front if it can be written
    /// unchanged.
    pub(super) fn offer<'a>(
        &'a mut self,
        link: &mut Link,
        spans: &mut Spans<'a>,
    ) -> Result<(bool, Option<Writing<'a>>), Ending> {
        let news = self.take_headers(link)? | self.take_to_check(link)?;
        let this: &'a Receiver = self;
        Ok((news, this.in_front(spans)))
    }

    /// Parses the headers that have arrived, before their payload is moved.
    fn take_headers(&mut self, link: &mut Link) -> Result<bool, Ending> {
        let ready = link.readable(&mut self.consumer)?;
        let mut any = false;
        while let Some(at) = self.messages.next_header(ready) {
            let mut header = [0u8; HEADER_LEN];
            self.consumer.get(at, &mut header);
            self.messages.on_header(header)?;
            any = true;
        }
        Ok(any)
    }

    fn in_front<'a>(&'a self, spans: &mut Spans<'a>) -> Option<Writing<'a>> {
        let head = self.messages.head();
        if let Some(inbound) = &self.inbound
            && (head != Head::Data(Kind::Stderr) || !inbound.owed().is_empty())
            && let Some(fd) = self.sink.writable()
        {
            self.checked_in_front(inbound, fd, spans);
            return (!spans.is_empty()).then_some(Writing { fd, lends: false, place: Place::Sink });
        }
        let Head::Data(kind) = head else { return None };
        let sink = self.sink_of(kind);
        let fd = sink.writable().filter(|_| !sink.filter)?;
        let mut limit = fd.write_limit().min(TRANSFER);
        for (at, len) in self.messages.pieces(self.consumer.known_ready()) {
            let len = len.min(limit);
            if len == 0 || !self.consumer.spans(at, len, spans) {
                break;
            }
            limit -= len;
        }
        let place = if kind == Kind::Stderr { Place::ErrSink } else { Place::Sink };
        (!spans.is_empty()).then_some(Writing { fd, lends: sink.lends(), place })
    }

    /// Handles the result of a write of `offered` bytes.
    pub(super) fn delivered(
        &mut self,
        link: &mut Link,
        place: Place,
        offered: usize,
        result: io::Result<usize>,
    ) -> Result<(), Ending> {
        let sink = if place == Place::ErrSink { &mut self.err_sink } else { &mut self.sink };
        match result {
            Ok(n) => {
                sink.after_write(n < offered);
                let lends = sink.lends();
                let n = match &mut self.inbound {
                    Some(inbound) if place == Place::Sink => inbound.wrote(n),
                    _ => n,
                };
                self.received += n as u64;
                let ring = self.messages.took(n);
                if lends {
                    // The payload is in the local pipe now, and still in use.
                    self.consumer.take(ring);
                    self.loans.lend(n, ring);
                    self.give_back(link)
                } else {
                    self.release(link, ring)
                }
            }
            Err(e) => Ok(sink.on_error(e).map_err(not_written)?),
        }
    }

    /// Handles what is in front of the ring and is no plain transfer.
    pub(super) fn hear(&mut self, link: &mut Link) -> Result<Heard, Ending> {
        let drained = self.err_sink.drain_spill().map_err(Failure::during("writing stderr"))?;
        let ready = self.consumer.known_ready();
        let moved = match self.messages.head() {
            Head::Empty => false,
            // Checked bytes are written before the end of the stream is handled.
            Head::Eof(Kind::Stdin | Kind::Stdout) | Head::Exit { .. } if self.owes() => false,
            Head::Data(kind) => self.payload_by_hand(link, kind, ready)?,
            Head::Eof(kind) => {
                let n = self.messages.took_eof();
                self.release(link, n)?;
                return Ok(self.on_end(kind));
            }
            Head::Exit { at, want } if at + want <= ready => {
                let mut body = [0u8; 4];
                self.consumer.get(at, &mut body[..want]);
                self.on_exit_code(want, body);
                return Ok(Heard::Exit);
            }
            Head::Exit { .. } => false,
            Head::Skip => {
                let n = self.messages.skip(ready);
                self.release(link, n)?;
                n > 0
            }
        };
        Ok(if moved || drained { Heard::Something } else { Heard::Nothing })
    }

    fn on_end(&mut self, kind: Kind) -> Heard {
        match kind {
            Kind::Stderr => {
                self.err_sink.end();
                Heard::Something
            }
            Kind::Stdin | Kind::Stdout => {
                if let Some(inbound) = self.inbound.as_ref().filter(|_| self.sink.is_open()) {
                    inbound.gate().ended();
                }
                self.sink.end();
                self.end();
                Heard::End
            }
        }
    }

    fn on_exit_code(&mut self, len: usize, body: [u8; 4]) {
        let code = self.messages.on_exit(body.get(..len).unwrap_or_default());
        self.coming = Coming::Exit(code);
        self.sink.end();
        self.err_sink.end();
    }

    fn sink_of(&self, kind: Kind) -> &Sink {
        if kind == Kind::Stderr { &self.err_sink } else { &self.sink }
    }

    // ---- room -------------------------------------------------------------------------------

    /// Gives `n` bytes of the ring back.
    fn release(&mut self, link: &mut Link, n: usize) -> Result<(), Ending> {
        if n > 0 {
            self.consumer.take(n);
            self.loans.used(n);
        }
        self.give_back(link)
    }

    /// Gives back bytes that nobody reads any more, and rings when a useful part of the ring is free.
    pub(super) fn give_back(&mut self, link: &mut Link) -> Result<(), Ending> {
        let held = if self.loans.is_open() { self.sink.held() } else { 0 };
        let n = self.loans.settle(held);
        if n > 0 {
            self.consumer.give(n);
            if self.consumer.unflushed() >= (self.consumer.size() / 2) as u64 {
                link.flush_room(&mut self.consumer)?;
            }
        }
        Ok(())
    }

    /// Whether bytes are lent, as far as is known.
    pub(super) fn has_lent(&self) -> bool {
        self.loans.is_open()
    }

    /// Whether the reader of lent pages must be looked at from time to time. No event tells that it takes them, and
    /// either the pipe is closed already, or what came after them, such as error output, fills so much of the ring
    /// that the peer may soon have to wait.
    pub(super) fn awaits_reader(&self) -> bool {
        let much = (self.consumer.size() / 2) as u64;
        self.loans.is_open() && (!self.sink.is_open() || self.loans.outstanding() >= much)
    }

    // ---- what has come ----------------------------------------------------------------------

    /// What the bytes that have arrived, up to this moment, are waiting for.
    pub(super) fn arrivals(&mut self, link: &mut Link) -> Result<Arrivals, Ending> {
        let ready = link.readable(&mut self.consumer)?;
        let head = self.messages.head();
        let starved = match head {
            Head::Empty => self.messages.next_header(ready).is_none(),
            Head::Data(_) => self.messages.pieces(ready).next().is_none(),
            Head::Exit { at, want } => at + want > ready,
            Head::Skip => ready == 0,
            Head::Eof(_) => false,
        };
        let is_stderr = head == Head::Data(Kind::Stderr);
        Ok(match head {
            _ if self.owes() && !self.sink.is_stuck() => Arrivals::Movable,
            _ if self.owes() && !is_stderr => Arrivals::Blocked,
            _ if starved => Arrivals::Starved(ready),
            Head::Data(Kind::Stderr) if self.err_sink.is_stuck() && self.err_sink.spill_room() == 0 => {
                Arrivals::Blocked
            }
            Head::Data(Kind::Stdin | Kind::Stdout) if self.sink.is_stuck() => Arrivals::Blocked,
            _ => Arrivals::Movable,
        })
    }

    /// Payload bytes that have arrived so far.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// The exit code, once it has come.
    pub(super) fn code(&self) -> Option<i32> {
        match self.coming {
            Coming::Exit(code) => Some(code),
            Coming::Open | Coming::Ended => None,
        }
    }

    /// Whether nothing more arrives for the sink.
    pub(super) fn has_ended(&self) -> bool {
        self.coming != Coming::Open
    }

    /// Payload that arrived when it had no reader any more, without stderr.
    pub(super) fn unread(&self) -> u64 {
        self.unread
    }

    /// Whether there never was a reader for payload.
    pub(super) fn is_mute(&self) -> bool {
        self.is_mute
    }

    /// Whether the reader of the sink closed it before the stream had ended.
    pub(super) fn has_lost_reader(&self) -> bool {
        self.sink.has_lost_reader()
    }

    /// Whether the peer's main stream has a reader.
    pub(super) fn takes(&self) -> bool {
        self.sink.is_open()
    }

    /// Whether the local side has got everything that it reads.
    pub(super) fn is_delivered(&self) -> bool {
        !self.sink.is_open() && !self.err_sink.is_open()
    }

    // ---- ends -------------------------------------------------------------------------------

    fn end(&mut self) {
        if self.coming == Coming::Open {
            self.coming = Coming::Ended;
        }
    }

    /// The local process has ended: the main stream has no reader any more.
    pub(super) fn close_sink(&mut self) {
        self.sink.close();
    }

    /// Refuses the rest of the main stream.
    pub(super) fn stop(&mut self) {
        self.sink.close();
        self.end();
    }

    pub(super) fn close(&mut self) {
        self.sink.close();
        self.err_sink.close();
    }

    /// Returns the ring's half, for use after the call.
    pub(super) fn into_consumer(self) -> Consumer {
        self.consumer
    }

    // ---- sleep ------------------------------------------------------------------------------

    /// Adds the events to wake up for.
    pub(super) fn add_wants<'a>(&'a self, wants: &mut Wants<'a>) {
        for (sink, place) in [(&self.sink, SINK), (&self.err_sink, ERR_SINK)] {
            let events = if sink.is_blocked() { PollFlags::OUT } else { PollFlags::empty() };
            wants[place] = sink.pollable().map(|fd| (fd.as_fd(), events));
        }
    }

    /// Notes the result of the sleep.
    pub(super) fn woken(&mut self, ready: &Ready) {
        let gone = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
        for (sink, place) in [(&mut self.sink, SINK), (&mut self.err_sink, ERR_SINK)] {
            if ready[place].intersects(gone) {
                sink.lose_reader();
            } else if ready[place].contains(PollFlags::OUT) {
                sink.set_blocked(false);
            }
        }
    }

    /// Marks which descriptors are open, for the driver to release the others.
    pub(super) fn note_open(&self, open: &mut [bool]) {
        open[SINK] = self.sink.is_open();
        open[ERR_SINK] = self.err_sink.is_open();
    }

    // ---- size -------------------------------------------------------------------------------

    /// Widens the local pipe, for a call that moves much.
    pub(super) fn grow(&self) {
        if let Some(fd) = self.sink.pollable().filter(|_| !self.sink.lends()) {
            fd.grow((4 * self.consumer.size()).min(PIPE));
        }
    }

    /// Whether ring pages are lent to the sink.
    pub(super) fn lends(&self) -> bool {
        self.sink.lends()
    }

    /// The sink, if it can be slept on.
    pub(super) fn local_end(&self) -> Option<&LocalFd> {
        self.sink.pollable()
    }

    /// Used before the sleep, in which the link looks at both halves.
    pub(super) fn consumer(&mut self) -> &mut Consumer {
        &mut self.consumer
    }
}

fn not_written(error: io::Error) -> Failure {
    Failure::during("writing what the other side sent")(error)
}
