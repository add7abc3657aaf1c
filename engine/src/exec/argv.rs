//! The arguments with which a service is started, as the kernel takes them.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Executable;

/// The shell for texts.
pub(super) const SHELL: &CStr = c"/bin/sh";

/// The argument of the call as a program gets it: no argument if it is empty.
pub(super) fn argument(what: &Executable) -> io::Result<Vec<CString>> {
    let argument = what.call.as_ref().and_then(|call| call.service.argument());
    let argument = argument.filter(|argument| !argument.is_empty());
    Ok(argument.map(CString::new).transpose()?.into_iter().collect())
}

pub(super) fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
