//! Windows itself. Unsafe code is here and in no other file of this crate.

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

/// A text for Windows: UTF-16, with a NUL behind it.
///
/// # Errors
/// A NUL in the text would cut it.
pub(crate) fn wide(text: impl AsRef<OsStr>) -> io::Result<Vec<u16>> {
    let mut wide: Vec<u16> = text.as_ref().encode_wide().collect();
    if wide.contains(&0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a NUL in a text"));
    }
    wide.push(0);
    Ok(wide)
}

/// What a call of Windows that says yes or no has answered.
pub(crate) fn done(answer: windows_sys::core::BOOL) -> io::Result<()> {
    if answer == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
