#![allow(unsafe_code)] // one call that fills a structure
//! The time of day, for the log.

use windows_sys::Win32::System::SystemInformation::GetLocalTime;

/// The local time: `YYYYMMDD-hhmmss`.
pub(crate) fn stamp() -> String {
    let mut now = windows_sys::Win32::Foundation::SYSTEMTIME::default();
    // SAFETY: the pointer is that of a structure of this kind.
    unsafe { GetLocalTime(&raw mut now) };
    format!(
        "{:04}{:02}{:02}-{:02}{:02}{:02}",
        now.wYear, now.wMonth, now.wDay, now.wHour, now.wMinute, now.wSecond
    )
}
