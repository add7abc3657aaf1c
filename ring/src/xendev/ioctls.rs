#![allow(unsafe_code)] // ioctl(2) on the three Xen devices: requests and structures that no crate names.
//! The devices by plain ioctls, on Linux.
//!
//! Numbers and structures are those of Linux's `xen/{evtchn,gntalloc,gntdev}.h`. They are part of the kernel's stable
//! interface, so nothing of Xen's own libraries is needed, neither to build nor on the target.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Granted, IMPOSSIBLE_PORT, Notice};
use crate::error::Error;
use crate::layout::PAGE;

/// A request number: no direction is encoded, the size is that of the structure with one element.
const fn request(group: u8, number: u8, size: usize) -> libc::c_ulong {
    ((size as libc::c_ulong) << 16) | ((group as libc::c_ulong) << 8) | number as libc::c_ulong
}

const BIND_INTERDOMAIN: libc::c_ulong = request(b'E', 1, 8);
const BIND_UNBOUND_PORT: libc::c_ulong = request(b'E', 2, 4);
const NOTIFY: libc::c_ulong = request(b'E', 4, 4);
const ALLOC_GREF: libc::c_ulong = request(b'G', 5, 24);
const MAP_GRANT_REF: libc::c_ulong = request(b'G', 0, 24);
/// The same for granted and for mapped pages.
const SET_UNMAP_NOTIFY: libc::c_ulong = request(b'G', 7, 16);

/// The requests that an established channel makes: to ring, and to ask whether a domain exists.
pub(super) const LASTING: [u32; 2] = [NOTIFY as u32, BIND_INTERDOMAIN as u32];

/// `GNTALLOC_FLAG_WRITABLE`
const WRITABLE: u32 = 1;
/// `UNMAP_NOTIFY_CLEAR_BYTE | UNMAP_NOTIFY_SEND_EVENT`
const CLEAR_AND_SEND: u32 = 3;

// The structures are written as 32-bit words, low half first, as on all machines that Xen and Linux share.
const _: () = assert!(cfg!(target_endian = "little"));

/// Runs one request on words that it reads and writes.
///
/// # Safety
/// The kernel must not access more than `words` for this request and these contents.
unsafe fn ioctl(fd: &OwnedFd, request: libc::c_ulong, words: &mut [u32]) -> io::Result<u32> {
    // SAFETY: the pointer is valid for reads and writes of all of `words`, and the caller promises that this is enough;
    // the kernel copies and keeps no pointer.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, words.as_mut_ptr()) };
    u32::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn open(name: &str) -> Result<OwnedFd, Error> {
    let path = format!("/dev/xen/{name}");
    rustix::fs::open(&path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| Error::io(format!("opening {path}"))(error.into()))
}

/// A port of this domain on a descriptor of its own; closed with it.
pub(crate) struct EventChannel {
    fd: OwnedFd,
    port: u32,
}

impl EventChannel {
    /// A port that waits for `peer` to bind to it.
    pub(super) fn unbound(peer: u32) -> Result<EventChannel, Error> {
        let fd = open("evtchn")?;
        // SAFETY: the request's structure is one word, the remote domain.
        let port = unsafe { ioctl(&fd, BIND_UNBOUND_PORT, &mut [peer]) };
        let port = port.map_err(Error::io(format!("making an event channel for domain {peer}")))?;
        Ok(EventChannel { fd, port })
    }

    /// A port bound to `port` of the domain `peer`. `None`: it does not wait for us, or `peer` is not there.
    pub(super) fn bound(peer: u32, port: u32) -> Result<Option<EventChannel>, Error> {
        let fd = open("evtchn")?;
        // SAFETY: the request's structure is two words, remote domain and remote port.
        match unsafe { ioctl(&fd, BIND_INTERDOMAIN, &mut [peer, port]) } {
            Ok(port) => Ok(Some(EventChannel { fd, port })),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ESRCH)) => Ok(None),
            Err(error) => Err(Error::io(format!("binding to event channel {port} of domain {peer}"))(error)),
        }
    }

    /// The same port on another descriptor.
    pub(super) fn duplicate(&self) -> Result<EventChannel, Error> {
        let fd = self.fd.try_clone().map_err(Error::io("duplicating an event channel"))?;
        Ok(EventChannel { fd, port: self.port })
    }

    /// The port's number in this domain.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Sends an event. Xen does not tell whether anybody receives it.
    pub(super) fn notify(&self) -> Result<(), Error> {
        // SAFETY: the request's structure is one word, the local port.
        let sent = unsafe { ioctl(&self.fd, NOTIFY, &mut [self.port]) };
        sent.map(drop).map_err(Error::io("sending an event"))
    }

    /// Takes a pending event and lets the next one in. `false`: there was none.
    pub(super) fn take(&self) -> Result<bool, Error> {
        let mut port = [0u8; 4];
        let taken = match rustix::io::read(&self.fd, &mut port) {
            // The port is masked from the moment it is read until it is written back.
            Ok(4) => rustix::io::write(&self.fd, &port).map(|_| true),
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(error) => Err(error),
        };
        taken.map_err(|error| Error::io("taking an event")(error.into()))
    }
}

/// An open device, by which this process can ask later: see [`super::knows`].
pub(super) struct Asker(OwnedFd);

impl Asker {
    pub(super) fn new() -> Result<Asker, Error> {
        open("evtchn").map(Asker)
    }

    pub(super) fn knows(&self, domain: u32) -> bool {
        // SAFETY: the request's structure is two words, remote domain and remote port.
        let answer = unsafe { ioctl(&self.0, BIND_INTERDOMAIN, &mut [domain, IMPOSSIBLE_PORT]) };
        !answer.is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH))
    }
}

impl AsFd for EventChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The device by which pages were mapped, and their place in it.
pub(crate) struct Origin {
    fd: OwnedFd,
    index: u64,
}

impl Origin {
    /// Asks the kernel for this notice when the pages are unmapped, in whatever way.
    pub(super) fn notify_unmap(&self, notice: Notice) -> Result<(), Error> {
        let place = self.index.saturating_add(notice.offset as u64);
        let mut words = [place as u32, (place >> 32) as u32, CLEAR_AND_SEND, notice.port];
        // SAFETY: the request's structure is four words: a place of 64 bits, the action, the port.
        let set = unsafe { ioctl(&self.fd, SET_UNMAP_NOTIFY, &mut words) };
        set.map(drop).map_err(Error::io("asking for a notice when the pages go"))
    }

    /// Maps `count` pages, which keep the device's file open from then on. Forked processes do not inherit them: they
    /// have no use for them, and would delay the notice to the peer for as long as they live.
    fn map(&self, count: usize) -> io::Result<MmapRaw> {
        let map = MmapOptions::new().offset(self.index).len(count * PAGE).map_raw(self.fd.as_raw_fd())?;
        map.advise(Advice::DontFork)?;
        Ok(map)
    }
}

/// New pages of this domain, see [`super::grant`]: one mapping for all.
pub(super) fn grant(peer: u16, count: usize, notice: Notice) -> Result<Granted, Error> {
    let fd = open("gntalloc")?;
    let mut words = vec![u32::from(peer) | WRITABLE << 16, count as u32, 0, 0];
    words.resize(4 + count.max(2), 0);
    // SAFETY: the request's structure is four words and then one reference a page, all of which `words` has place for.
    unsafe { ioctl(&fd, ALLOC_GREF, &mut words) }.map_err(Error::io(format!(
        "granting {count} pages (is the limit of xen-gntalloc or of the grant table reached?)"
    )))?;
    let origin = Origin { fd, index: u64::from(words[2]) | u64::from(words[3]) << 32 };
    let map = origin.map(count).map_err(Error::io("mapping pages to be granted"))?;
    origin.notify_unmap(notice)?;
    words.truncate(4 + count);
    Ok(Granted { head: map.into(), tail: None, references: words.split_off(4) })
}

/// See [`super::map`].
pub(super) fn map(peer: u32, references: &[u32]) -> Result<Option<(Origin, MmapRaw)>, Error> {
    let fd = open("gntdev")?;
    let mut words = vec![references.len() as u32, 0, 0, 0];
    words.extend(references.iter().flat_map(|reference| [peer, *reference]));
    // SAFETY: the request's structure is four words and then two for each of as many references as the first word says.
    unsafe { ioctl(&fd, MAP_GRANT_REF, &mut words) }
        .map_err(Error::io(format!("mapping {} pages of domain {peer}", references.len())))?;
    let origin = Origin { fd, index: u64::from(words[2]) | u64::from(words[3]) << 32 };
    Ok(origin.map(references.len()).ok().map(|map| (origin, map)))
}
