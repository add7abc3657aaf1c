//! A raw peer of the `shm` transport, which keeps the meeting protocol only as far as a test wants.
//!
//! It changes the shared pages through `pread` and `pwrite` on the memfd, which holds the same pages.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use ring::layout::offset;
use ring::{Channel, Kind, Orders, Sizes};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, fallocate};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use crate::common::{Bed, LOST};

/// Seals of an honest server.
pub(crate) const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// An offer's twelve bytes.
pub(crate) fn offer(magic: &[u8; 4], version: u32, left: u16, right: u16) -> Vec<u8> {
    [&magic[..], &version.to_le_bytes(), &left.to_le_bytes(), &right.to_le_bytes()].concat()
}

/// A memfd of any size under any seals.
pub(crate) fn memfd(bytes: u64, seals: SealFlags) -> OwnedFd {
    let fd = rustix::fs::memfd_create("hostile", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&fd, bytes).unwrap();
    rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
    fd
}

/// Sends bytes with descriptors attached. Never blocks; what does not fit is not sent.
pub(crate) fn send_with(socket: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_ok()
}

/// The hostile end of a channel that has been met.
pub(crate) struct Raw {
    pub(crate) socket: UnixStream,
    pub(crate) memfd: OwnedFd,
    pub(crate) orders: Orders,
    /// Whether it plays the client.
    pub(crate) client: bool,
}

impl Raw {
    /// Joins an honest server as its client: `(honest server, hostile client)`.
    pub(crate) fn client(bed: &Bed, port: u32, min: Sizes) -> (Channel, Raw) {
        let listener = bed.listen(port, min);
        let socket = UnixStream::connect(bed.socket(port).unwrap()).unwrap();
        let server = listener.accept_within(LOST).unwrap();
        let mut message = [0; 64];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let iov = &mut [std::io::IoSliceMut::new(&mut message)];
        let got = recvmsg(&socket, iov, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        let fds: Vec<OwnedFd> = control
            .drain()
            .flat_map(|m| match m {
                RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
                _ => Vec::new(),
            })
            .collect();
        let [memfd] = <[OwnedFd; 1]>::try_from(fds).expect("one descriptor");
        assert_eq!(got.bytes, 12);
        let orders = Orders::choose(min).unwrap();
        assert_eq!(message[..12], offer(b"qrxs", 1, orders.left.get(), orders.right.get()));
        (server, Raw { socket, memfd, orders, client: true })
    }

    /// Serves an honest client: `(hostile server, honest client)`.
    pub(crate) fn server(bed: &Bed, port: u32, min: Sizes) -> (Raw, Channel) {
        assert_eq!(bed.kind(), Kind::Shm);
        let path = bed.socket(port).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        let mut connector = bed.connect(port);
        assert!(connector.poll().unwrap().is_none());
        let (socket, _) = listener.accept().unwrap();
        let orders = Orders::choose(min).unwrap();
        let memfd = memfd(orders.region_bytes() as u64, SEALS);
        let raw = Raw { socket, memfd, orders, client: false };
        raw.poke(offset::CLI_LIVE, &[2, 1, 1, 0]);
        let offer = offer(b"qrxs", 1, orders.left.get(), orders.right.get());
        assert!(send_with(&raw.socket, &offer, &[raw.memfd.as_fd()]));
        let channel = connector.connect_within(LOST).unwrap();
        std::fs::remove_file(path).unwrap();
        (raw, channel)
    }

    /// Writes into the shared pages.
    pub(crate) fn poke(&self, at: usize, bytes: &[u8]) {
        assert_eq!(rustix::io::pwrite(&self.memfd, bytes, at as u64).unwrap(), bytes.len());
    }

    /// Reads from the shared pages.
    pub(crate) fn peek<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        assert_eq!(rustix::io::pread(&self.memfd, &mut bytes, at as u64).unwrap(), N);
        bytes
    }

    /// Rings, if that is possible without waiting.
    pub(crate) fn ring(&self) -> bool {
        send_with(&self.socket, b"!", &[])
    }

    /// Punches everything out of the pages: they read as zeroes from now on.
    pub(crate) fn punch(&self) {
        let what = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.memfd, what, 0, self.orders.region_bytes() as u64).unwrap();
    }

    /// Where its own producer index, consumer index, live byte and requests to the other side are.
    pub(crate) fn own(&self) -> Own {
        match self.client {
            true => Own {
                prod: offset::LEFT_PROD,
                cons: offset::RIGHT_CONS,
                live: offset::CLI_LIVE,
                asks: offset::SRV_NOTIFY,
            },
            false => Own {
                prod: offset::RIGHT_PROD,
                cons: offset::LEFT_CONS,
                live: offset::SRV_LIVE,
                asks: offset::CLI_NOTIFY,
            },
        }
    }
}

/// Offsets of what an honest peer would write.
pub(crate) struct Own {
    pub(crate) prod: usize,
    pub(crate) cons: usize,
    pub(crate) live: usize,
    pub(crate) asks: usize,
}
