#![forbid(unsafe_code)]
//! The sending side of a turn: where a read may land, headers, ends, the exit code.

use std::io;

use wire::header::HEADER_LEN;
use wire::stream::{Kind, Role};

use super::outbound::Layout;
use super::turn::Pump;
use super::{Stop, TRANSFER};

/// stderr read at once when a log gets a copy.
const LOGGED: usize = 16 << 10;

impl Pump {
    /// Where a read may go: `None` while the ring has no useful room, or nothing may be read.
    pub(super) fn layout(&mut self) -> Result<Option<Layout>, Stop> {
        let by_hand = self.log.is_some() && self.is_turn_of_stderr();
        if !self.has_readable() || !self.prefix.is_empty() || by_hand {
            return Ok(None);
        }
        let Some(room) = self.room()? else { return Ok(None) };
        let enough = self.is_enough(room);
        let chunk = self.outgoing.max_chunk();
        let transfer = TRANSFER + HEADER_LEN * TRANSFER.div_ceil(chunk as usize);
        // Half of a small ring at a time: the other side is at work on the other half.
        let room = room.min(transfer).min(self.channel.tx().size() / 2);
        Ok(enough.then(|| Layout::new(room, chunk)))
    }

    pub(super) fn has_readable(&self) -> bool {
        self.source.readable().is_some() || self.err_source.readable().is_some()
    }

    /// Whether stderr is to be read next: both in turn where both have something, so that neither starves the other.
    pub(super) fn is_turn_of_stderr(&self) -> bool {
        self.err_source.readable().is_some() && !(self.err_was_read && self.source.readable().is_some())
    }

    /// Whether there is something that the local process wrote before it ended, and room for it. A turn reads stdout or
    /// stderr, so this may take several.
    pub(super) fn has_last_words(&mut self) -> Result<bool, Stop> {
        let any = self.source.has_last_words() || self.err_source.has_last_words();
        let room = if any { self.room()? } else { None };
        Ok(room.is_some_and(|room| self.is_enough(room)))
    }

    /// Whether so much room is worth a read: useful, or all that there can be.
    fn is_enough(&mut self, room: usize) -> bool {
        room >= self.useful_room() || self.channel.tx().in_flight() == 0
    }

    /// Free bytes, `None` once the peer takes nothing any more.
    pub(super) fn room(&mut self) -> Result<Option<usize>, Stop> {
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
    pub(super) fn cut_off(&mut self) {
        self.cut = true;
        self.prefix.clear();
        self.source.close();
        self.err_source.close();
    }

    /// Room below this is not worth a read, nor being woken for.
    pub(super) fn useful_room(&mut self) -> usize {
        (self.channel.tx().size() / 4).min(16 << 10)
    }

    pub(super) fn after_fill(
        &mut self,
        err: bool,
        layout: Layout,
        asked: usize,
        result: io::Result<usize>,
    ) -> Result<(), Stop> {
        self.err_was_read = err;
        let source = if err { &mut self.err_source } else { &mut self.source };
        match result {
            Ok(0) => source.close(),
            Ok(n) => {
                let short = n < asked;
                source.after_read(n, short);
                let kind = if err { Kind::Stderr } else { self.role.sends() };
                self.publish(kind, layout, n)?;
                let useful = (self.channel.tx().size() / 4) as u64;
                if short || self.channel.unflushed_data() >= useful {
                    self.channel.flush_data()?;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => source.set_ready(false),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // As where a log gets a copy: the call goes on without its error output.
            Err(_) if err => source.close(),
            Err(e) => {
                source.close();
                return Err(Stop::local("reading what is to be sent")(e));
            }
        }
        Ok(())
    }

    /// Writes the headers of `n` bytes that lie in the layout's slots, and publishes it all.
    pub(super) fn publish(&mut self, kind: Kind, layout: Layout, n: usize) -> Result<(), Stop> {
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

    pub(super) fn header(&self, kind: Kind, len: usize) -> Result<[u8; HEADER_LEN], Stop> {
        let header = self.outgoing.header(kind, len as u32);
        header.map(|h| h.to_bytes()).map_err(|misuse| Stop::Failed(misuse.to_string()))
    }

    /// What is to be sent and is not a plain transfer: prefix, logged stderr, ends, the exit code.
    pub(super) fn outbound_rest(&mut self) -> Result<bool, Stop> {
        let mut moved = self.send_prefix()?;
        if self.log.is_some() && self.is_turn_of_stderr() && self.prefix.is_empty() {
            moved |= self.send_logged_stderr()?;
        }
        // A service that asks for one socket and then closes its stdout has not ended.
        if !self.source.is_open() && self.outgoing.is_open(self.role.sends()) {
            moved |= self.look_for_request()?;
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
    pub(super) fn send_copy(&mut self, kind: Kind, bytes: &[u8]) -> Result<usize, Stop> {
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

    pub(super) fn send_prefix(&mut self) -> Result<bool, Stop> {
        if self.prefix.is_empty() {
            return Ok(false);
        }
        // A peer that makes room byte by byte must not have the rest moved up each time.
        if let Some(room) = self.room()?
            && !self.is_enough(room)
        {
            return Ok(false);
        }
        let mut prefix = std::mem::take(&mut self.prefix);
        let sent = self.send_copy(self.role.sends(), &prefix)?;
        if !self.cut {
            prefix.drain(..sent);
            self.prefix = prefix;
        }
        Ok(sent > 0)
    }

    /// Reads stderr into private memory, gives the log its copy and sends the rest of the way.
    pub(super) fn send_logged_stderr(&mut self) -> Result<bool, Stop> {
        let Some(room) = self.room()? else { return Ok(false) };
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

    pub(super) fn send_eof(&mut self, kind: Kind) -> Result<bool, Stop> {
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
    pub(super) fn is_last_word(&self) -> bool {
        let silent = !self.outgoing.is_open(Kind::Stdout) && !self.outgoing.is_open(Kind::Stderr);
        let ended = match &self.child {
            Some(_) => self.outcome.local.is_some(),
            None => self.in_ended || !self.sink.is_open(),
        };
        silent && ended && !self.outgoing.exit_sent()
    }

    pub(super) fn send_exit_code(&mut self) -> Result<bool, Stop> {
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
}
