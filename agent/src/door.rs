//! The socket on which programs of this VM ask for services.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Everybody may ask; who may enter the folder decides more.
const MODE: u32 = 0o777;

/// The listening socket. Its file goes with it, unless another agent has put its own in that place.
#[derive(Debug)]
pub(crate) struct Door {
    socket: OwnedFd,
    path: PathBuf,
    file: Option<(u64, u64)>,
}

impl Door {
    /// Listens at `path`.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let socket = ring::unix::listen(path, MODE)?;
        Ok(Self { socket, path: path.to_owned(), file: identity(path) })
    }

    /// The next connection, non-blocking; `None`: nobody is waiting.
    pub(crate) fn accept(&self) -> io::Result<Option<OwnedFd>> {
        ring::unix::accept(&self.socket)
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if self.file.is_some() && identity(&self.path) == self.file {
            // A stale file would be replaced by the next agent.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_file_is_open_to_all_and_goes_with_the_door() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("agent");
        let door = Door::open(&path).expect("listens");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o777);
        assert!(door.accept().expect("nobody").is_none());
        let _client = std::os::unix::net::UnixStream::connect(&path).expect("connects");
        assert!(door.accept().expect("somebody").is_some());

        let successor = Door::open(&path).expect("replaces it");
        drop(door);
        assert!(path.exists());
        drop(successor);
        assert!(!path.exists());
    }
}
