#![forbid(unsafe_code)]
//! The embedded default: page 0 and rings in a sealed memfd, one byte on a unix socket as the doorbell.
//!
//! The server's first message carries [`MAGIC`], [`VERSION`], both orders and the memfd. From then on each byte in
//! either direction says "look", and the end of the stream says "the peer has ended". The doorbell is a socket and not
//! an eventfd, because both sides would share the eventfd's description: a peer could make it blocking and fill it,
//! and ringing would hang.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{self, MemfdFlags, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recv, recvmsg, send, sendmsg,
};
use rustix::process::{Resource, getrlimit};

use crate::channel::{Channel, announce_client, initialise};
use crate::error::Error;
use crate::layout::{Orders, Sizes};
use crate::link::Bell;
use crate::page::Side;
use crate::region::Region;

/// First bytes of the offer: "qrxs" in memory order.
const MAGIC: u32 = u32::from_le_bytes(*b"qrxs");
/// Version of the meeting, not of qrexec.
const VERSION: u32 = 1;
/// `magic: u32, version: u32, left_order: u16, right_order: u16`, little-endian.
const OFFER: usize = 12;
/// Bytes that are read from the doorbell at once: more than a socket holds of a peer that rings for each of its
/// writes.
const ANSWER: usize = 16 << 10;
/// The memfd can neither shrink nor grow nor be unsealed, so no access to it can fault. The peer can punch holes into
/// it, which read as zeroes; it could as well have written zeroes.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Seals under which the pages could not be mapped for writing.
const READ_ONLY: SealFlags = SealFlags::WRITE.union(SealFlags::FUTURE_WRITE);

/// A server's pages, made before the client comes.
pub(super) struct Offer {
    orders: Orders,
    memfd: OwnedFd,
    region: Arc<Region>,
}

/// The largest rings, `best` bytes each way at most and `minimum` at least, that a file may hold here. To the kernel
/// shared memory is a file, and one beyond the limit (`ulimit -f`) would end this process by `SIGXFSZ`.
pub(super) fn size_within_limits(minimum: usize, best: usize) -> Result<usize, Error> {
    largest_within(file_limit(), minimum, best)
}

fn largest_within(limit: u64, minimum: usize, best: usize) -> Result<usize, Error> {
    let halves = std::iter::successors(Some(best), |size| Some(size / 2));
    for size in halves.take_while(|size| *size >= minimum.max(1)) {
        if Orders::choose(Sizes::both(size))?.region_bytes() as u64 <= limit {
            return Ok(size);
        }
    }
    Ok(minimum)
}

/// Bytes that a file may have.
fn file_limit() -> u64 {
    getrlimit(Resource::Fsize).current.unwrap_or(u64::MAX)
}

impl Offer {
    pub(super) fn new(orders: Orders) -> Result<Offer, Error> {
        if orders.region_bytes() as u64 > file_limit() {
            let making =
                format!("making {} bytes of vchan pages, more than \"ulimit -f\"", orders.region_bytes());
            return Err(Error::io(making)(Errno::FBIG.into()));
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memfd = fs::memfd_create("vchan", flags)
            .and_then(|fd| {
                fs::ftruncate(&fd, orders.region_bytes() as u64)?;
                fs::fcntl_add_seals(&fd, SEALS)?;
                Ok(fd)
            })
            .map_err(|e| Error::io("making the vchan pages")(e.into()))?;
        let region = Arc::new(Region::map(memfd.as_fd(), orders)?);
        initialise(&region);
        Ok(Offer { orders, memfd, region })
    }

    /// Hands the pages to the client at `socket`.
    pub(super) fn give(&mut self, socket: OwnedFd) -> io::Result<Channel> {
        let mut message = [0u8; OFFER];
        message[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        message[4..8].copy_from_slice(&VERSION.to_le_bytes());
        message[8..10].copy_from_slice(&self.orders.left.get().to_le_bytes());
        message[10..12].copy_from_slice(&self.orders.right.get().to_le_bytes());
        let fds = [self.memfd.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let sent = sendmsg(&socket, &[io::IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL)?;
        if sent != OFFER {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(Channel::new(self.region.clone(), Side::Server, Box::new(Doorbell(socket))))
    }
}

/// Why there are no pages, or not yet.
pub(super) enum Refusal {
    /// The offer has not arrived.
    NotYet,
    /// The server left without an offer.
    Gone,
    /// The offer is not acceptable.
    Bad(&'static str),
    /// A system call of this process failed.
    Failed(Error),
}

/// Receives and checks the server's offer. Never blocks.
pub(super) fn receive(socket: &OwnedFd) -> Result<Arc<Region>, Refusal> {
    let mut message = [0u8; OFFER];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let got = match recvmsg(socket, &mut [io::IoSliceMut::new(&mut message)], &mut control, flags) {
        Ok(got) => got,
        Err(Errno::AGAIN | Errno::INTR) => return Err(Refusal::NotYet),
        Err(_) => return Err(Refusal::Gone),
    };
    let mut fds = Vec::new();
    for ancillary in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = ancillary {
            fds.extend(received);
        }
    }
    if got.bytes == 0 {
        return Err(Refusal::Gone);
    }
    if got.flags.contains(ReturnFlags::CTRUNC) && fds.is_empty() {
        // The kernel had no place for the descriptor in this process, for which the peer is not to blame.
        return Err(Refusal::Failed(Error::io("receiving the vchan pages")(Errno::MFILE.into())));
    }
    if got.bytes != OFFER || got.flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC) {
        return Err(Refusal::Bad("its offer is not 12 bytes with one descriptor"));
    }
    let orders = parse(&message)?;
    let [memfd] = <[OwnedFd; 1]>::try_from(fds)
        .map_err(|_| Refusal::Bad("its offer does not carry exactly one descriptor"))?;
    check_memfd(&memfd, orders)?;
    Region::map(memfd.as_fd(), orders).map(Arc::new).map_err(Refusal::Failed)
}

fn parse(message: &[u8; OFFER]) -> Result<Orders, Refusal> {
    let [m0, m1, m2, m3, v0, v1, v2, v3, l0, l1, r0, r1] = *message;
    if u32::from_le_bytes([m0, m1, m2, m3]) != MAGIC {
        return Err(Refusal::Bad("its offer does not begin with the magic"));
    }
    if u32::from_le_bytes([v0, v1, v2, v3]) != VERSION {
        return Err(Refusal::Bad("its offer is of another version"));
    }
    Orders::validate(u16::from_le_bytes([l0, l1]), u16::from_le_bytes([r0, r1]))
        .map_err(|_| Refusal::Bad("its ring orders are impossible"))
}

/// Without these seals and this very size an access could fault, and end this process.
fn check_memfd(memfd: &OwnedFd, orders: Orders) -> Result<(), Refusal> {
    let seals = fs::fcntl_get_seals(memfd).map_err(|_| Refusal::Bad("its pages are not a memfd"))?;
    if !seals.contains(SEALS) {
        return Err(Refusal::Bad("its memfd is not sealed"));
    }
    let mode = fs::fcntl_getfl(memfd).map_err(|_| Refusal::Bad("its memfd cannot be examined"))?;
    if seals.intersects(READ_ONLY) || mode & OFlags::RWMODE != OFlags::RDWR {
        return Err(Refusal::Bad("its memfd cannot be written"));
    }
    let stat = fs::fstat(memfd).map_err(|_| Refusal::Bad("its memfd cannot be examined"))?;
    if stat.st_size as u64 != orders.region_bytes() as u64 {
        return Err(Refusal::Bad("its memfd is not of the size that the orders say"));
    }
    Ok(())
}

/// The client's end, announced to the server.
pub(super) fn join(socket: OwnedFd, region: Arc<Region>) -> Channel {
    announce_client(&region);
    let mut bell = Doorbell(socket);
    // If the server is gone already, the first look at the channel says so.
    let _ = bell.ring();
    Channel::new(region, Side::Client, Box::new(bell))
}

/// One byte: look. End of stream: the peer has ended.
struct Doorbell(OwnedFd);

impl Bell for Doorbell {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn ring(&mut self) -> Result<bool, Error> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::io::retry_on_intr(|| send(&self.0, b"!", flags)) {
            // A full queue of wake-ups wakes as well as one more would.
            Ok(_) | Err(Errno::AGAIN) => Ok(true),
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Ok(false),
            Err(error) => Err(Error::io("ringing the doorbell")(error.into())),
        }
    }

    fn acknowledge(&mut self) -> Result<bool, Error> {
        // Everything that was rung so far is answered at once. What the bytes are does not matter.
        let mut bytes = [MaybeUninit::<u8>::uninit(); ANSWER];
        match recv(&self.0, &mut bytes[..], RecvFlags::DONTWAIT) {
            Ok((_, 0)) | Err(Errno::CONNRESET | Errno::NOTCONN) => Ok(false),
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(true),
            Err(error) => Err(Error::io("answering the doorbell")(error.into())),
        }
    }

    fn is_stream(&self) -> bool {
        false
    }

    fn lends(&self) -> bool {
        true
    }

    fn wants_in(&mut self) -> bool {
        true
    }

    fn wants_out(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_fit_the_limit_as_far_as_the_minimum_lets_them() {
        let size = |limit, minimum| largest_within(limit, minimum, (1 << 20).max(minimum)).unwrap();
        assert_eq!(size(u64::MAX, 0), 1 << 20);
        assert_eq!(size(4096 + (2 << 20), 0), 1 << 20);
        assert_eq!(size(4095 + (2 << 20), 0), 1 << 19);
        assert_eq!(size(10 << 10, 0), 2048);
        assert_eq!(size(4096, 0), 1024);
        // Such a size is refused when the rings are made, not here.
        assert_eq!(size(100 << 10, 65_536), 65_536);
    }
}
