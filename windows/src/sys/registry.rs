#![allow(unsafe_code)] // values go in by pointer and length
//! The registry, which records where the installation is.

use std::io;

use windows_sys::Win32::System::Registry::{
    HKEY, HKEY_LOCAL_MACHINE, REG_SZ, RegDeleteKeyValueW, RegSetKeyValueW,
};

use super::wide;

/// The key of the installation.
pub(crate) const OURS: &str = r"Software\Invisible Things Lab\Qubes Tools";
/// The key of the environment for all processes.
pub(crate) const ENVIRONMENT: &str = r"SYSTEM\CurrentControlSet\Control\Session Manager\Environment";

const MACHINE: HKEY = HKEY_LOCAL_MACHINE;

/// Sets a text below the machine's key.
pub(crate) fn set(key: &str, name: &str, value: &str) -> io::Result<()> {
    let (key, name, value) = (wide(key)?, wide(name)?, wide(value)?);
    let len = u32::try_from(value.len().saturating_mul(2)).unwrap_or(u32::MAX);
    // SAFETY: the texts end with NULs, the value has `len` bytes.
    let answer =
        unsafe { RegSetKeyValueW(MACHINE, key.as_ptr(), name.as_ptr(), REG_SZ, value.as_ptr().cast(), len) };
    result(answer)
}

/// Removes a value, if it is there.
pub(crate) fn remove(key: &str, name: &str) -> io::Result<()> {
    let (key, name) = (wide(key)?, wide(name)?);
    // SAFETY: the texts end with NULs.
    let answer = unsafe { RegDeleteKeyValueW(MACHINE, key.as_ptr(), name.as_ptr()) };
    match result(answer) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn result(answer: u32) -> io::Result<()> {
    match i32::try_from(answer) {
        Ok(0) => Ok(()),
        Ok(code) => Err(io::Error::from_raw_os_error(code)),
        Err(_) => Err(io::Error::other("the registry answers nonsense")),
    }
}
