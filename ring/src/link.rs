#![forbid(unsafe_code)]
//! What the two halves of a connection share: the doorbell, the notify protocol, and whether the peer is there.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use crate::consumer::Consumer;
use crate::error::Error;
use crate::layout::{CLOSED, NOTIFY_READ, NOTIFY_WRITE};
use crate::page::{self, Page, Side};
use crate::producer::Producer;
use crate::region::Region;

/// What differs by transport. Called only to wake the peer and to be woken, never per byte.
pub(crate) trait Bell: Send {
    /// The descriptor to poll.
    fn fd(&self) -> BorrowedFd<'_>;
    /// Wakes the peer (shm), or moves staged bytes out (stream). `Ok(false)`: the peer is gone.
    fn ring(&mut self) -> Result<bool, Error>;
    /// Answers the doorbell (shm), or moves arrived bytes in (stream). `Ok(false)`: the peer is gone.
    fn acknowledge(&mut self) -> Result<bool, Error>;
    /// Whether the peer is behind a stream: then each flush moves bytes, whether the peer asked for them or not.
    fn is_stream(&self) -> bool;
    /// Whether the kernel may keep ring pages beyond a transfer: not where unmapping them would have to wait for it.
    fn lends(&self) -> bool {
        false
    }
    /// Whether the peer runs on processors of its own.
    fn is_far(&self) -> bool {
        false
    }
    /// Whether the descriptor should be polled for input (a full staging ring can take none).
    fn wants_in(&mut self) -> bool;
    /// Whether the descriptor should be polled for output.
    fn wants_out(&self) -> bool;
    /// Opens whatever may be needed later: nothing can be opened afterwards.
    fn settle(&mut self) -> Result<Habits, Error> {
        Ok(Habits::default())
    }
}

/// Which system calls a channel makes as long as it lives, besides reading, writing and polling what is open.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Habits {
    /// It changes an epoll instance and sets timers.
    pub watches: bool,
    /// The ioctl requests that it makes.
    pub ioctls: &'static [u32],
    /// A library of others is used, whose system calls are not known.
    pub unknown: bool,
}

/// How often memory is looked at in place of one look that makes system calls: some microseconds together. A guest's
/// system calls are slow where the hypervisor takes part in them.
const GLANCES: u32 = 1024;
const GLANCES_TO_A_PAUSE: u32 = 16;

/// Counts, for one channel, of the events that cost time.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counters {
    /// Doorbells rung.
    pub rings: u64,
    /// Times the doorbell was answered.
    pub wakes: u64,
    /// Flushes after which nobody had to be woken.
    pub spared: u64,
    /// Bytes copied between rings and memory by this process, without those that the kernel moves.
    pub copied: u64,
}

/// One connection without its rings. Dropping it closes the connection; what was written before can still be read.
///
/// [`crate::Channel::split`] gives one, with the [`Producer`] and the [`Consumer`] that belong to it. Its methods take the
/// half or halves that they are about.
pub struct Link {
    region: Arc<Region>,
    side: Side,
    bell: Box<dyn Bell>,
    alive: bool,
    /// The peer's live byte said once that it is closed; what it writes there later changes nothing.
    closed: Cell<bool>,
    counters: Counters,
}

impl Link {
    pub(crate) fn new(region: Arc<Region>, side: Side, bell: Box<dyn Bell>) -> Link {
        Link { region, side, bell, alive: true, closed: Cell::new(false), counters: Counters::default() }
    }

    /// Counts so far.
    pub fn counters(&self) -> Counters {
        Counters { copied: self.region.copied(), ..self.counters }
    }

    /// Whether the receiving ring's pages may be lent ([`crate::Spans::lend_to`]); memory between processes may, another
    /// domain's never.
    pub fn lends(&self) -> bool {
        self.bell.lends() && !self.region.is_foreign()
    }

    /// Opens what the channel may need later, for a process that will be able to open nothing. Returns the system
    /// calls that it makes from then on.
    ///
    /// # Errors
    /// Something could not be opened.
    pub fn settle(&mut self) -> Result<Habits, Error> {
        self.bell.settle()
    }

    /// Processes that this one forks from now on do not see the pages.
    ///
    /// # Errors
    /// The kernel's.
    pub fn keep_from_children(&self) -> Result<(), Error> {
        self.region.keep_from_children()
    }

    /// Bytes that can be read now. A stream is asked for more when there are none.
    pub fn readable(&mut self, rx: &mut Consumer) -> Result<usize, Error> {
        let ready = rx.ready()?;
        // Once the end was seen, or a write has failed, only a read tells what is left.
        if !self.bell.is_stream() || (ready > 0 && self.alive) {
            return Ok(ready);
        }
        self.alive &= self.bell.acknowledge()?;
        Ok(rx.ready()?)
    }

    /// Bytes that can be written now; an error once the peer is gone.
    pub fn writable(&mut self, tx: &mut Producer) -> Result<usize, Error> {
        if !self.is_open() {
            return Err(Error::Closed);
        }
        let room = tx.room()?;
        if room < tx.size() && self.bell.is_stream() {
            self.ring()?;
            return Ok(tx.room()?);
        }
        Ok(room)
    }

    /// Rings for everything committed and given back so far, if the peer waits for it.
    pub fn flush(&mut self, tx: &mut Producer, rx: &mut Consumer) -> Result<(), Error> {
        let data = if tx.flushed() { NOTIFY_WRITE } else { 0 };
        let room = if rx.flushed() { NOTIFY_READ } else { 0 };
        self.flush_bits(data | room)
    }

    /// Rings for committed data only.
    pub fn flush_data(&mut self, tx: &mut Producer) -> Result<(), Error> {
        self.flush_bits(if tx.flushed() { NOTIFY_WRITE } else { 0 })
    }

    /// Rings for room only.
    pub fn flush_room(&mut self, rx: &mut Consumer) -> Result<(), Error> {
        self.flush_bits(if rx.flushed() { NOTIFY_READ } else { 0 })
    }

    fn flush_bits(&mut self, bits: u8) -> Result<(), Error> {
        if self.bell.is_stream() {
            if bits & NOTIFY_WRITE != 0 || self.bell.wants_out() {
                self.ring()?;
            }
        } else if bits != 0 {
            if page::must_ring(&*self.region, self.side, bits) {
                self.ring()?;
            } else {
                self.counters.spared += 1;
            }
        }
        Ok(())
    }

    fn ring(&mut self) -> Result<(), Error> {
        self.counters.rings += 1;
        if !self.bell.ring()? {
            self.alive = false;
        }
        Ok(())
    }

    /// To be called before sleeping: flushes, asks to be woken for data beyond the `data` bytes that are there already
    /// (`None`: not wanted) and for at least `room` bytes of room (0: not wanted), and looks again. Because of `data`,
    /// a peer that leaves half a header in the ring does not keep this side awake.
    ///
    /// `true`: what was asked for is already there, or the peer is gone; do not sleep.
    pub fn arm_for(
        &mut self,
        tx: &mut Producer,
        rx: &mut Consumer,
        data: Option<usize>,
        room: usize,
    ) -> Result<bool, Error> {
        self.flush(tx, rx)?;
        let bits = if data.is_some() { NOTIFY_WRITE } else { 0 } | if room > 0 { NOTIFY_READ } else { 0 };
        page::arm(&*self.region, self.side, bits, || self.is_there(tx, rx, data, room))
    }

    /// Whether there is data beyond the `data` bytes that are known, or at least `room` bytes of room, or no peer any
    /// more: what [`Link::arm_for`] looks for, without asking to be woken.
    pub fn is_there(
        &self,
        tx: &mut Producer,
        rx: &mut Consumer,
        data: Option<usize>,
        room: usize,
    ) -> Result<bool, Error> {
        let has_data = match data {
            Some(have) => rx.ready()? > have,
            None => false,
        };
        let has_room = room > 0 && tx.room()? >= room.min(tx.size());
        Ok(has_data || has_room || !self.is_open())
    }

    /// As [`Link::is_there`], looking many times if the peer runs on processors of its own: a look at memory needs no
    /// system call, while a sleep costs each side one.
    pub fn is_coming(
        &self,
        tx: &mut Producer,
        rx: &mut Consumer,
        data: Option<usize>,
        room: usize,
    ) -> Result<bool, Error> {
        for glance in 0..if self.bell.is_far() { GLANCES } else { 0 } {
            if self.is_there(tx, rx, data, room)? {
                return Ok(true);
            }
            if glance % GLANCES_TO_A_PAUSE == 0 {
                std::hint::spin_loop();
            }
        }
        self.is_there(tx, rx, data, room)
    }

    /// Whether the peer is in another domain, which runs on processors of its own.
    pub fn is_far(&self) -> bool {
        self.bell.is_far()
    }

    /// After the descriptor was ready: answers the doorbell. Never blocks.
    pub fn on_ready(&mut self) -> Result<(), Error> {
        self.counters.wakes += 1;
        if self.alive && !self.bell.acknowledge()? {
            self.alive = false;
        }
        if self.bell.wants_out() {
            self.ring()?;
        }
        Ok(())
    }

    /// Whether to poll the descriptor for input.
    pub fn wants_in(&mut self) -> bool {
        self.alive && self.bell.wants_in()
    }

    /// Whether to poll the descriptor for output.
    pub fn wants_out(&self) -> bool {
        self.alive && self.bell.wants_out()
    }

    /// Whether closing now would lose nothing that was written: always on shared memory, where the peer reads it in place
    /// even after we are gone, and once the peer is gone.
    ///
    /// A stream that is not drained needs a flush, or [`Link::on_ready`] when it takes output.
    pub fn drained(&self, tx: &Producer) -> bool {
        let unpushed = self.bell.is_stream() && tx.unflushed() > 0;
        !self.alive || !(unpushed || self.bell.wants_out())
    }

    /// Whether the peer is still there: once false, always false. Data it left behind may remain
    /// readable after it is gone.
    pub fn is_open(&self) -> bool {
        if !self.closed.get() && self.region.flag(self.side.other().own_live()) == CLOSED {
            self.closed.set(true);
        }
        self.alive && !self.closed.get()
    }

    /// Whether the peer is behind a stream; else it shares memory with this side.
    pub fn is_stream(&self) -> bool {
        self.bell.is_stream()
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.fd()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Only a peer that is gone cannot be told, and then nobody needs to be.
        self.region.set_flag(self.side.own_live(), CLOSED);
        self.region.fence();
        let _ = self.bell.ring();
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("side", &self.side).field("region", &self.region).finish_non_exhaustive()
    }
}
