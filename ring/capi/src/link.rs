#![forbid(unsafe_code)]
//! A connected vchan, and what keeps a caller that polls from sleeping through anything.
//!
//! # No lost wake-up
//!
//! A caller checks ([`Link::data_ready`], [`Link::buffer_space`]) and polls the descriptor at any later time. So
//! between any two calls this must hold: *whatever has changed since the caller was last told makes the descriptor
//! readable*.
//!
//! - A check first asks the peer to ring (unless that request still stands) and then reads the indices: the peer rings
//!   for whatever comes later.
//! - A request stands until the doorbell is answered: either the peer has not seen it yet and will, or it has taken it
//!   and rung, and then the descriptor stays readable. So requests are renewed where the doorbell is answered and
//!   nowhere else. That keeps a busy peer from ringing for every piece it writes.
//! - [`Link::wait`] answers the doorbell and asks for data again at once; room the caller must check anew.
//! - A call that blocks answers the doorbell too, without the caller's knowledge. Before it returns, [`Link::settle`]
//!   asks again and compares with what the caller was told: any change makes the descriptor readable (see
//!   `Pollable::kick`).
//!
//! On a stream nothing is asked: its descriptor is readable for as long as something has not been fetched.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use ring::{Channel, Error, Spans};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use sys::reactor::Interest;

use crate::failure::Failure;
use crate::memory::{Source, Target};

/// How long closing waits for a peer that reads nothing, before the bytes it did not read are lost.
const LINGER: Duration = Duration::from_secs(60);

/// How much a transfer moves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Amount {
    /// At least one byte.
    Some,
    /// Everything or nothing.
    All,
}

/// See the module.
pub(crate) struct Link {
    channel: Channel,
    /// Unread bytes that the caller knows of.
    told_data: usize,
    /// Room that the caller knows of, if it ever looked.
    told_room: Option<usize>,
    /// The peer is asked to ring for room.
    asked_room: bool,
    /// The doorbell was answered by a call that the caller made for another reason, or no request was ever made.
    unsettled: bool,
    /// The caller was told by [`Link::wait`] that the peer is gone: the descriptor stays quiet from now on.
    buried: bool,
}

impl Link {
    /// Unsettled from the start: a server may have written before it was asked to ring for that.
    pub(crate) fn new(channel: Channel) -> Link {
        Link { channel, told_data: 0, told_room: None, asked_room: false, unsettled: true, buried: false }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.channel.is_open()
    }

    /// Bytes that can be read at once.
    pub(crate) fn data_ready(&mut self) -> Result<usize, Error> {
        self.told_data = self.channel.readable()?;
        Ok(self.told_data)
    }

    /// Bytes that can be written at once.
    pub(crate) fn buffer_space(&mut self) -> Result<usize, Error> {
        if !self.is_open() {
            return Ok(0);
        }
        let room = self.look_for_room()?;
        self.told_room = Some(room);
        Ok(room)
    }

    /// Copies bytes in: all of them if `blocking`. Else `Ok(0)` if there is no room for that amount.
    pub(crate) fn write(
        &mut self,
        from: &Source<'_>,
        amount: Amount,
        blocking: bool,
    ) -> Result<usize, Failure> {
        let least = least(amount, from.len(), self.channel.tx().size())?;
        let mut done = 0;
        while done < from.len() {
            let room = self.channel.writable()?;
            if room >= least {
                done += self.put(&from.after(done), room.min(from.len() - done))?;
            }
            if !blocking {
                // The caller wrote less than it wanted, or has been told of less room before and may be waiting for
                // more.
                if done < from.len() || self.told_room.is_some() {
                    self.tell_room()?;
                }
                return Ok(done);
            }
            if done < from.len() {
                // Any room will do, not a useful amount: the peer may wait for the very bytes that fill its ring.
                self.sleep(None, least)?;
            }
        }
        Ok(done)
    }

    /// Whether bytes wait for the peer's socket to take them.
    pub(crate) fn has_backlog(&self) -> bool {
        self.channel.is_stream() && self.channel.wants_out()
    }

    /// Moves the waiting bytes, for a caller that does something else.
    pub(crate) fn carry(&mut self) -> Result<(), Failure> {
        self.unsettled = true;
        Ok(self.answer()?)
    }

    /// A caller that could not write all it wanted polls next: so the peer is asked to ring for room, and room that
    /// has appeared since the last check counts as a ring.
    fn tell_room(&mut self) -> Result<(), Error> {
        let before = self.channel.tx().known_room();
        let room = self.look_for_room()?;
        self.unsettled |= room > before;
        self.told_room = Some(before.min(room));
        Ok(())
    }

    fn put(&mut self, from: &Source<'_>, n: usize) -> Result<usize, Error> {
        let mut spans = Spans::new();
        self.channel.tx().spans(0, n, &mut spans);
        from.fill(&spans);
        self.channel.commit(n);
        self.told_room = self.told_room.map(|room| room.saturating_sub(n));
        self.channel.flush()?;
        Ok(n)
    }

    /// Copies bytes out. Without `blocking`, `Ok(0)` if there are not so many.
    pub(crate) fn read(
        &mut self,
        to: &mut Target<'_>,
        amount: Amount,
        blocking: bool,
    ) -> Result<usize, Failure> {
        let least = least(amount, to.len(), self.channel.rx().size())?;
        if least == 0 {
            return Ok(0);
        }
        loop {
            // Whether the peer is there is asked first: what it wrote before it closed is then certain to be seen.
            let open = self.is_open();
            let ready = self.channel.readable()?;
            if ready >= least {
                return Ok(self.take(to, ready.min(to.len()))?);
            }
            if !open {
                return Err(Failure::Closed);
            }
            if !blocking {
                return Ok(0);
            }
            self.sleep(Some(ready), 0)?;
        }
    }

    fn take(&mut self, to: &mut Target<'_>, n: usize) -> Result<usize, Error> {
        let mut spans = Spans::new();
        self.channel.rx().spans(0, n, &mut spans);
        to.drain(&spans);
        self.channel.release(n);
        self.told_data = self.told_data.saturating_sub(n);
        self.channel.flush()?;
        Ok(n)
    }

    /// Answers the doorbell; waits for it first, unless the descriptor was made readable by
    /// [`Pollable::kick`](super::pollable::Pollable::kick) (`kicked`).
    pub(crate) fn wait(&mut self, kicked: bool) -> Result<(), Failure> {
        if self.buried {
            return Err(Failure::Closed);
        }
        if !kicked && self.is_open() && !self.ready_for().is_empty() {
            self.poll(None)?;
        }
        self.answer()?;
        self.ask_data()?;
        self.unsettled = false;
        self.buried = !self.is_open();
        Ok(())
    }

    /// After any call: whether the descriptor must be made readable, so that the caller learns of what came meanwhile.
    pub(crate) fn settle(&mut self) -> Result<bool, Error> {
        if !std::mem::take(&mut self.unsettled) {
            return Ok(false);
        }
        self.ask_data()?;
        let more = self.channel.readable()? > self.told_data;
        if !self.is_open() {
            return Ok(true);
        }
        let wider = match self.told_room {
            Some(told) => self.look_for_room()? > told,
            None => false,
        };
        Ok(more || wider)
    }

    /// What the descriptor should be watched for, toward a caller that polls.
    pub(crate) fn interest(&mut self) -> Option<Interest> {
        if self.buried {
            return None;
        }
        if !self.is_open() {
            return Some(Interest::Read);
        }
        match (self.channel.wants_in(), self.channel.wants_out()) {
            (true, out) => Some(Interest::read_and(out)),
            (false, true) => Some(Interest::Write),
            (false, false) => None,
        }
    }

    /// Before closing: waits until what was written has left this process. On shared memory there is nothing to wait
    /// for.
    pub(crate) fn linger(&mut self) {
        let flushed = self.channel.flush().is_ok();
        while flushed && !self.channel.drained() {
            // Nobody is left to be told of a failure here, and nothing more can be done for the bytes.
            if !self.poll(Some(LINGER)).is_ok_and(|ready| ready) || self.channel.on_ready().is_err() {
                return;
            }
        }
    }

    /// Asks the peer to ring for data. No amount is ever enough to satisfy this request, so it returns at once.
    fn ask_data(&mut self) -> Result<(), Error> {
        if !self.channel.is_stream() {
            self.channel.arm_for(Some(usize::MAX), 0)?;
        }
        Ok(())
    }

    /// Returns the room, having asked the peer to ring for more if there can be more.
    fn look_for_room(&mut self) -> Result<usize, Error> {
        if !self.asked_room && !self.channel.is_stream() {
            self.channel.arm_for(None, usize::MAX)?;
            self.asked_room = true;
        }
        let size = self.channel.tx().size();
        match self.channel.writable() {
            // The peer is not asked about a ring that is entirely free; once something was written, the next check
            // asks.
            Ok(room) => {
                self.asked_room &= room < size;
                Ok(room)
            }
            Err(Error::Closed) => Ok(0),
            Err(other) => Err(other),
        }
    }

    /// Waits until there is more than `data` to read, or `room` to write, or the peer is gone; it may also return
    /// early.
    fn sleep(&mut self, data: Option<usize>, room: usize) -> Result<(), Error> {
        if self.channel.arm_for(data, room)? {
            return Ok(());
        }
        self.poll(None)?;
        self.unsettled = true;
        self.answer()
    }

    fn answer(&mut self) -> Result<(), Error> {
        self.asked_room = false;
        self.channel.on_ready()
    }

    fn ready_for(&mut self) -> PollFlags {
        let mut what = PollFlags::empty();
        what.set(PollFlags::IN, self.channel.wants_in());
        what.set(PollFlags::OUT, self.channel.wants_out());
        what
    }

    /// Waits for the doorbell, or the stream. `false`: `limit` has passed.
    fn poll(&mut self, limit: Option<Duration>) -> Result<bool, Error> {
        let limit = limit.map(|l| Timespec { tv_sec: l.as_secs() as i64, tv_nsec: l.subsec_nanos().into() });
        let what = self.ready_for();
        loop {
            match poll(&mut [PollFd::new(&self.channel, what)], limit.as_ref()) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::io("waiting for the vchan peer")(errno.into())),
            }
        }
    }
}

/// How many bytes must be there at least. More than the ring holds would never be there at once.
fn least(amount: Amount, len: usize, ring: usize) -> Result<usize, Failure> {
    match amount {
        Amount::All if len > ring => Err(Failure::Invalid),
        Amount::All => Ok(len),
        Amount::Some => Ok(len.min(1)),
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}
