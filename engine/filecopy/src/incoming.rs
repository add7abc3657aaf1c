//! Where files of other qubes go: `~/QubesIncoming/SOURCE`.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, fstat, openat};
use rustix::process::getuid;

use crate::shown::Name;

/// The folder for files of `source` in this home, made if need be.
///
/// # Errors
/// The line for stderr.
pub fn incoming(source: &[u8], home: &Path) -> Result<OwnedFd, String> {
    if !is_qube(source) {
        return Err(format!("{} cannot be the name of a qube", Name(source)));
    }
    let top = home.join("QubesIncoming");
    let folder = top.join(std::ffi::OsString::from_vec(source.to_vec()));
    for path in [&top, &folder] {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(format!("cannot make {}: {error}", shown(path)));
            }
            _ => {}
        }
    }
    let root = open(&folder)?;
    let owner = fstat(&root).map_err(|error| error.to_string())?.st_uid;
    if owner != getuid().as_raw() && owner != 0 {
        return Err(format!("{} belongs to user {owner}", shown(&folder)));
    }
    Ok(root)
}

/// Whether this is a qube's name: what else becomes a folder's name was not told by qrexec.
fn is_qube(name: &[u8]) -> bool {
    let first = name.first().is_some_and(u8::is_ascii_alphabetic);
    first && name.len() <= 31 && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(byte))
}

/// Opens a folder to receive into.
///
/// # Errors
/// The line for stderr.
pub fn open(folder: &Path) -> Result<OwnedFd, String> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = openat(CWD, folder, flags, Mode::empty());
    opened.map_err(|error| format!("cannot open the folder {}: {error}", shown(folder)))
}

fn shown(path: &Path) -> String {
    Name(path.as_os_str().as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_qubes_name_becomes_a_folder() {
        for good in ["work", "sys-net", "dom0", "a.b_c"] {
            assert!(is_qube(good.as_bytes()), "{good}");
        }
        for bad in ["", "..", "a/b", ".", "-x", "9x", "é", &"x".repeat(32)] {
            assert!(!is_qube(bad.as_bytes()), "{bad}");
        }
    }
}
