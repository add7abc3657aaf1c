//! The daemon's socket for programs of dom0, and the names under which it is found.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use wire::names::{DomainId, DomainName, Target};

/// Everybody may connect; the folder says who gets that far.
const MODE: u32 = 0o777;

/// Where the daemon of `domain` (an id, a name or `uuid:…`) is found in `folder`.
#[must_use]
pub fn path(folder: &Path, domain: &str) -> PathBuf {
    folder.join(format!("qrexec.{domain}"))
}

/// The listening socket `qrexec.ID` with its links. Dropping it removes what it made, and nothing
/// that a successor has put in its place.
#[derive(Debug)]
pub struct LocalSocket {
    fd: OwnedFd,
    path: PathBuf,
    identity: (u64, u64),
    links: Vec<PathBuf>,
}

impl LocalSocket {
    /// Listens for the VM with this id, and links its name and `uuid:…`, if it has one, to that.
    ///
    /// # Errors
    /// The folder is missing or not ours to write in.
    pub fn open(folder: &Path, id: DomainId, name: &DomainName, uuid: Option<&Target>) -> io::Result<Self> {
        let id = id.to_string();
        let path = path(folder, &id);
        let fd = ring::unix::listen(&path, MODE)?;
        let identity = identity(&path)?;
        let mut socket = Self { fd, path, identity, links: Vec::new() };
        for alias in std::iter::once(name.as_str()).chain(uuid.map(Target::as_str)) {
            // A VM whose name is its own id needs no link, and a link would replace the socket.
            if alias != id {
                socket.link(self::path(folder, alias))?;
            }
        }
        Ok(socket)
    }

    /// Accepts one connection, non-blocking; `None` when there is none now.
    ///
    /// # Errors
    /// No descriptor or memory left.
    pub fn accept(&self) -> io::Result<Option<OwnedFd>> {
        ring::unix::accept(&self.fd)
    }

    fn link(&mut self, link: PathBuf) -> io::Result<()> {
        let Some(file) = self.path.file_name() else { return Err(io::ErrorKind::InvalidInput.into()) };
        match std::fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::os::unix::fs::symlink(file, &link)?;
        self.links.push(link);
        Ok(())
    }

    fn remove(&self) {
        if identity(&self.path).ok() != Some(self.identity) {
            return;
        }
        for link in &self.links {
            if std::fs::read_link(link).is_ok_and(|to| Some(to.as_os_str()) == self.path.file_name()) {
                let _ = std::fs::remove_file(link);
            }
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

impl AsFd for LocalSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        self.remove();
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path) -> LocalSocket {
        let uuid = Target::new("uuid:00-11").unwrap();
        LocalSocket::open(folder, DomainId(7), &DomainName::new("work").unwrap(), Some(&uuid)).unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let names = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn reached_by_every_name_and_gone_afterwards() {
        let root = tempfile::tempdir().unwrap();
        let socket = open(root.path());
        assert_eq!(names(root.path()), ["qrexec.7", "qrexec.uuid:00-11", "qrexec.work"]);
        for name in ["7", "work", "uuid:00-11"] {
            ring::unix::connect(&path(root.path(), name)).unwrap();
            assert!(socket.accept().unwrap().is_some());
        }
        assert!(socket.accept().unwrap().is_none());
        drop(socket);
        assert!(names(root.path()).is_empty());
    }

    #[test]
    fn a_successor_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let first = open(root.path());
        let second = open(root.path());
        drop(first);
        assert_eq!(names(root.path()).len(), 3);
        ring::unix::connect(&path(root.path(), "work")).unwrap();
        assert!(second.accept().unwrap().is_some());
    }

    #[test]
    fn a_name_that_is_the_id_is_no_link_to_itself() {
        let root = tempfile::tempdir().unwrap();
        let name = DomainName::new("7").unwrap();
        let _socket = LocalSocket::open(root.path(), DomainId(7), &name, None).unwrap();
        ring::unix::connect(&path(root.path(), "7")).unwrap();
    }
}
