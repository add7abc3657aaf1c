#![allow(unsafe_code)] // calls of a C library that is found at run time
//! Connections of Xen's own C library libxenvchan, which is loaded when it is first used, so that building needs
//! nothing of it.

use std::ffi::{CStr, c_int};
use std::os::fd::{BorrowedFd, RawFd};

use sys::reactor::Reactor;
use xenvchan_sys::{BLOCKING, libxenvchan};

use crate::error::Error;

/// The result of `libxenvchan_is_open` for a server whose client has not come yet.
pub(crate) const WAITING: c_int = 2;

/// The functions of the library.
#[derive(Clone, Copy)]
pub(crate) struct Library(xenvchan_sys::Library);

impl Library {
    /// Loads it.
    pub(crate) fn load() -> Result<Library, Error> {
        let found = xenvchan_sys::Library::load();
        found.map(Library).map_err(|error| Error::Config(format!("QREXEC_TRANSPORT=libxenvchan: {error}")))
    }
}

impl Library {
    /// Offers a connection below this path of our folder in xenstore.
    pub(crate) fn listen(self, peer: u32, path: &CStr, left: usize, right: usize) -> Option<Vchan> {
        // SAFETY: the path is a C string; a null pointer means no logger.
        Vchan::new(self, unsafe {
            (self.0.libxenvchan_server_init)(std::ptr::null_mut(), peer as c_int, path.as_ptr(), left, right)
        })
    }

    /// Joins the connection below this path in xenstore, if it is there.
    pub(crate) fn join(self, peer: u32, path: &CStr) -> Option<Vchan> {
        // SAFETY: as in `listen`.
        Vchan::new(self, unsafe {
            (self.0.libxenvchan_client_init)(std::ptr::null_mut(), peer as c_int, path.as_ptr())
        })
    }
}

/// One connection of the library, closed when it is dropped.
pub(crate) struct Vchan {
    library: xenvchan_sys::Library,
    ctrl: *mut libxenvchan,
}

// SAFETY: the library keeps no state of a thread; a connection may be used by any one thread at a time, and `Vchan` is not
// shared.
unsafe impl Send for Vchan {}

impl Vchan {
    fn new(library: Library, ctrl: *mut libxenvchan) -> Option<Vchan> {
        if ctrl.is_null() {
            return None;
        }
        // SAFETY: the library has just made the structure, whose layout a test of the bindings compares, and nobody else uses it.
        unsafe { (*ctrl).flags &= !BLOCKING };
        Some(Vchan { library: library.0, ctrl })
    }

    /// 0: the peer is gone.
    pub(crate) fn state(&self) -> c_int {
        // SAFETY: `ctrl` is open for as long as `self` lives.
        unsafe { (self.library.libxenvchan_is_open)(self.ctrl) }
    }

    /// Takes a pending event. Does not wait if the descriptor is ready.
    pub(crate) fn take_event(&self) {
        // SAFETY: as in `state`.
        unsafe { (self.library.libxenvchan_wait)(self.ctrl) };
    }

    /// Bytes read; 0: none there now; negative: none will come.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> c_int {
        // SAFETY: as in `state`; the buffer is as long as is said.
        unsafe { (self.library.libxenvchan_read)(self.ctrl, buffer.as_mut_ptr().cast(), buffer.len()) }
    }

    /// Bytes taken; 0: no room now; negative: the peer is gone.
    pub(crate) fn write(&self, bytes: &[u8]) -> c_int {
        // SAFETY: as in `state`; the bytes are as many as is said.
        unsafe { (self.library.libxenvchan_write)(self.ctrl, bytes.as_ptr().cast(), bytes.len()) }
    }

    /// An epoll instance with the event channel in it. The channel itself is always ready for output, which tells
    /// nothing.
    pub(crate) fn events(&self) -> Result<Reactor<()>, Error> {
        // SAFETY: as in `state`.
        let fd: RawFd = unsafe { (self.library.libxenvchan_fd_for_select)(self.ctrl) };
        // SAFETY: the library keeps its descriptor open until `libxenvchan_close`, which only dropping `self` calls.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        Reactor::of(&[fd]).map_err(|error| Error::io("watching libxenvchan's event channel")(error.into()))
    }
}

impl Drop for Vchan {
    fn drop(&mut self) {
        // SAFETY: `ctrl` is open, and used no more.
        unsafe { (self.library.libxenvchan_close)(self.ctrl) }
    }
}
