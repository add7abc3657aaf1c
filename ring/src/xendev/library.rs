#![allow(unsafe_code)] // calls of two of Xen's C libraries, which are found at run time
//! The devices by Xen's own libraries libxenevtchn and libxengnttab.
//!
//! Every mapping and every channel has a handle of its own, which is closed with it. The libraries say that a forked
//! child may only close a handle; no child uses one of these (see [`super::ioctls`] for why it does not even inherit
//! the mappings).

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::ptr::{NonNull, null_mut};
use std::sync::{Arc, OnceLock};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use xenevtchn_sys::xenevtchn_handle;
use xengnttab_sys::{LoadError, xengntdev_handle};

use super::{Granted, IMPOSSIBLE_PORT, Notice, VARIABLE};
use crate::error::Error;
use crate::layout::PAGE;
use crate::mapping::Mapping;

#[cfg(test)]
mod tests;

type Events = xenevtchn_sys::Library;
type Grants = xengnttab_sys::Library;

const PROTECTION: c_int = libc::PROT_READ | libc::PROT_WRITE;

/// The library of event channels.
pub(super) fn events() -> Result<Events, Error> {
    static EVENTS: OnceLock<Result<Events, LoadError>> = OnceLock::new();
    EVENTS.get_or_init(Events::load).clone().map_err(missing)
}

/// The library of granted pages.
pub(super) fn grants() -> Result<Grants, Error> {
    static GRANTS: OnceLock<Result<Grants, LoadError>> = OnceLock::new();
    GRANTS.get_or_init(Grants::load).clone().map_err(missing)
}

fn missing(error: LoadError) -> Error {
    Error::Config(format!("{VARIABLE}=libxen: {error}"))
}

/// A handle of the library of event channels.
struct Handle {
    events: Events,
    at: NonNull<xenevtchn_handle>,
}

// SAFETY: a handle is a descriptor and a logger, which is null here, and belongs to no thread.
unsafe impl Send for Handle {}
// SAFETY: none of the functions that are called with a shared handle changes it; each is a system call on its descriptor.
// Only one of those who share it takes events: a server stops before its channel begins.
unsafe impl Sync for Handle {}

impl Handle {
    fn open(events: Events) -> Result<Handle, Error> {
        // SAFETY: a null logger says nothing; no flags.
        let at = unsafe { (events.xenevtchn_open)(null_mut(), 0) };
        let at = NonNull::new(at).ok_or_else(|| failed("opening the event channels by libxenevtchn"))?;
        Ok(Handle { events, at })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and used no more.
        unsafe { (self.events.xenevtchn_close)(self.at.as_ptr()) };
    }
}

/// A port on a handle of its own.
pub(crate) struct EventChannel {
    handle: Arc<Handle>,
    fd: RawFd,
    port: u32,
}

impl EventChannel {
    fn new(handle: Handle, port: u32) -> Result<EventChannel, Error> {
        // SAFETY: the handle is open.
        let fd = unsafe { (handle.events.xenevtchn_fd)(handle.at.as_ptr()) };
        if fd < 0 {
            return Err(failed("asking libxenevtchn for a descriptor"));
        }
        Ok(EventChannel { handle: Arc::new(handle), fd, port })
    }

    pub(super) fn unbound(events: Events, peer: u32) -> Result<EventChannel, Error> {
        let handle = Handle::open(events)?;
        // SAFETY: the handle is open.
        let port = unsafe { (events.xenevtchn_bind_unbound_port)(handle.at.as_ptr(), peer) };
        let port =
            u32::try_from(port).map_err(|_| failed(format!("making an event channel for domain {peer}")))?;
        EventChannel::new(handle, port)
    }

    pub(super) fn bound(events: Events, peer: u32, port: u32) -> Result<Option<EventChannel>, Error> {
        let handle = Handle::open(events)?;
        match bind(&handle, peer, port) {
            Ok(port) => EventChannel::new(handle, port).map(Some),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ESRCH)) => Ok(None),
            Err(error) => Err(Error::io(format!("binding to event channel {port} of domain {peer}"))(error)),
        }
    }

    /// On the same handle, which is closed when its last user is dropped.
    pub(super) fn duplicate(&self) -> EventChannel {
        EventChannel { handle: self.handle.clone(), ..*self }
    }

    pub(super) fn port(&self) -> u32 {
        self.port
    }

    pub(super) fn notify(&self) -> Result<(), Error> {
        // SAFETY: the handle is open.
        match unsafe { (self.handle.events.xenevtchn_notify)(self.handle.at.as_ptr(), self.port) } {
            0 => Ok(()),
            _ => Err(failed("sending an event")),
        }
    }

    /// The library waits for an event, whatever the descriptor's flags are, so the descriptor is asked first whether
    /// there is one.
    pub(super) fn take(&self) -> Result<bool, Error> {
        if !is_ready(self) {
            return Ok(false);
        }
        let (events, at) = (self.handle.events, self.handle.at.as_ptr());
        // SAFETY: the handle is open.
        let Ok(port) = u32::try_from(unsafe { (events.xenevtchn_pending)(at) }) else {
            let error = io::Error::last_os_error();
            let none = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
            return if none { Ok(false) } else { Err(Error::io("taking an event")(error)) };
        };
        // SAFETY: the handle is open.
        match unsafe { (events.xenevtchn_unmask)(at, port) } {
            0 => Ok(true),
            _ => Err(failed("letting the next event in")),
        }
    }
}

impl AsFd for EventChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the handle's, which is open for as long as `self` lives.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }
}

fn is_ready(channel: &EventChannel) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(channel, PollFlags::IN)], Some(&now)) == Ok(1)
}

fn bind(handle: &Handle, peer: u32, port: u32) -> io::Result<u32> {
    // SAFETY: the handle is open.
    let bound = unsafe { (handle.events.xenevtchn_bind_interdomain)(handle.at.as_ptr(), peer, port) };
    u32::try_from(bound).map_err(|_| io::Error::last_os_error())
}

/// An open handle, by which this process can ask later: see [`super::knows`].
pub(super) struct Asker(Handle);

impl Asker {
    pub(super) fn new(events: Events) -> Result<Asker, Error> {
        Handle::open(events).map(Asker)
    }

    pub(super) fn knows(&self, domain: u32) -> bool {
        let answer = bind(&self.0, domain, IMPOSSIBLE_PORT);
        !answer.is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH))
    }
}

/// The function that closes a device.
type Closer = unsafe extern "C" fn(*mut xengntdev_handle) -> c_int;
type Remover = unsafe extern "C" fn(*mut xengntdev_handle, *mut c_void, u32) -> c_int;

/// An opened device, and how it is closed.
struct Device {
    at: NonNull<xengntdev_handle>,
    close: Closer,
}

impl Device {
    fn to_map(grants: Grants) -> Result<Device, Error> {
        // SAFETY: a null logger says nothing; no flags.
        let at = unsafe { (grants.xengnttab_open)(null_mut(), 0) };
        Device::new(at, grants.xengnttab_close, "opening the device of others' pages by libxengnttab")
    }

    fn to_grant(grants: Grants) -> Result<Device, Error> {
        // SAFETY: as above.
        let at = unsafe { (grants.xengntshr_open)(null_mut(), 0) };
        Device::new(at, grants.xengntshr_close, "opening the device of pages to grant by libxengnttab")
    }

    fn new(at: *mut xengntdev_handle, close: Closer, what: &'static str) -> Result<Device, Error> {
        NonNull::new(at).map(|at| Device { at, close }).ok_or_else(|| failed(what))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: the handle is open, `close` is its own function, and it is used no more.
        unsafe { (self.close)(self.at.as_ptr()) };
    }
}

/// Pages that the library has mapped.
pub(crate) struct Pages {
    at: NonNull<c_void>,
    count: u32,
    remove: Remover,
    /// Closed after they have gone.
    device: Device,
}

// SAFETY: pages and handle belong to no thread; the functions that give them back are called once, by the last owner.
unsafe impl Send for Pages {}
// SAFETY: a shared `Pages` gives away its address and length only.
unsafe impl Sync for Pages {}

impl Pages {
    /// What the library has just returned: null, and a reason in `errno`, if there are none.
    fn new(at: *mut c_void, count: usize, remove: Remover, device: Device) -> io::Result<Pages> {
        let Some(start) = NonNull::new(at) else { return Err(io::Error::last_os_error()) };
        let count = u32::try_from(count).map_err(io::Error::other)?;
        let pages = Pages { at: start, count, remove, device };
        // SAFETY: the range is what was just mapped; the advice concerns forked processes only, which have no use for the
        // pages and would delay the notice to the peer. Where it is refused they are inherited, and nothing else is different.
        unsafe { libc::madvise(at, pages.len(), libc::MADV_DONTFORK) };
        Ok(pages)
    }

    pub(crate) fn as_mut_ptr(&self) -> *mut u8 {
        self.at.as_ptr().cast()
    }

    pub(crate) fn len(&self) -> usize {
        self.count as usize * PAGE
    }
}

impl From<Pages> for Mapping {
    fn from(pages: Pages) -> Mapping {
        let (at, len) = (pages.as_mut_ptr(), pages.len());
        // SAFETY: `Pages` unmaps its memory when it is dropped and never moves it.
        unsafe { Mapping::owned_by(pages, at, len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the pages are mapped by this handle, as many as are said; nobody has their address any more, since
        // whoever gives it away holds `self`.
        unsafe { (self.remove)(self.device.at.as_ptr(), self.at.as_ptr(), self.count) };
    }
}

/// New pages of this domain, see [`super::grant`]. Only a single page can have a notice, so the first is apart.
pub(super) fn grant(grants: Grants, peer: u16, count: usize, notice: Notice) -> Result<Granted, Error> {
    let mut references = vec![0u32; count];
    let Some((first, rest)) = references.split_first_mut() else {
        return Err(Error::Config("no page is to be granted".into()));
    };
    let refused = |error| {
        let hint = "is the limit of xen-gntalloc or of the grant table reached?";
        Error::io(format!("granting {count} pages ({hint})"))(error)
    };
    let (domain, offset) = (u32::from(peer), notice.offset as u32);
    let device = Device::to_grant(grants)?;
    // SAFETY: the handle is open, and the reference is one word, as for one page.
    let head = unsafe {
        (grants.xengntshr_share_page_notify)(device.at.as_ptr(), domain, first, 1, offset, notice.port)
    };
    let head = Pages::new(head, 1, grants.xengntshr_unshare, device).map_err(refused)?;
    let tail = if rest.is_empty() {
        None
    } else {
        let device = Device::to_grant(grants)?;
        let (at, pages) = (device.at.as_ptr(), rest.len() as c_int);
        // SAFETY: the handle is open, and `rest` has a word for each page.
        let tail = unsafe { (grants.xengntshr_share_pages)(at, domain, pages, rest.as_mut_ptr(), 1) };
        Some(Pages::new(tail, rest.len(), grants.xengntshr_unshare, device).map_err(refused)?)
    };
    Ok(Granted { head: head.into(), tail: tail.map(Into::into), references })
}

/// What it takes to map the first page again.
pub(crate) struct Origin {
    grants: Grants,
    peer: u32,
    first: u32,
}

impl Origin {
    /// Maps the first page again, with the notice. The library can only do both at once, and a client that has not
    /// decided yet to stay must not send the peer a notice.
    pub(super) fn notify_unmap(&self, notice: Notice) -> Result<Pages, Error> {
        let device = Device::to_map(self.grants)?;
        // SAFETY: the handle is open.
        let at = unsafe {
            (self.grants.xengnttab_map_grant_ref_notify)(
                device.at.as_ptr(),
                self.peer,
                self.first,
                PROTECTION,
                notice.offset as u32,
                notice.port,
            )
        };
        let page = Pages::new(at, 1, self.grants.xengnttab_unmap, device);
        page.map_err(Error::io("asking for a notice when the pages go"))
    }
}

/// See [`super::map`].
pub(super) fn map(grants: Grants, peer: u32, references: &[u32]) -> Result<Option<(Origin, Pages)>, Error> {
    let Some(first) = references.first().copied() else { return Ok(None) };
    let device = Device::to_map(grants)?;
    let mut list = references.to_vec();
    // SAFETY: the handle is open, and the list as long as is said.
    let at = unsafe {
        (grants.xengnttab_map_domain_grant_refs)(
            device.at.as_ptr(),
            list.len() as u32,
            peer,
            list.as_mut_ptr(),
            PROTECTION,
        )
    };
    match Pages::new(at, list.len(), grants.xengnttab_unmap, device) {
        Ok(pages) => Ok(Some((Origin { grants, peer, first }, pages))),
        // This machine is short of something: not the peer's fault.
        Err(error) if is_shortage(&error) => {
            Err(Error::io(format!("mapping {} pages of domain {peer}", references.len()))(error))
        }
        Err(_) => Ok(None),
    }
}

fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::ENOSPC | libc::EMFILE | libc::ENFILE))
}

/// The error that the library has left in `errno`.
fn failed(what: impl Into<String>) -> Error {
    Error::io(what)(io::Error::last_os_error())
}
