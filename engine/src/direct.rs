#![forbid(unsafe_code)]
//! The data link of a call whose work is done in the call's own process: a built-in service, or a command that makes
//! its call itself. There is no program and no pipe: bytes are copied once, between the ring and this process's
//! memory.
//!
//! There is one thread. If it finds no data or no room it waits by the same rules as the pump: look a few times, ask
//! to be woken, sleep.

mod client;
mod service;

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ring::{Channel, Spin};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wire::header::{HEADER_LEN, Header};
use wire::stream::{Incoming, Kind, Next, Outgoing, Role};
use wire::version::Version;

use crate::confine::{Confinement, Files, Needs, Place};
use crate::meter::Meter;
use crate::pump::Lost;
pub use client::DirectClient;
pub use service::DirectService;

/// How much error output is taken at once.
const LINE: usize = 4096;

/// What the next bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    /// A header.
    None,
    Main(usize),
    Stderr(usize),
    Exit(usize),
    Skip(usize),
}

/// The result of looking at the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// So many bytes of the main stream are there, at least one.
    Main(usize),
    /// Nothing can be done yet; so many bytes are there, too few to be a header.
    Nothing(usize),
}

/// Both directions of one call.
#[derive(Debug)]
struct Direct {
    channel: Channel,
    version: Version,
    role: Role,
    incoming: Incoming,
    outgoing: Outgoing,
    head: Head,
    /// Error output that has arrived and was not fetched: at most [`LINE`] bytes.
    errors: Vec<u8>,
    spin: Spin,
    bytes_in: u64,
    bytes_out: u64,
    sleeps: u64,
    meter: Option<Meter>,
}

impl Direct {
    fn new(channel: Channel, version: Version, role: Role) -> Self {
        let spin = Spin::new(channel.is_far());
        Self {
            channel,
            version,
            role,
            incoming: Incoming::new(role, version),
            outgoing: Outgoing::new(role, version),
            head: Head::None,
            errors: Vec::new(),
            spin,
            bytes_in: 0,
            bytes_out: 0,
            sleeps: 0,
            meter: None,
        }
    }

    /// Confines this process to the link, and to certain actions on files below these places.
    fn confine(&mut self, how: Confinement, files: Files, places: &[Place<'_>]) -> io::Result<()> {
        if how == Confinement::Off {
            return Ok(());
        }
        // Opens what the link may need later.
        let habits = self.channel.settle().map_err(io::Error::other)?;
        let (watches, ioctls, unknown) = (habits.watches, habits.ioctls, habits.unknown);
        how.close_around(Needs { watches, ioctls, unknown, files, ..Needs::default() }, places)
    }

    /// Processes headers, and everything but the main stream, as far as it has arrived. Stops at error output, which
    /// is to be fetched first.
    fn look(&mut self) -> Result<Seen, Lost> {
        loop {
            let ready = self.channel.readable()?;
            match self.head {
                _ if !self.errors.is_empty() => return Ok(Seen::Nothing(ready)),
                Head::None if ready < HEADER_LEN => return Ok(Seen::Nothing(ready)),
                Head::None => self.header()?,
                Head::Main(_) if ready == 0 => return Ok(Seen::Nothing(0)),
                Head::Main(left) => return Ok(Seen::Main(left.min(ready))),
                Head::Exit(len) if ready < len.min(4) => return Ok(Seen::Nothing(ready)),
                Head::Exit(len) => self.exit(len),
                Head::Stderr(_) | Head::Skip(_) if ready == 0 => return Ok(Seen::Nothing(0)),
                Head::Stderr(left) => {
                    let now = left.min(ready).min(LINE);
                    self.errors.resize(now, 0);
                    self.channel.rx().get(0, &mut self.errors);
                    self.step(now, left, Head::Stderr);
                }
                Head::Skip(left) => self.step(left.min(ready), left, Head::Skip),
            }
        }
    }

    fn header(&mut self) -> Result<(), Lost> {
        let mut bytes = [0; HEADER_LEN];
        self.channel.rx().get(0, &mut bytes);
        self.channel.release(HEADER_LEN);
        let size = |len: u32| usize::try_from(len).unwrap_or(usize::MAX);
        self.head = match self.incoming.on_header(Header::from_bytes(bytes))? {
            Next::Payload { kind: Kind::Stderr, len } => Head::Stderr(size(len)),
            Next::Payload { len, .. } => Head::Main(size(len)),
            Next::Eof(_) | Next::Ignore { len: 0 } => Head::None,
            Next::Ignore { len } => Head::Skip(size(len)),
            Next::ExitCode { len } => Head::Exit(size(len)),
        };
        Ok(())
    }

    fn exit(&mut self, len: usize) {
        let mut bytes = [0; 4];
        let have = len.min(4);
        if let Some(bytes) = bytes.get_mut(..have) {
            self.channel.rx().get(0, bytes);
        }
        self.channel.release(have);
        self.incoming.on_exit_code(bytes.get(..have).unwrap_or_default());
        self.head = if len > have { Head::Skip(len.saturating_sub(have)) } else { Head::None };
    }

    /// Notes that `now` of the `left` bytes were used.
    fn step(&mut self, now: usize, left: usize, rest: fn(usize) -> Head) {
        self.channel.release(now);
        let left = left.saturating_sub(now);
        self.head = if left == 0 { Head::None } else { rest(left) };
    }

    /// Whether the main stream has ended, with nothing left to read.
    fn has_ended(&self) -> bool {
        self.head == Head::None && !self.incoming.is_open(self.role.receives())
    }

    /// Takes bytes of the main stream that have arrived, without waiting.
    fn take(&mut self, buffer: &mut [u8]) -> Result<usize, Lost> {
        let mut taken = 0;
        while let (Some(room), Seen::Main(ready)) =
            (buffer.get_mut(taken..).filter(|room| !room.is_empty()), self.look()?)
        {
            let now = ready.min(room.len());
            if let Some(room) = room.get_mut(..now) {
                self.channel.rx().get(0, room);
            }
            if let Head::Main(left) = self.head {
                self.step(now, left, Head::Main);
            }
            taken = taken.saturating_add(now);
        }
        self.bytes_in = self.bytes_in.saturating_add(taken as u64);
        self.show();
        if self.channel.unflushed_room() >= (self.channel.rx().size() / 2) as u64 {
            self.channel.flush_room()?;
        }
        Ok(taken)
    }

    /// Less room than this is not worth a header, nor being woken for.
    fn useful_room(&mut self, wanted: usize) -> usize {
        (self.channel.tx().size() / 4).min(16 << 10).min(wanted.saturating_add(HEADER_LEN))
    }

    /// Puts as many bytes into the ring as it has room for, without waiting. The other side is told when they are a
    /// good part of the ring, or all.
    fn give(&mut self, kind: Kind, bytes: &[u8]) -> Result<usize, Lost> {
        let useful = self.useful_room(bytes.len());
        let mut room = self.channel.writable()?;
        if room < useful {
            return Ok(0);
        }
        let chunk = usize::try_from(self.outgoing.max_chunk()).unwrap_or(usize::MAX);
        let mut given = 0;
        while let Some(rest) = bytes.get(given..).filter(|rest| !rest.is_empty() && room > HEADER_LEN) {
            let len = rest.len().min(chunk).min(room.saturating_sub(HEADER_LEN));
            let now = rest.get(..len).unwrap_or_default();
            let header = u32::try_from(len).ok().and_then(|len| self.outgoing.header(kind, len).ok());
            let header = header.ok_or(Lost::Closed)?;
            self.channel.tx().put(0, &header.to_bytes());
            self.channel.tx().put(HEADER_LEN, now);
            self.channel.commit(HEADER_LEN.saturating_add(len));
            room = room.saturating_sub(HEADER_LEN.saturating_add(len));
            given = given.saturating_add(len);
        }
        self.bytes_out = self.bytes_out.saturating_add(given as u64);
        self.show();
        if given == bytes.len() || self.channel.unflushed_data() >= (self.channel.tx().size() / 4) as u64 {
            self.channel.flush_data()?;
        }
        Ok(given)
    }

    fn show(&self) {
        self.meter.iter().for_each(|meter| meter.show(self.bytes_in, self.bytes_out));
    }

    /// Ends a stream.
    fn end(&mut self, kind: Kind) -> Result<(), Lost> {
        if !self.outgoing.is_open(kind) {
            return Ok(());
        }
        while self.channel.writable()? < HEADER_LEN {
            self.wait(None, HEADER_LEN, None)?;
        }
        if let Ok(header) = self.outgoing.eof(kind) {
            self.channel.tx().put(0, &header.to_bytes());
            self.channel.commit(HEADER_LEN);
            self.channel.flush_data()?;
        }
        Ok(())
    }

    /// Waits for data beyond `data` bytes, or `room` bytes of room, at most so long. `false`: nothing has come.
    fn wait(&mut self, data: Option<usize>, room: usize, limit: Option<Duration>) -> Result<bool, Lost> {
        let began = Instant::now();
        let still = self.channel.is_open() && !self.channel.is_stream();
        let looks = if still { self.spin.looks(self.bytes_in.saturating_add(self.bytes_out)) } else { 0 };
        if looks > 0 {
            self.channel.flush()?;
        }
        for _ in 0..looks {
            if self.channel.is_coming(data, room)? {
                self.spin.found(began.elapsed());
                return Ok(true);
            }
            rustix::thread::sched_yield();
        }
        if self.channel.arm_for(data, room)? {
            return Ok(true);
        }
        self.sleeps = self.sleeps.saturating_add(1);
        let looked = Instant::now();
        let out = if self.channel.wants_out() { PollFlags::OUT } else { PollFlags::empty() };
        let limit = limit.map(timespec);
        let ready = match poll(&mut [PollFd::new(&self.channel.as_fd(), PollFlags::IN | out)], limit.as_ref())
        {
            Ok(0) => false,
            Ok(_) => {
                self.channel.on_ready()?;
                true
            }
            Err(rustix::io::Errno::INTR) => true,
            Err(error) => return Err(ring::Error::io("waiting for the link")(error.into()).into()),
        };
        let before = looked.saturating_duration_since(began);
        self.spin.slept(looks, before, looked.elapsed());
        Ok(ready)
    }
}

fn timespec(limit: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(limit.subsec_nanos()),
    }
}
