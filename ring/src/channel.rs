#![forbid(unsafe_code)]
//! Both rings of one connection, the notify protocol between them, and the peer's liveness.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use crate::consumer::{Consumer, RxIndex};
use crate::error::Error;
use crate::layout::{CLOSED, CONNECTED, NOTIFY_READ, NOTIFY_WRITE, WAITING};
use crate::page::{self, Page, Side, Word};
use crate::producer::{Producer, TxIndex};
use crate::region::Region;

/// What differs by transport, at the cold edge: never called per byte, only to wake and to be woken.
pub(crate) trait Bell: Send {
    /// The descriptor to poll.
    fn fd(&self) -> BorrowedFd<'_>;
    /// Wakes the peer (shm), or moves staged bytes out (stream). `Ok(false)`: the peer is gone.
    fn ring(&mut self) -> Result<bool, Error>;
    /// Takes the wake-up (shm), or moves arrived bytes in (stream). `Ok(false)`: the peer is gone.
    fn acknowledge(&mut self) -> Result<bool, Error>;
    /// Whether the peer is behind a stream: then each flush moves bytes, whoever asked.
    fn is_stream(&self) -> bool;
    /// Whether ring pages may be lent to the kernel beyond a transfer: not where unmapping them waits for that.
    fn lends(&self) -> bool {
        false
    }
    /// Whether the peer has processors of its own.
    fn is_far(&self) -> bool {
        false
    }
    /// Whether the descriptor should be polled for input (a full staging ring can take none).
    fn wants_in(&mut self) -> bool;
    /// Whether the descriptor should be polled for output.
    fn wants_out(&self) -> bool;
    /// Opens whatever may be needed later: nothing can be opened from now on.
    fn settle(&mut self) -> Result<Habits, Error> {
        Ok(Habits::default())
    }
}

/// What a channel asks of the kernel as long as it lives, besides reading, writing and polling what is open.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Habits {
    /// It has an epoll instance and timers.
    pub watches: bool,
    /// Requests to devices.
    pub ioctls: &'static [u32],
    /// A library of others does what it likes.
    pub unknown: bool,
}

/// Looks at memory for one look that costs system calls, some microseconds together. A guest's system calls are dear where
/// the hypervisor has a part in them.
const GLANCES: u32 = 1024;
const GLANCES_TO_A_PAUSE: u32 = 16;

/// Counts of what costs: kept per channel, in events.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counters {
    /// Doorbells rung.
    pub rings: u64,
    /// Times the doorbell was answered.
    pub wakes: u64,
    /// Flushes that found nobody waiting.
    pub spared: u64,
    /// Bytes copied between rings and memory by this process: what the kernel moves is not counted.
    pub copied: u64,
}

/// One vchan connection. Dropping it closes it; what was written before can still be read.
pub struct Channel {
    tx: Producer,
    rx: Consumer,
    region: Arc<Region>,
    side: Side,
    bell: Box<dyn Bell>,
    alive: bool,
    /// The peer's live byte was seen closed; what it writes there later changes nothing.
    closed: Cell<bool>,
    /// `in_flight`-style marks: bytes committed/released at the last flush.
    unflushed_tx: Mark,
    unflushed_rx: Mark,
    counters: Counters,
}

/// Remembers how far a running total was at the last flush.
#[derive(Default)]
struct Mark {
    total: u64,
    flushed: u64,
}

impl Mark {
    fn pending(&self) -> u64 {
        self.total - self.flushed
    }
}

/// The two halves of one side over a region: `(tx, rx)`.
pub(crate) fn halves(region: &Arc<Region>, side: Side) -> (Producer, Consumer) {
    let orders = region.orders();
    let left = (Word::LeftProd, Word::LeftCons, orders.left_offset(), orders.left.bytes() as u32);
    let right = (Word::RightProd, Word::RightCons, orders.right_offset(), orders.right.bytes() as u32);
    let (tx, rx) = match side {
        Side::Client => (left, right),
        Side::Server => (right, left),
    };
    (
        Producer::new(region.clone(), tx.2, TxIndex::new(tx.0, tx.1, tx.3)),
        Consumer::new(region.clone(), rx.2, RxIndex::new(rx.0, rx.1, rx.3)),
    )
}

/// Writes a fresh page 0, as the server does before anyone else sees it.
pub(crate) fn initialise(region: &Region) {
    let orders = region.orders();
    region.copy_in(crate::layout::offset::LEFT_ORDER, &orders.left.get().to_le_bytes());
    region.copy_in(crate::layout::offset::RIGHT_ORDER, &orders.right.get().to_le_bytes());
    region.set_flag(Side::Client.own_live(), WAITING);
    region.set_flag(Side::Server.own_live(), CONNECTED);
    region.set_flag(Side::Client.own_notify(), NOTIFY_WRITE);
}

/// Announces the client on the page: live, and wanting to know of the server's first bytes.
pub(crate) fn announce_client(region: &Region) {
    region.set_flag(Side::Client.own_live(), CONNECTED);
    region.set_bits(Side::Server.own_notify(), NOTIFY_WRITE);
}

impl Channel {
    pub(crate) fn new(region: Arc<Region>, side: Side, bell: Box<dyn Bell>) -> Channel {
        let (tx, rx) = halves(&region, side);
        Channel {
            tx,
            rx,
            region,
            side,
            bell,
            alive: true,
            closed: Cell::new(false),
            unflushed_tx: Mark::default(),
            unflushed_rx: Mark::default(),
            counters: Counters::default(),
        }
    }

    /// The sending half. Commit through [`Channel::commit`], so that the doorbell hears of it.
    pub fn tx(&mut self) -> &mut Producer {
        &mut self.tx
    }

    /// The receiving half. Release through [`Channel::release`], so that the doorbell hears of it.
    pub fn rx(&mut self) -> &mut Consumer {
        &mut self.rx
    }

    /// Size of the receiving ring if its pages may be lent ([`crate::Spans::lend_to`]); memory between processes may, another
    /// domain's never.
    pub fn lendable(&self) -> Option<usize> {
        (self.bell.lends() && !self.region.is_foreign()).then(|| self.rx.size())
    }

    /// Both halves at once.
    pub fn halves(&mut self) -> (&mut Producer, &mut Consumer) {
        (&mut self.tx, &mut self.rx)
    }

    /// Publishes `n` bytes that were put in place; the doorbell waits for [`Channel::flush`].
    pub fn commit(&mut self, n: usize) {
        self.tx.commit(n);
        self.unflushed_tx.total += n as u64;
    }

    /// Steps over `n` bytes and gives them back; the doorbell waits for [`Channel::flush`].
    ///
    /// Nothing may be out on loan ([`Consumer::take`] without [`Channel::give`]).
    pub fn release(&mut self, n: usize) {
        self.rx.take(n);
        self.give(n);
    }

    /// Gives back the first `n` bytes that were taken; the doorbell waits for [`Channel::flush`].
    pub fn give(&mut self, n: usize) {
        self.rx.give(n);
        self.unflushed_rx.total += n as u64;
    }

    /// Bytes committed since the last flush of data.
    pub fn unflushed_data(&self) -> u64 {
        self.unflushed_tx.pending()
    }

    /// Bytes released since the last flush of room.
    pub fn unflushed_room(&self) -> u64 {
        self.unflushed_rx.pending()
    }

    /// Opens what the channel may need later, for a process that will not be able to. What it asks of the kernel from
    /// then on.
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

    /// Counts so far.
    pub fn counters(&self) -> Counters {
        Counters { copied: self.region.copied(), ..self.counters }
    }

    /// Bytes that can be read now. A stream is asked for more when there are none.
    pub fn readable(&mut self) -> Result<usize, Error> {
        let ready = self.rx.ready()?;
        // Once the end was seen, or a write failed, nothing but reading tells what is left.
        if !self.bell.is_stream() || (ready > 0 && self.alive) {
            return Ok(ready);
        }
        self.alive &= self.bell.acknowledge()?;
        Ok(self.rx.ready()?)
    }

    /// Bytes that can be written now; an error once the peer is gone.
    pub fn writable(&mut self) -> Result<usize, Error> {
        if !self.is_open() {
            return Err(Error::Closed);
        }
        let room = self.tx.room()?;
        if room < self.tx.size() && self.bell.is_stream() {
            self.ring()?;
            return Ok(self.tx.room()?);
        }
        Ok(room)
    }

    /// Copies out what is there, up to `buf.len()` bytes. `Ok(0)`: nothing now; see [`Channel::is_open`].
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        let n = self.readable()?.min(buf.len());
        self.rx.get(0, &mut buf[..n]);
        self.release(n);
        Ok(n)
    }

    /// Copies in what fits, up to `buf.len()` bytes, and publishes it. `Ok(0)`: no room now.
    pub fn write(&mut self, buf: &[u8]) -> Result<usize, Error> {
        let n = self.writable()?.min(buf.len());
        self.tx.put(0, &buf[..n]);
        self.commit(n);
        Ok(n)
    }

    /// Rings for everything committed and released so far, if the peer waits for it.
    pub fn flush(&mut self) -> Result<(), Error> {
        let data = if self.unflushed_tx.pending() > 0 { NOTIFY_WRITE } else { 0 };
        let room = if self.unflushed_rx.pending() > 0 { NOTIFY_READ } else { 0 };
        self.flush_bits(data | room)
    }

    /// Rings for committed data only.
    pub fn flush_data(&mut self) -> Result<(), Error> {
        self.flush_bits(if self.unflushed_tx.pending() > 0 { NOTIFY_WRITE } else { 0 })
    }

    /// Rings for released room only.
    pub fn flush_room(&mut self) -> Result<(), Error> {
        self.flush_bits(if self.unflushed_rx.pending() > 0 { NOTIFY_READ } else { 0 })
    }

    fn flush_bits(&mut self, bits: u8) -> Result<(), Error> {
        if bits & NOTIFY_WRITE != 0 {
            self.unflushed_tx.flushed = self.unflushed_tx.total;
        }
        if bits & NOTIFY_READ != 0 {
            self.unflushed_rx.flushed = self.unflushed_rx.total;
        }
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

    /// Before sleeping: flushes, asks to be woken for data and/or room, looks again.
    /// `true`: what was asked for is already there, or the peer is gone; do not sleep.
    pub fn arm(&mut self, data: bool, room: bool) -> Result<bool, Error> {
        self.arm_for(data.then_some(0), usize::from(room))
    }

    /// As [`Channel::arm`], for data beyond the `data` bytes that are there already (`None`: not wanted),
    /// and for at least `room` bytes of room (0: not wanted). A peer that leaves half a header in the
    /// ring so cannot keep us awake.
    pub fn arm_for(&mut self, data: Option<usize>, room: usize) -> Result<bool, Error> {
        self.flush()?;
        let bits = if data.is_some() { NOTIFY_WRITE } else { 0 } | if room > 0 { NOTIFY_READ } else { 0 };
        let (region, side) = (self.region.clone(), self.side);
        page::arm(&*region, side, bits, || self.is_there(data, room))
    }

    /// Whether there is data beyond the `data` bytes that are known, or at least `room` bytes of room, or no peer any
    /// more: what [`Channel::arm_for`] looks for, without asking to be woken.
    pub fn is_there(&mut self, data: Option<usize>, room: usize) -> Result<bool, Error> {
        let has_data = match data {
            Some(have) => self.rx.ready()? > have,
            None => false,
        };
        let has_room = room > 0 && self.tx.room()? >= room.min(self.tx.size());
        Ok(has_data || has_room || !self.is_open())
    }

    /// As [`Channel::is_there`], looking more often if the peer has processors of its own: that costs no system call,
    /// while a sleep costs either side's virtual processor one.
    pub fn is_coming(&mut self, data: Option<usize>, room: usize) -> Result<bool, Error> {
        for glance in 0..if self.bell.is_far() { GLANCES } else { 0 } {
            if self.is_there(data, room)? {
                return Ok(true);
            }
            if glance % GLANCES_TO_A_PAUSE == 0 {
                std::hint::spin_loop();
            }
        }
        self.is_there(data, room)
    }

    /// Whether the peer has processors of its own: another domain.
    pub fn is_far(&self) -> bool {
        self.bell.is_far()
    }

    /// After the descriptor was ready: takes the wake-up. Never blocks.
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

    /// Whether dropping the channel now would lose nothing that was written: always on shared memory,
    /// where the peer reads it in place even after we are gone, and once the peer is gone.
    ///
    /// A stream that is not drained needs a flush, or [`Channel::on_ready`] when it takes output.
    pub fn drained(&self) -> bool {
        let unpushed = self.bell.is_stream() && self.unflushed_tx.pending() > 0;
        !self.alive || !(unpushed || self.bell.wants_out())
    }

    /// Whether the peer is still there: once false, always false. Data it left behind may remain
    /// readable after it is gone; only [`Channel::ended`] tells that there is none.
    pub fn is_open(&self) -> bool {
        if !self.closed.get() && self.region.flag(self.side.other().own_live()) == CLOSED {
            self.closed.set(true);
        }
        self.alive && !self.closed.get()
    }

    /// Whether the peer is gone and all it left has been read.
    ///
    /// The order matters: who finds nothing and then asks whether the peer is open misses what it
    /// wrote and closed in between. The acquire load of its live byte comes before the look at `prod`.
    pub fn ended(&mut self) -> Result<bool, Error> {
        let open = self.is_open();
        Ok(!open && self.readable()? == 0)
    }

    /// Whether the peer shares memory with us, or sits behind a stream.
    pub fn is_stream(&self) -> bool {
        self.bell.is_stream()
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.fd()
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // A peer that is gone cannot be told; there is nobody to report that to either.
        self.region.set_flag(self.side.own_live(), CLOSED);
        self.region.fence();
        let _ = self.bell.ring();
    }
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel")
            .field("side", &self.side)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}
