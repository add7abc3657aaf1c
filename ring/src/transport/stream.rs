#![forbid(unsafe_code)]
//! Upstream's test double, `vchan-socket`: the vchan stream on a plain unix socket.
//!
//! No memory is shared with the peer. So that the pump is the same, both rings are private memory of this process.
//! Inside the calls that elsewhere ring and answer the doorbell, bytes move between ring and socket, by `sendmsg` and
//! `recvmsg` on ring pages. There is no thread, and this process copies nothing.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::channel::{Channel, announce_client, halves, initialise};
use crate::consumer::Consumer;
use crate::error::Error;
use crate::layout::{CLOSED, Orders, Sizes};
use crate::link::Bell;
use crate::page::{Page, Side};
use crate::producer::Producer;
use crate::region::Region;
use crate::spans::{Access, Spans};

/// Staging of a connecting client, which cannot know what size its server asked for.
const CLIENT_STAGING: usize = 128 << 10;

/// Orders of the staging rings of a connecting client.
pub(super) fn client_orders() -> Result<Orders, Error> {
    Orders::choose(Sizes::both(CLIENT_STAGING))
}

/// A channel over a connected, non-blocking stream.
///
/// The channel plays the client of the private page, whatever its role toward the peer; the staging
/// end plays the server. So *left* is what we send: a server passes its orders swapped.
pub(super) fn channel(socket: OwnedFd, orders: Orders) -> Result<Channel, Error> {
    let region = Arc::new(Region::private(orders)?);
    initialise(&region);
    announce_client(&region);
    let (fill, drain) = halves(&region, Side::Server);
    let staging = Staging { socket, region: region.clone(), fill, drain, blocked: false, cut: false };
    Ok(Channel::new(region, Side::Client, Box::new(staging)))
}

struct Staging {
    socket: OwnedFd,
    region: Arc<Region>,
    /// What arrives goes in here.
    fill: Producer,
    /// What leaves comes from here.
    drain: Consumer,
    /// The socket took less than there was.
    blocked: bool,
    /// The peer reads no more; it may still have written something.
    cut: bool,
}

impl Staging {
    /// Moves staged bytes into the socket until it takes no more.
    fn push(&mut self) -> Result<(), Error> {
        self.blocked = false;
        loop {
            let ready = self.drain.ready()?;
            if ready == 0 || self.cut {
                return Ok(());
            }
            let mut spans = Spans::new();
            self.drain.spans(0, ready, &mut spans);
            match spans.drain_to(self.socket.as_fd(), Access::Socket) {
                Ok(n) => self.drain.release(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    return Ok(());
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if gone(&e) => {
                    self.cut = true;
                    return Ok(());
                }
                Err(e) => return Err(Error::io("writing to the vchan socket")(e)),
            }
        }
    }

    /// Moves what has arrived into the ring. `false`: the stream has ended.
    fn pull(&mut self) -> Result<bool, Error> {
        loop {
            let room = self.fill.room()?;
            if room == 0 {
                return Ok(true);
            }
            let mut spans = Spans::new();
            self.fill.spans(0, room, &mut spans);
            match spans.fill_from(self.socket.as_fd(), Access::Socket) {
                Ok(0) => return Ok(false),
                Ok(n) => {
                    self.fill.commit(n);
                    if n < room {
                        return Ok(true);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if gone(&e) => return Ok(false),
                Err(e) => return Err(Error::io("reading from the vchan socket")(e)),
            }
        }
    }
}

impl Bell for Staging {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn ring(&mut self) -> Result<bool, Error> {
        self.push()?;
        // There is no half-close: a peer that reads no more is gone, though it may have left bytes.
        Ok(!self.cut)
    }

    fn acknowledge(&mut self) -> Result<bool, Error> {
        let open = self.pull()?;
        if !open {
            self.region.set_flag(Side::Server.own_live(), CLOSED);
        }
        Ok(open)
    }

    fn is_stream(&self) -> bool {
        true
    }

    fn wants_in(&mut self) -> bool {
        // Nobody else writes this private page, so its indices cannot be wrong.
        self.fill.room().is_ok_and(|room| room > 0)
    }

    fn wants_out(&self) -> bool {
        self.blocked && !self.cut
    }
}

/// Whether the error means that the peer is gone, which is the end of a stream and not a failure.
fn gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected
    )
}
