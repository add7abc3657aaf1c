#![allow(unsafe_code)] // functions of a library that is loaded at run time
//! vchan through `libvchan.dll`, by its own interface.
//!
//! The library is loaded by its full path when it is needed, so that this program can report that a VM has none.

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::transmute;
use std::os::windows::io::RawHandle;
use std::path::Path;
use std::ptr::NonNull;

use windows_sys::Win32::Foundation::{ERROR_NOT_SUPPORTED, HMODULE};
use windows_sys::Win32::System::LibraryLoader::{
    GetProcAddress, LOAD_WITH_ALTERED_SEARCH_PATH, LoadLibraryExW,
};

use super::wide;

type ServerInit = unsafe extern "C" fn(c_int, c_int, usize, usize) -> *mut c_void;
type ClientInit = unsafe extern "C" fn(c_int, c_int) -> *mut c_void;
type Read = unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> c_int;
type Write = unsafe extern "C" fn(*mut c_void, *const c_void, usize) -> c_int;
type Ask = unsafe extern "C" fn(*mut c_void) -> c_int;
type EventOf = unsafe extern "C" fn(*mut c_void) -> *mut c_void;
type Act = unsafe extern "C" fn(*mut c_void);

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VchanError {
    /// The library could not be loaded.
    #[error("cannot load {0}: {1}")]
    Load(String, io::Error),
    /// It is another library.
    #[error("{0} is not exported by libvchan.dll")]
    Export(&'static str),
    /// Xen's driver is not loaded yet.
    #[error("the Xen driver is not there yet")]
    NotYet,
    /// A function of the library failed.
    #[error("vchan: {0}")]
    Failed(io::Error),
    /// A domain or port that is too large for the interface.
    #[error("domain or port out of range")]
    Range,
}

/// The functions of the library, which stays loaded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VchanLibrary {
    server_init: ServerInit,
    client_init: ClientInit,
    read: Read,
    write: Write,
    event: EventOf,
    is_open: Ask,
    data_ready: Ask,
    buffer_space: Ask,
    cleanup: Option<Act>,
    close: Act,
}

/// A function of the library, by its name and its type.
macro_rules! function {
    ($module:expr, $name:expr, $type:ty) => {
        export($module, $name).map(|found| {
            // SAFETY: the export has this name in libvchan.dll, whose header says that its function has this type and the
            // C calling convention; the library is never unloaded.
            unsafe { transmute::<Export, $type>(found) }
        })
    };
}

impl VchanLibrary {
    /// Loads the library from the folder of this program.
    pub(crate) fn load(folder: &Path) -> Result<Self, VchanError> {
        let path = folder.join("libvchan.dll");
        let failed = |error| VchanError::Load(path.display().to_string(), error);
        let name = wide(&path).map_err(failed)?;
        // SAFETY: the name ends with a NUL; the second parameter is reserved and null. What the library does when it is
        // loaded is part of the installation, like this program.
        let module =
            unsafe { LoadLibraryExW(name.as_ptr(), std::ptr::null_mut(), LOAD_WITH_ALTERED_SEARCH_PATH) };
        if module.is_null() {
            return Err(failed(io::Error::last_os_error()));
        }
        Ok(Self {
            server_init: function!(module, c"libvchan_server_init", ServerInit)?,
            client_init: function!(module, c"libvchan_client_init", ClientInit)?,
            read: function!(module, c"libvchan_read", Read)?,
            write: function!(module, c"libvchan_write", Write)?,
            event: function!(module, c"libvchan_fd_for_select", EventOf)?,
            is_open: function!(module, c"libvchan_is_open", Ask)?,
            data_ready: function!(module, c"libvchan_data_ready", Ask)?,
            buffer_space: function!(module, c"libvchan_buffer_space", Ask)?,
            // R2's version of the library has no such function.
            cleanup: function!(module, c"libvchan_cleanup", Act).ok(),
            close: function!(module, c"libvchan_close", Act)?,
        })
    }

    /// Offers a channel; does not wait for the other side.
    pub(crate) fn offer(&self, domain: u32, port: u32, rings: usize) -> Result<Vchan, VchanError> {
        let (domain, port) = numbers(domain, port)?;
        // SAFETY: the function takes four numbers.
        let raw = unsafe { (self.server_init)(domain, port, rings, rings) };
        self.channel(raw)
    }

    /// Connects to a server; waits until it is there.
    pub(crate) fn connect(&self, domain: u32, port: u32) -> Result<Vchan, VchanError> {
        let (domain, port) = numbers(domain, port)?;
        // SAFETY: the function takes two numbers.
        let raw = unsafe { (self.client_init)(domain, port) };
        self.channel(raw)
    }

    fn channel(&self, raw: *mut c_void) -> Result<Vchan, VchanError> {
        let error = io::Error::last_os_error();
        match NonNull::new(raw) {
            Some(raw) => Ok(Vchan { library: *self, raw }),
            None if error.raw_os_error() == i32::try_from(ERROR_NOT_SUPPORTED).ok() => {
                Err(VchanError::NotYet)
            }
            None => Err(VchanError::Failed(error)),
        }
    }
}

type Export = unsafe extern "system" fn() -> isize;

fn export(module: HMODULE, name: &'static std::ffi::CStr) -> Result<Export, VchanError> {
    // SAFETY: the module is loaded, the name ends with a NUL.
    let found = unsafe { GetProcAddress(module, name.as_ptr().cast()) };
    found.ok_or_else(|| VchanError::Export(name.to_str().unwrap_or_default()))
}

fn numbers(domain: u32, port: u32) -> Result<(c_int, c_int), VchanError> {
    let number = |number| c_int::try_from(number).map_err(|_| VchanError::Range);
    Ok((number(domain)?, number(port)?))
}

/// Whether the other side has connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It has closed; what it wrote before can still be read.
    Closed,
    /// It has connected.
    Connected,
    /// It has not connected yet.
    Waiting,
}

/// A channel. The library is not reentrant, and the raw pointer keeps this value in one thread.
#[derive(Debug)]
pub(crate) struct Vchan {
    library: VchanLibrary,
    raw: NonNull<c_void>,
}

impl Vchan {
    /// Whether the other side is there.
    pub(crate) fn presence(&self) -> Presence {
        // SAFETY: the channel is open.
        match unsafe { (self.library.is_open)(self.raw.as_ptr()) } {
            1 => Presence::Connected,
            2 => Presence::Waiting,
            _ => Presence::Closed,
        }
    }

    /// How many bytes can be read at once.
    pub(crate) fn ready(&self) -> usize {
        // SAFETY: the channel is open.
        usize::try_from(unsafe { (self.library.data_ready)(self.raw.as_ptr()) }).unwrap_or(0)
    }

    /// How many bytes can be written at once.
    pub(crate) fn room(&self) -> usize {
        // SAFETY: the channel is open.
        usize::try_from(unsafe { (self.library.buffer_space)(self.raw.as_ptr()) }).unwrap_or(0)
    }

    /// Reads what is ready, without waiting.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(self.ready());
        if wanted == 0 {
            return Ok(0);
        }
        // SAFETY: the channel is open, and the buffer has `wanted` bytes at least.
        let count = unsafe { (self.library.read)(self.raw.as_ptr(), buffer.as_mut_ptr().cast(), wanted) };
        counted(count, wanted)
    }

    /// Writes as much as fits, without waiting.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let wanted = bytes.len().min(self.room());
        if wanted == 0 {
            return Ok(0);
        }
        // SAFETY: the channel is open, and there are `wanted` bytes at least.
        let count = unsafe { (self.library.write)(self.raw.as_ptr(), bytes.as_ptr().cast(), wanted) };
        counted(count, wanted)
    }

    /// Signalled when something has changed since the last look: bytes, room, or whether the other side is there.
    pub(crate) fn event(&self) -> RawHandle {
        // SAFETY: the channel is open.
        unsafe { (self.library.event)(self.raw.as_ptr()) }
    }

    /// To be called by a server that waits by the event, once its client has connected: withdraws the offer.
    pub(crate) fn met(&mut self) {
        if let Some(cleanup) = self.library.cleanup {
            // SAFETY: the channel is open.
            unsafe { cleanup(self.raw.as_ptr()) };
        }
    }
}

/// How many bytes the library has moved, never more than it was given.
fn counted(count: c_int, wanted: usize) -> io::Result<usize> {
    match usize::try_from(count) {
        Ok(count) if count <= wanted => Ok(count),
        _ => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the vchan is closed")),
    }
}

impl Drop for Vchan {
    fn drop(&mut self) {
        // SAFETY: the channel is open, and it is not used after this.
        unsafe { (self.library.close)(self.raw.as_ptr()) };
    }
}
