#![allow(unsafe_code)] // Hands ring addresses to readv/writev/recvmsg/sendmsg.
//! Scatter/gather lists into ring memory, and the system calls that fill and drain them in place.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::region::Region;

/// How a local descriptor is to be read and written without ever blocking the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// `readv`/`writev`: the open file description is non-blocking, or a file that never waits.
    File,
    /// `recvmsg`/`sendmsg` with `MSG_DONTWAIT`: a socket, whatever its flags.
    Socket,
    /// `preadv2`/`pwritev2` with `RWF_NOWAIT`: a pipe in blocking mode. `Unsupported`, and nothing was done, where the
    /// kernel does not know how: before Linux 6.4, and on any description but the one that `pipe(2)` returned.
    Nowait,
}

/// Most pieces in one list: 1 MiB in chunks of 64 KiB, and one more where the ring wraps, need fewer.
pub const MAX_SPANS: usize = 64;

/// A list of ring pieces, opaque and bound to the half it came from: no address leaves this crate
/// except for the kernel's use in one transfer.
pub struct Spans<'a> {
    list: [libc::iovec; MAX_SPANS],
    count: usize,
    bytes: usize,
    /// Some of the pages are another domain's.
    foreign: bool,
    /// Some of it is this process's own memory, which is only read.
    has_own: bool,
    ring: PhantomData<&'a Region>,
}

impl<'a> Spans<'a> {
    /// An empty list.
    pub fn new() -> Spans<'a> {
        const EMPTY: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Spans {
            list: [EMPTY; MAX_SPANS],
            count: 0,
            bytes: 0,
            foreign: false,
            has_own: false,
            ring: PhantomData,
        }
    }

    /// Sum of the pieces.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Appends private memory of this process, for [`Spans::drain_to`] only. `false`: there is no place for it.
    pub fn push_own(&mut self, bytes: &'a [u8]) -> bool {
        if bytes.is_empty() {
            return true;
        }
        let Some(place) = self.list.get_mut(self.count) else { return false };
        *place = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        self.count += 1;
        self.bytes += bytes.len();
        self.has_own = true;
        true
    }

    /// Whether there is private memory in it, which nothing may be read into.
    pub fn has_own(&self) -> bool {
        self.has_own
    }

    pub(crate) fn push(&mut self, region: &'a Region, base: usize, pieces: [(usize, usize); 2]) -> bool {
        let needed = pieces.iter().filter(|(_, len)| *len > 0).count();
        if self.count + needed > MAX_SPANS {
            return false;
        }
        self.foreign |= region.is_foreign();
        for (offset, len) in pieces {
            if len > 0 {
                let base = region.address(base + offset, len).cast();
                self.list[self.count] = libc::iovec { iov_base: base, iov_len: len };
                self.count += 1;
                self.bytes += len;
            }
        }
        true
    }

    /// Reads from `fd` into the pieces. `Ok(0)` is the end of the stream, `WouldBlock` an empty one.
    pub fn fill_from(&self, fd: BorrowedFd<'_>, access: Access) -> io::Result<usize> {
        if self.has_own {
            return Err(io::ErrorKind::Unsupported.into());
        }
        check(match access {
            // SAFETY: `list[..count]` are live ring pieces (`'a` keeps the region mapped) that this side
            // reserved, and no private memory; the kernel writes at most their lengths and keeps nothing after the call.
            Access::File => unsafe { libc::readv(fd.as_raw_fd(), self.list.as_ptr(), self.count as i32) },
            // SAFETY: as above.
            Access::Nowait => unsafe { self.nowait(libc::SYS_preadv2, fd) },
            Access::Socket => {
                let mut msg = self.message();
                // SAFETY: as above; `msg` has no name and no control buffer, so nothing else is written,
                // and descriptors that a peer attaches are dropped by the kernel.
                unsafe {
                    libc::recvmsg(fd.as_raw_fd(), &mut msg, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC)
                }
            }
        })
    }

    /// Writes the pieces to `fd`. A peer that is gone gives `BrokenPipe`, and never a signal on a socket; on a pipe
    /// the process must ignore `SIGPIPE` (Rust programs do).
    pub fn drain_to(&self, fd: BorrowedFd<'_>, access: Access) -> io::Result<usize> {
        check(match access {
            // SAFETY: `list[..count]` are live ring pieces or private bytes (`'a` keeps both); the kernel only
            // reads them. The peer may change them meanwhile: its own stream then carries what it wrote.
            Access::File => unsafe { libc::writev(fd.as_raw_fd(), self.list.as_ptr(), self.count as i32) },
            // SAFETY: as above.
            Access::Nowait => unsafe { self.nowait(libc::SYS_pwritev2, fd) },
            Access::Socket => {
                let msg = self.message();
                // SAFETY: as above, and `msg` has no name and no control data.
                unsafe { libc::sendmsg(fd.as_raw_fd(), &msg, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) }
            }
        })
    }

    /// Lends the pieces to a pipe without copying them, as many as it has places for. Returns how many bytes that
    /// were.
    ///
    /// The pipe then holds the ring's own pages: they must not be given back before its reader has taken
    /// them, and the reader must copy, not pass pages on, or it sees what the next lap of the ring writes. Pages that
    /// another domain granted are refused: see `Region::foreign`.
    pub fn lend_to(&self, pipe: BorrowedFd<'_>) -> io::Result<usize> {
        if self.foreign || self.has_own {
            return Err(io::ErrorKind::Unsupported.into());
        }
        // SAFETY: `list[..count]` are live ring pieces (`'a` keeps the region mapped); the kernel takes references
        // to their pages, which stay valid memory whatever becomes of the mapping. Nothing is written to them.
        check(unsafe {
            libc::vmsplice(pipe.as_raw_fd(), self.list.as_ptr(), self.count, libc::SPLICE_F_NONBLOCK)
        })
    }

    /// The list for a submission queue entry: address and count of `iovec`s.
    ///
    /// The caller must reap the completion before the list, or the half it came from, is dropped, and must not read into one
    /// that [has own memory](Spans::has_own).
    pub fn as_raw(&self) -> (*const libc::iovec, u32) {
        (self.list.as_ptr(), self.count as u32)
    }

    /// `preadv2` or `pwritev2` at the descriptor's own position, without waiting. Not every C library has them.
    ///
    /// # Safety
    /// As for `readv` or `writev` on the list.
    unsafe fn nowait(&self, call: libc::c_long, fd: BorrowedFd<'_>) -> isize {
        const HERE: libc::c_long = -1; // both halves of the offset
        let (list, count) = (self.list.as_ptr(), self.count as libc::c_long);
        let flags = libc::c_long::from(libc::RWF_NOWAIT);
        // SAFETY: the caller's, and the arguments are those that both calls take.
        unsafe { libc::syscall(call, fd.as_raw_fd(), list, count, HERE, HERE, flags) as isize }
    }

    fn message(&self) -> libc::msghdr {
        // SAFETY: `msghdr` is plain data for which all zeroes is the empty message.
        let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
        msg.msg_iov = self.list.as_ptr().cast_mut();
        msg.msg_iovlen = self.count as _;
        msg
    }
}

impl Default for Spans<'_> {
    fn default() -> Self {
        Spans::new()
    }
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

#[cfg(all(test, feature = "xen"))]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::sync::Arc;

    use memmap2::MmapMut;

    use crate::mapping::Mapping;

    use super::*;
    use crate::channel::{announce_client, initialise};
    use crate::layout::{Orders, Sizes};
    use crate::page::Side;
    use crate::{Channel, Error};

    /// A doorbell whose ring pages may be lent, as between processes.
    struct Lender(std::fs::File);

    impl crate::link::Bell for Lender {
        fn fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
        fn ring(&mut self) -> Result<bool, Error> {
            Ok(true)
        }
        fn acknowledge(&mut self) -> Result<bool, Error> {
            Ok(true)
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

    fn channel(make: fn(Mapping, Orders) -> Region) -> Channel {
        let orders = Orders::choose(Sizes::both(4096)).unwrap();
        let region = Arc::new(make(MmapMut::map_anon(orders.region_bytes()).unwrap().into(), orders));
        initialise(&region);
        announce_client(&region);
        let mut server = Channel::new(region.clone(), Side::Server, Box::new(lender()));
        server.write(b"lent").unwrap();
        std::mem::forget(server);
        Channel::new(region, Side::Client, Box::new(lender()))
    }

    fn lender() -> Lender {
        Lender(std::fs::File::open("/dev/null").unwrap())
    }

    /// What the pipe gets when the four bytes that are there are lent to it, and whether the channel offers to.
    fn lend(channel: &mut Channel) -> (bool, io::Result<usize>, Vec<u8>) {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut spans = Spans::new();
        assert_eq!(channel.readable().unwrap(), 4);
        channel.rx().spans(0, 4, &mut spans);
        let lent = spans.lend_to(writer.as_fd());
        drop(writer);
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        (channel.lendable().is_some(), lent, got)
    }

    #[test]
    fn another_domains_pages_are_lent_to_no_pipe_and_ones_own_are() {
        let (offered, lent, got) = lend(&mut channel(Region::foreign));
        assert!(!offered && got.is_empty());
        assert_eq!(lent.unwrap_err().kind(), io::ErrorKind::Unsupported);
        let (offered, lent, got) = lend(&mut channel(|map, orders| Region::of(map, None, orders)));
        assert_eq!((offered, lent.unwrap(), &got[..]), (true, 4, &b"lent"[..]));
    }
}
