#![allow(unsafe_code)] // a process is opened and asked
//! How many handles a process has.

use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};

use windows_sys::Win32::System::Threading::{GetProcessHandleCount, OpenProcess, PROCESS_QUERY_INFORMATION};

/// The count of the process with this number.
pub(crate) fn of(id: u32) -> io::Result<u32> {
    // SAFETY: no pointers are passed.
    let process = unsafe { OpenProcess(PROCESS_QUERY_INFORMATION, 0, id) };
    if process.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle is new and nobody else's.
    let process = unsafe { OwnedHandle::from_raw_handle(process) };
    let mut count = 0;
    // SAFETY: the handle is open, the pointer that of a number.
    if unsafe { GetProcessHandleCount(process.as_raw_handle(), &raw mut count) } == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(count)
}
