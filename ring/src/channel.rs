#![forbid(unsafe_code)]
//! Both rings of one connection and the link that they share.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use crate::consumer::{Consumer, RxIndex};
use crate::error::Error;
use crate::layout::{CONNECTED, NOTIFY_WRITE, WAITING};
use crate::link::{Bell, Counters, Habits, Link};
use crate::page::{Page, Side, Word};
use crate::producer::{Producer, TxIndex};
use crate::region::Region;

/// One vchan connection. Dropping it closes it; what was written before can still be read.
#[derive(Debug)]
pub struct Channel {
    tx: Producer,
    rx: Consumer,
    link: Link,
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

/// Marks the client as connected on the page, and asks the server to ring for its first bytes.
pub(crate) fn announce_client(region: &Region) {
    region.set_flag(Side::Client.own_live(), CONNECTED);
    region.set_bits(Side::Server.own_notify(), NOTIFY_WRITE);
}

impl Channel {
    pub(crate) fn new(region: Arc<Region>, side: Side, bell: Box<dyn Bell>) -> Channel {
        let (tx, rx) = halves(&region, side);
        Channel { tx, rx, link: Link::new(region, side, bell) }
    }

    /// Takes the channel apart, so that each half can have an owner of its own.
    pub fn split(self) -> (Producer, Consumer, Link) {
        (self.tx, self.rx, self.link)
    }

    /// Puts together what [`Channel::split`] took apart.
    pub fn joined(tx: Producer, rx: Consumer, link: Link) -> Channel {
        Channel { tx, rx, link }
    }

    /// The sending half.
    pub fn tx(&mut self) -> &mut Producer {
        &mut self.tx
    }

    /// The receiving half.
    pub fn rx(&mut self) -> &mut Consumer {
        &mut self.rx
    }

    /// Size of the receiving ring if its pages may be lent, see [`Link::lends`].
    pub fn lendable(&self) -> Option<usize> {
        self.link.lends().then(|| self.rx.size())
    }

    /// Publishes `n` bytes that were put in place; the doorbell is rung by [`Channel::flush`].
    pub fn commit(&mut self, n: usize) {
        self.tx.commit(n);
    }

    /// Steps over `n` bytes and gives them back; the doorbell is rung by [`Channel::flush`].
    ///
    /// Nothing may be out on loan ([`Consumer::take`] without [`Consumer::give`]).
    pub fn release(&mut self, n: usize) {
        self.rx.release(n);
    }

    /// Bytes released since the last flush of room.
    pub fn unflushed_room(&self) -> u64 {
        self.rx.unflushed()
    }

    /// Bytes committed since the last flush of data.
    pub fn unflushed_data(&self) -> u64 {
        self.tx.unflushed()
    }

    /// Opens what may be needed later, see [`Link::settle`].
    ///
    /// # Errors
    /// Something could not be opened.
    pub fn settle(&mut self) -> Result<Habits, Error> {
        self.link.settle()
    }

    /// Keeps the pages from child processes, see [`Link::keep_from_children`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn keep_from_children(&self) -> Result<(), Error> {
        self.link.keep_from_children()
    }

    /// Counts so far.
    pub fn counters(&self) -> Counters {
        self.link.counters()
    }

    /// Bytes that can be read now. A stream is asked for more when there are none.
    pub fn readable(&mut self) -> Result<usize, Error> {
        self.link.readable(&mut self.rx)
    }

    /// Bytes that can be written now; an error once the peer is gone.
    pub fn writable(&mut self) -> Result<usize, Error> {
        self.link.writable(&mut self.tx)
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
        self.link.flush(&mut self.tx, &mut self.rx)
    }

    /// Rings for committed data only.
    pub fn flush_data(&mut self) -> Result<(), Error> {
        self.link.flush_data(&mut self.tx)
    }

    /// Rings for released room only.
    pub fn flush_room(&mut self) -> Result<(), Error> {
        self.link.flush_room(&mut self.rx)
    }

    /// Before sleeping: flushes, asks to be woken for data and/or room, looks again.
    /// `true`: what was asked for is already there, or the peer is gone; do not sleep.
    pub fn arm(&mut self, data: bool, room: bool) -> Result<bool, Error> {
        self.arm_for(data.then_some(0), usize::from(room))
    }

    /// As [`Channel::arm`], for so much more than there is, see [`Link::arm_for`].
    pub fn arm_for(&mut self, data: Option<usize>, room: usize) -> Result<bool, Error> {
        self.link.arm_for(&mut self.tx, &mut self.rx, data, room)
    }

    /// What [`Channel::arm_for`] looks for, without asking to be woken, see [`Link::is_coming`].
    pub fn is_coming(&mut self, data: Option<usize>, room: usize) -> Result<bool, Error> {
        self.link.is_coming(&mut self.tx, &mut self.rx, data, room)
    }

    /// Whether the peer is in another domain, which runs on processors of its own.
    pub fn is_far(&self) -> bool {
        self.link.is_far()
    }

    /// After the descriptor was ready: takes the wake-up. Never blocks.
    pub fn on_ready(&mut self) -> Result<(), Error> {
        self.link.on_ready()
    }

    /// Whether to poll the descriptor for input.
    pub fn wants_in(&mut self) -> bool {
        self.link.wants_in()
    }

    /// Whether to poll the descriptor for output.
    pub fn wants_out(&self) -> bool {
        self.link.wants_out()
    }

    /// Whether dropping the channel now would lose nothing that was written, see [`Link::drained`].
    pub fn drained(&self) -> bool {
        self.link.drained(&self.tx)
    }

    /// Whether the peer is still there: once false, always false. Data it left behind may remain
    /// readable after it is gone; only [`Channel::ended`] tells that there is none.
    pub fn is_open(&self) -> bool {
        self.link.is_open()
    }

    /// Whether the peer is gone and all it left has been read.
    ///
    /// The order matters: whoever finds nothing and then asks whether the peer is open misses what it wrote before it
    /// closed in between. The acquire load of its live byte comes before the look at `prod`.
    pub fn ended(&mut self) -> Result<bool, Error> {
        let open = self.is_open();
        Ok(!open && self.readable()? == 0)
    }

    /// Whether the peer shares memory with us, or sits behind a stream.
    pub fn is_stream(&self) -> bool {
        self.link.is_stream()
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }
}
