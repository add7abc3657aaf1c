//! Where files of other qubes go: `~/QubesIncoming/SOURCE`.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use rustix::process::getuid;

use crate::shown::Name;

/// Why there is no folder to receive into. The text is the line for stderr.
#[derive(Debug, thiserror::Error)]
pub enum NoFolder {
    /// No qube can have that name.
    #[error("{} cannot be the name of a qube", Name(.0))]
    Source(Vec<u8>),
    /// It does not exist and cannot be made.
    #[error("cannot make {}: {error}", shown(path))]
    Make {
        /// The folder.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
    /// It cannot be opened.
    #[error("cannot open the folder {}: {error}", shown(path))]
    Open {
        /// The folder.
        path: PathBuf,
        /// The reason.
        error: Errno,
    },
    /// Its owner cannot be found out.
    #[error("{0}")]
    Owner(#[from] Errno),
    /// It belongs to another user.
    #[error("{} belongs to user {user}", shown(path))]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// The owner.
        user: u32,
    },
}

/// The folder for files of `source` in this home, made if it is missing.
///
/// # Errors
/// There is none, and none can be made.
pub fn incoming(source: &[u8], home: &Path) -> Result<OwnedFd, NoFolder> {
    if !is_qube(source) {
        return Err(NoFolder::Source(source.to_owned()));
    }
    let top = home.join("QubesIncoming");
    let folder = top.join(std::ffi::OsString::from_vec(source.to_vec()));
    for path in [&top, &folder] {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(NoFolder::Make { path: path.clone(), error });
            }
            _ => {}
        }
    }
    let root = open(&folder)?;
    let owner = fstat(&root)?.st_uid;
    if owner != getuid().as_raw() && owner != 0 {
        return Err(NoFolder::Foreign { path: folder, user: owner });
    }
    Ok(root)
}

/// Whether this can be a qube's name: any other name was not given by qrexec and must not become a folder's.
fn is_qube(name: &[u8]) -> bool {
    let first = name.first().is_some_and(u8::is_ascii_alphabetic);
    first && name.len() <= 31 && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(byte))
}

/// Opens a folder to receive into.
///
/// # Errors
/// It does not exist, is no folder, or may not be read.
pub fn open(folder: &Path) -> Result<OwnedFd, NoFolder> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = openat(CWD, folder, flags, Mode::empty());
    opened.map_err(|error| NoFolder::Open { path: folder.to_owned(), error })
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
