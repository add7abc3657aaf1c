#![forbid(unsafe_code)]
//! The receiving side of a turn: headers, ends, the exit code, and payload that must be looked at.

use wire::header::HEADER_LEN;
use wire::stream::{Kind, Role};

use super::Stop;
use super::ends::Sink;
use super::inbound::Head;
use super::turn::Pump;

/// Bytes copied at once where bytes must be looked at: filtered or spilt.
const BOUNCE: usize = 16 << 10;

/// Most that the service of a local program may send after that has ended.
const UNREAD: u64 = 1 << 20;

/// What a caller without stdout is told.
const MUTE: &str = "stdout is closed, so what the service sent is lost";

/// What arrived bytes wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Arrivals {
    /// Nothing: the next turn moves them.
    Movable,
    /// For more bytes than the `usize` that are there.
    Starved(usize),
    /// For a local descriptor.
    Blocked,
}

impl Pump {
    /// Parses the headers that have arrived, ahead of their payload.
    pub(super) fn take_headers(&mut self) -> Result<bool, Stop> {
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

    pub(super) fn sink_of(&mut self, kind: Kind) -> &mut Sink {
        if kind == Kind::Stderr { &mut self.err_sink } else { &mut self.sink }
    }

    /// What is in front of the ring and is not a plain transfer.
    pub(super) fn inbound_rest(&mut self) -> Result<bool, Stop> {
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
    pub(super) fn payload_by_hand(&mut self, kind: Kind, ready: usize) -> Result<bool, Stop> {
        let Some((at, len)) = self.inbound.pieces(ready).next() else {
            return Ok(false);
        };
        let sink = self.sink_of(kind);
        if !sink.is_open() {
            let n = self.inbound.took(len);
            self.outcome.bytes_in += len as u64;
            if kind != Kind::Stderr {
                self.unread += len as u64;
            }
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

    pub(super) fn on_peer_eof(&mut self, kind: Kind) -> Result<(), Stop> {
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

    pub(super) fn on_exit_code(&mut self, code: i32) -> Result<(), Stop> {
        self.outcome.remote = Some(code);
        self.in_ended = true;
        self.sink.end();
        self.err_sink.end();
        // Nobody there wants our bytes any more.
        self.source.close();
        self.prefix.clear();
        Ok(())
    }

    /// Ends a client's call whose service speaks to nobody: it would never hear of it, and might go on for ever. What a
    /// local program leaves unread when it ends is its own affair, up to a limit.
    pub(super) fn look_at_reader(&mut self) -> Result<(), Stop> {
        let mute = self.is_mute && self.child.is_none();
        let (is_over, limit) = match &self.child {
            None => ((mute || self.sink.has_lost_reader()) && self.unread > 0, 0),
            Some(_) => (self.outcome.local.is_some() && !self.sends() && self.unread > UNREAD, UNREAD),
        };
        if self.role != Role::Client || !is_over {
            return Ok(());
        }
        if self.outcome.remote.is_some() {
            // The service's own failure comes first.
            if mute {
                self.outcome.failed.get_or_insert_with(|| MUTE.into());
            } else {
                self.outcome.unread = self.child.is_none();
            }
            return Ok(());
        }
        // Its exit code may be there, behind what nobody takes; a ring of that is the most that is worth a look.
        let looked = self.unread > limit + self.channel.rx().size() as u64;
        if !looked && !matches!(self.arrivals()?, Arrivals::Starved(_)) {
            return Ok(());
        }
        Err(if mute { Stop::Failed(MUTE.into()) } else { Stop::Unread })
    }

    /// Whether a client only waits for the end of a service whose words nobody would read.
    pub(super) fn is_unheard(&self) -> bool {
        let waits = self.role == Role::Client && self.child.is_none() && self.outcome.remote.is_none();
        waits && self.sink.has_lost_reader() && !self.in_ended && !self.sends()
    }

    /// Whether there may be something to send.
    fn sends(&self) -> bool {
        self.source.is_open() || !self.prefix.is_empty()
    }

    /// Done with `n` bytes of the ring.
    pub(super) fn release(&mut self, n: usize) -> Result<(), Stop> {
        if n > 0 {
            self.channel.rx().take(n);
            self.loans.used(n);
        }
        self.give_back()
    }

    /// `payload` bytes are the local pipe's now, `ring` bytes with their headers.
    pub(super) fn lend(&mut self, payload: usize, ring: usize) -> Result<(), Stop> {
        self.channel.rx().take(ring);
        self.loans.lend(payload, ring);
        self.give_back()
    }

    /// Whether the reader of lent pages has to be watched: no event tells that it takes them, and the pipe is closed
    /// already, or what came behind them, error output say, holds so much of the ring that the peer may soon wait.
    pub(super) fn awaits_reader(&mut self) -> bool {
        let much = (self.channel.rx().size() / 2) as u64;
        self.loans.is_open() && (!self.sink.is_open() || self.loans.outstanding() >= much)
    }

    /// Gives back what nobody reads any more, and rings when a useful part has become free.
    pub(super) fn give_back(&mut self) -> Result<(), Stop> {
        let held = if self.loans.is_open() { self.sink.held() } else { 0 };
        let n = self.loans.settle(held);
        if n > 0 {
            self.channel.give(n);
            if self.channel.unflushed_room() >= (self.channel.rx().size() / 2) as u64 {
                self.channel.flush_room()?;
            }
        }
        Ok(())
    }
}
