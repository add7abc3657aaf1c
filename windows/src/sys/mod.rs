//! The functions of Windows. Unsafe code is here and in no other module of this crate.

pub(crate) mod account;
pub(crate) mod event;
pub(crate) mod job;
pub(crate) mod local_time;
pub(crate) mod pipe;
pub(crate) mod process;
pub(crate) mod registry;
pub(crate) mod service;
pub(crate) mod vchan;

use std::ffi::OsStr;
use std::io;
use std::os::windows::ffi::OsStrExt;

/// A text in the form that Windows takes: UTF-16, ended by a NUL.
///
/// # Errors
/// The text contains a NUL.
pub(crate) fn wide(text: impl AsRef<OsStr>) -> io::Result<Vec<u16>> {
    let mut wide: Vec<u16> = text.as_ref().encode_wide().collect();
    if wide.contains(&0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a NUL in a text"));
    }
    wide.push(0);
    Ok(wide)
}

/// The result of a function of Windows that returns success or failure.
pub(crate) fn done(answer: windows_sys::core::BOOL) -> io::Result<()> {
    if answer == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
