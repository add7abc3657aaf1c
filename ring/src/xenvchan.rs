#![allow(unsafe_code)] // a C library that is found at run time: dlopen, dlsym, and calls of what they return
//! Xen's own C library libxenvchan, loaded when it is asked for, so that nothing of it is needed to build.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use rustix::event::epoll;

use crate::error::Error;

const LIBRARY: &CStr = c"libxenvchan.so.4.17";
const LIBRARY_ANY: &CStr = c"libxenvchan.so";

/// The first members of the library's `struct libxenvchan`, up to its flags.
#[repr(C)]
struct Control {
    grants: *mut c_void,
    page: *mut c_void,
    events: *mut c_void,
    port: u32,
    flags: c_int,
}

/// `is_server`, `server_persist` and `blocking` are one bit each, from the lowest.
const BLOCKING: c_int = 4;
/// What `libxenvchan_is_open` says of a server whose client has not come yet.
pub(crate) const WAITING: c_int = 2;

type Ctrl = *mut Control;

type ServerInit = unsafe extern "C" fn(*mut c_void, c_int, *const c_char, usize, usize) -> Ctrl;
type ClientInit = unsafe extern "C" fn(*mut c_void, c_int, *const c_char) -> Ctrl;
type Close = unsafe extern "C" fn(Ctrl);
type Read = unsafe extern "C" fn(Ctrl, *mut c_void, usize) -> c_int;
type Write = unsafe extern "C" fn(Ctrl, *const c_void, usize) -> c_int;
type Ask = unsafe extern "C" fn(Ctrl) -> c_int;

/// The functions of the library that are used.
#[derive(Clone, Copy)]
pub(crate) struct Library {
    server: ServerInit,
    client: ClientInit,
    close: Close,
    read: Read,
    write: Write,
    wait: Ask,
    fd: Ask,
    is_open: Ask,
}

impl Library {
    /// Finds it.
    pub(crate) fn load() -> Result<Library, Error> {
        // SAFETY: the names are C strings. What the library does when it is loaded is as trustworthy as any library that
        // the system links; it stays loaded, so that what it contains lives as long as the process.
        let handle =
            [LIBRARY, LIBRARY_ANY].map(|name| unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) });
        let handle = handle.into_iter().find(|handle| !handle.is_null());
        let handle = handle
            .ok_or_else(|| Error::Config("QREXEC_TRANSPORT=libxenvchan: there is no such library".into()))?;
        macro_rules! function {
            ($name:literal, $kind:ty) => {{
                let address = symbol(handle, $name)?;
                // SAFETY: this type is that of the function of this name in the library's header
                // `libxenvchan.h`, and the address is not null.
                unsafe { std::mem::transmute::<NonNull<c_void>, $kind>(address) }
            }};
        }
        Ok(Library {
            server: function!(c"libxenvchan_server_init", ServerInit),
            client: function!(c"libxenvchan_client_init", ClientInit),
            close: function!(c"libxenvchan_close", Close),
            read: function!(c"libxenvchan_read", Read),
            write: function!(c"libxenvchan_write", Write),
            wait: function!(c"libxenvchan_wait", Ask),
            fd: function!(c"libxenvchan_fd_for_select", Ask),
            is_open: function!(c"libxenvchan_is_open", Ask),
        })
    }
}

impl Library {
    /// Offers a connection below this path of our folder in xenstore.
    pub(crate) fn serve(self, peer: u32, path: &CStr, left: usize, right: usize) -> Option<Vchan> {
        // SAFETY: the path is a C string; a null pointer means no logger.
        Vchan::new(self, unsafe {
            (self.server)(std::ptr::null_mut(), peer as c_int, path.as_ptr(), left, right)
        })
    }

    /// Joins the connection below this path in xenstore, if it is there.
    pub(crate) fn join(self, peer: u32, path: &CStr) -> Option<Vchan> {
        // SAFETY: as in `serve`.
        Vchan::new(self, unsafe { (self.client)(std::ptr::null_mut(), peer as c_int, path.as_ptr()) })
    }
}

fn symbol(handle: *mut c_void, name: &CStr) -> Result<NonNull<c_void>, Error> {
    // SAFETY: the handle is an open library's and the name a C string.
    let found = unsafe { libc::dlsym(handle, name.as_ptr()) };
    NonNull::new(found).ok_or_else(|| Error::Config(format!("libxenvchan has no {}", name.to_string_lossy())))
}

/// One connection of the library, closed when it is dropped.
pub(crate) struct Vchan {
    library: Library,
    ctrl: Ctrl,
}

// SAFETY: the library keeps no state of a thread; a connection may be used by any one thread at a time, and `Vchan` is not
// shared.
unsafe impl Send for Vchan {}

impl Vchan {
    fn new(library: Library, ctrl: Ctrl) -> Option<Vchan> {
        if ctrl.is_null() {
            return None;
        }
        // SAFETY: the library has just made the structure, which begins as `Control` does, and nobody else uses it.
        unsafe { (*ctrl).flags &= !BLOCKING };
        Some(Vchan { library, ctrl })
    }

    /// 0: the peer is gone.
    pub(crate) fn state(&self) -> c_int {
        // SAFETY: `ctrl` is open for as long as `self` lives.
        unsafe { (self.library.is_open)(self.ctrl) }
    }

    /// Takes a pending event; never waits, if called when the descriptor is ready.
    pub(crate) fn take_event(&self) {
        // SAFETY: as in `state`.
        unsafe { (self.library.wait)(self.ctrl) };
    }

    /// Bytes read; 0: none there now; negative: none will come.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> c_int {
        // SAFETY: as in `state`; the buffer is as long as is said.
        unsafe { (self.library.read)(self.ctrl, buffer.as_mut_ptr().cast(), buffer.len()) }
    }

    /// Bytes taken; 0: no room now; negative: the peer is gone.
    pub(crate) fn write(&self, bytes: &[u8]) -> c_int {
        // SAFETY: as in `state`; the bytes are as many as is said.
        unsafe { (self.library.write)(self.ctrl, bytes.as_ptr().cast(), bytes.len()) }
    }

    /// An epoll instance that holds the event channel, which by itself would always say that it takes output.
    pub(crate) fn events(&self) -> Result<OwnedFd, Error> {
        // SAFETY: as in `state`.
        let fd: RawFd = unsafe { (self.library.fd)(self.ctrl) };
        let events = epoll::create(epoll::CreateFlags::CLOEXEC);
        let added = events.and_then(|events| {
            // SAFETY: the library keeps its descriptor open until `libxenvchan_close`, which only dropping `self` calls.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            epoll::add(&events, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN).map(|()| events)
        });
        added.map_err(|error| Error::io("watching libxenvchan's event channel")(error.into()))
    }
}

impl Drop for Vchan {
    fn drop(&mut self) {
        // SAFETY: `ctrl` is open, and used no more.
        unsafe { (self.library.close)(self.ctrl) }
    }
}
