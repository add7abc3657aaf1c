#![allow(unsafe_code)] // exports with the C calling convention, and what their callers pass
//! The exports of `libvchan.dll` that the programs use, by the same names and types.

use std::ffi::{c_int, c_void};

use windows_sys::Win32::Foundation::{ERROR_GEN_FAILURE, SetLastError};

use crate::channel::{Channel, Meeting};

fn handle(made: std::io::Result<Channel>) -> *mut c_void {
    match made {
        Ok(channel) => Box::into_raw(Box::new(channel)).cast(),
        Err(error) => {
            eprintln!("libvchan: {error}");
            let code = error.raw_os_error().and_then(|code| u32::try_from(code).ok());
            fail(code.unwrap_or(ERROR_GEN_FAILURE))
        }
    }
}

/// No channel, and why.
fn fail(code: u32) -> *mut c_void {
    // SAFETY: it sets a number of this thread's.
    unsafe { SetLastError(code) };
    std::ptr::null_mut()
}

/// The channel behind a handle.
///
/// # Safety
/// The handle is one that an export of this library has given, not closed since, and used by one thread.
unsafe fn channel<'a>(handle: *mut c_void) -> &'a Channel {
    // SAFETY: said above.
    unsafe { &*handle.cast::<Channel>() }
}

fn number(count: usize) -> c_int {
    c_int::try_from(count).unwrap_or(c_int::MAX)
}

/// Offers a channel; does not wait.
// SAFETY: nobody else exports this name.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn libvchan_server_init(domain: c_int, port: c_int, _: usize, _: usize) -> *mut c_void {
    if let Ok(code) = std::env::var("QREXEC_LAB_VCHAN_ERROR").unwrap_or_default().parse::<u32>()
        && port == 512
        && !std::path::Path::new("Z:/")
            .join(std::env::var("QREXEC_LAB_VCHAN_THERE").unwrap_or_default())
            .is_file()
    {
        return fail(code);
    }
    handle(Channel::new(Meeting::Offer, domain, port))
}

/// Meets a server; waits for it.
// SAFETY: nobody else exports this name.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn libvchan_client_init(domain: c_int, port: c_int) -> *mut c_void {
    handle(Channel::new(Meeting::Connect, domain, port))
}

/// Reads what is there, at least one byte.
///
/// # Safety
/// The handle is open, and the buffer has `size` bytes.
// SAFETY: nobody else exports this name.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn libvchan_read(
    handle: *mut c_void,
    buffer: *mut c_void,
    size: usize,
) -> c_int {
    // SAFETY: the caller says so.
    let buffer = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), size) };
    // SAFETY: the caller says so.
    unsafe { channel(handle) }.read(buffer).map_or(-1, number)
}

/// Writes what fits, at least one byte.
///
/// # Safety
/// The handle is open, and there are `size` bytes.
// SAFETY: nobody else exports this name.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn libvchan_write(
    handle: *mut c_void,
    bytes: *const c_void,
    size: usize,
) -> c_int {
    // SAFETY: the caller says so.
    let bytes = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), size) };
    // SAFETY: the caller says so.
    unsafe { channel(handle) }.write(bytes).map_or(-1, number)
}

/// Waits for a change.
///
/// # Safety
/// The handle is open.
// SAFETY: nobody else exports this name.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn libvchan_wait(handle: *mut c_void) -> c_int {
    // SAFETY: the caller says so.
    if unsafe { channel(handle) }.wait() { 0 } else { -1 }
}

/// The event that is set at every change.
///
/// # Safety
/// The handle is open.
// SAFETY: nobody else exports this name.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn libvchan_fd_for_select(handle: *mut c_void) -> *mut c_void {
    // SAFETY: the caller says so.
    unsafe { channel(handle) }.event()
}

/// 0 closed, 1 connected, 2 waiting.
///
/// # Safety
/// The handle is open.
// SAFETY: nobody else exports this name.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn libvchan_is_open(handle: *mut c_void) -> c_int {
    // SAFETY: the caller says so.
    unsafe { channel(handle) }.is_open()
}

/// Bytes to be read.
///
/// # Safety
/// The handle is open.
// SAFETY: nobody else exports this name.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn libvchan_data_ready(handle: *mut c_void) -> c_int {
    // SAFETY: the caller says so.
    number(unsafe { channel(handle) }.ready())
}

/// Bytes that can be written.
///
/// # Safety
/// The handle is open.
// SAFETY: nobody else exports this name.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn libvchan_buffer_space(handle: *mut c_void) -> c_int {
    // SAFETY: the caller says so.
    number(unsafe { channel(handle) }.room())
}

/// Takes an offer back; the relay has done that when the other side came.
// SAFETY: nobody else exports this name.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn libvchan_cleanup(_: *mut c_void) {}

/// Closes a channel.
///
/// # Safety
/// The handle is open, and nobody uses it after this.
// SAFETY: nobody else exports this name.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn libvchan_close(handle: *mut c_void) {
    // SAFETY: the handle is that of a box which was given away by `handle`, and the caller gives it back.
    drop(unsafe { Box::from_raw(handle.cast::<Channel>()) });
}
