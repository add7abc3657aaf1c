#![allow(unsafe_code)] // events are made and waited for by handles
//! Events, and waiting for several things.

use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle, RawHandle};
use std::time::{Duration, Instant};

use windows_sys::Win32::Foundation::{WAIT_FAILED, WAIT_OBJECT_0, WAIT_TIMEOUT};
use windows_sys::Win32::System::Threading::{CreateEventW, INFINITE, SetEvent, WaitForMultipleObjects};

/// An event that wakes one waiting thread.
#[derive(Debug)]
pub(crate) struct Event(OwnedHandle);

impl Event {
    /// An event that is not set.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointer is passed: no attributes, no name.
        let handle = unsafe { CreateEventW(std::ptr::null(), 0, 0, std::ptr::null()) };
        if handle.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the handle is new and has no other owner.
        Ok(Self(unsafe { OwnedHandle::from_raw_handle(handle) }))
    }

    /// Sets the event.
    pub(crate) fn set(&self) {
        // SAFETY: the handle is that of an event, and open as long as `self` lives. It cannot fail then.
        unsafe { SetEvent(self.0.as_raw_handle()) };
    }
}

impl AsRawHandle for Event {
    fn as_raw_handle(&self) -> RawHandle {
        self.0.as_raw_handle()
    }
}

/// Waits until one of these is signalled. Returns which one; `None` if `until` has passed.
///
/// The caller keeps the handles open meanwhile.
pub(crate) fn wait_for(handles: &[RawHandle], until: Option<Instant>) -> io::Result<Option<usize>> {
    let millis = match until {
        None => INFINITE,
        Some(until) => millis_until(until.saturating_duration_since(Instant::now())),
    };
    let count = u32::try_from(handles.len()).unwrap_or(u32::MAX);
    // SAFETY: the pointer is that of `count` handles; a handle that is not open makes the call fail and nothing else.
    let answer = unsafe { WaitForMultipleObjects(count, handles.as_ptr(), 0, millis) };
    match answer {
        WAIT_FAILED => Err(io::Error::last_os_error()),
        WAIT_TIMEOUT => Ok(None),
        which => Ok(usize::try_from(which.wrapping_sub(WAIT_OBJECT_0)).ok()),
    }
}

/// Rounded up, since a wait that ends too early would have to be repeated.
fn millis_until(left: Duration) -> u32 {
    let millis = left.as_micros().div_ceil(1000);
    u32::try_from(millis).unwrap_or(INFINITE - 1).min(INFINITE - 1)
}
