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
    /// The links come first, so that all names lead to the socket from the same moment on: who has seen one of
    /// them answer may use any other.
    ///
    /// # Errors
    /// The folder is missing or not ours to write in.
    pub fn open(folder: &Path, id: DomainId, name: &DomainName, uuid: Option<&Target>) -> io::Result<Self> {
        let id = id.to_string();
        let path = path(folder, &id);
        let names = std::iter::once(name.as_str()).chain(uuid.map(Target::as_str));
        // A VM whose name is its own id needs no link, and a link would replace the socket.
        let links: Vec<PathBuf> =
            names.filter(|name| *name != id).map(|name| self::path(folder, name)).collect();
        let linked = || links.iter().try_for_each(|name| link(&path, name));
        let listening = linked().and_then(|()| ring::unix::listen(&path, MODE));
        let opened = listening.and_then(|fd| Ok((fd, identity(&path)?)));
        match opened {
            Ok((fd, identity)) => {
                let socket = Self { fd, path, identity, links };
                // A predecessor that ended meanwhile has taken the links for its own.
                socket.links.iter().try_for_each(|name| link(&socket.path, name))?;
                Ok(socket)
            }
            Err(error) => {
                unlink(&path, &links);
                Err(error)
            }
        }
    }

    /// Accepts one connection, non-blocking; `None` when there is none now.
    ///
    /// # Errors
    /// No descriptor or memory left.
    pub fn accept(&self) -> io::Result<Option<OwnedFd>> {
        ring::unix::accept(&self.fd)
    }

    fn remove(&self) {
        if identity(&self.path).ok() != Some(self.identity) {
            return;
        }
        unlink(&self.path, &self.links);
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Makes `link` lead to the socket beside it. One that does already is not touched.
fn link(socket: &Path, link: &Path) -> io::Result<()> {
    let Some(file) = socket.file_name() else { return Err(io::ErrorKind::InvalidInput.into()) };
    if leads_to(link, socket) {
        return Ok(());
    }
    match std::fs::remove_file(link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => std::os::unix::fs::symlink(file, link),
    }
}

/// Removes those of `links` that lead to the socket.
fn unlink(socket: &Path, links: &[PathBuf]) {
    for link in links.iter().filter(|link| leads_to(link, socket)) {
        let _ = std::fs::remove_file(link);
    }
}

fn leads_to(link: &Path, socket: &Path) -> bool {
    std::fs::read_link(link).is_ok_and(|to| Some(to.as_os_str()) == socket.file_name())
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
    fn all_names_lead_to_it_from_the_same_moment_on() {
        let root = tempfile::tempdir().unwrap();
        // A file of the socket's name that cannot be replaced: the links are there and lead nowhere yet.
        std::fs::create_dir(path(root.path(), "7")).unwrap();
        let uuid = Target::new("uuid:00-11").unwrap();
        let name = DomainName::new("work").unwrap();
        LocalSocket::open(root.path(), DomainId(7), &name, Some(&uuid)).unwrap_err();
        assert_eq!(names(root.path()), ["qrexec.7"], "a failure leaves nothing behind");

        std::fs::remove_dir(path(root.path(), "7")).unwrap();
        let seen = std::thread::scope(|threads| {
            let watcher = threads.spawn(|| {
                let reached = |name| ring::unix::connect(&path(root.path(), name)).is_ok();
                while !reached("7") {
                    std::thread::yield_now();
                }
                ["work", "uuid:00-11"].map(reached)
            });
            let socket = open(root.path());
            let seen = watcher.join().unwrap();
            drop(socket);
            seen
        });
        assert_eq!(seen, [true, true]);
    }

    #[test]
    fn a_link_that_leads_elsewhere_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("qrexec.6", path(root.path(), "work")).unwrap();
        let socket = open(root.path());
        ring::unix::connect(&path(root.path(), "work")).unwrap();
        assert!(socket.accept().unwrap().is_some());
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
