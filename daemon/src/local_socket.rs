//! The daemon's socket for programs of dom0, and the names under which it is found.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use engine::unix::Bound;
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
    socket: Bound,
    links: Vec<PathBuf>,
}

impl LocalSocket {
    /// Listens for the VM with this id, and links its name and `uuid:…`, if it has one, to that.
    ///
    /// The links come first, so that all names lead to the socket from the same moment on: who has seen one of
    /// them answer may use any other.
    ///
    /// # Errors
    /// The folder is missing or not ours to write in; a name is taken by something that is no link.
    pub fn open(folder: &Path, id: DomainId, name: &DomainName, uuid: Option<&Target>) -> io::Result<Self> {
        Self::open_by(folder, id, name, uuid, |path| Bound::new(path, MODE))
    }

    fn open_by(
        folder: &Path,
        id: DomainId,
        name: &DomainName,
        uuid: Option<&Target>,
        listen: impl FnOnce(&Path) -> io::Result<Bound>,
    ) -> io::Result<Self> {
        let id = id.to_string();
        let path = path(folder, &id);
        let names = std::iter::once(name.as_str()).chain(uuid.map(Target::as_str));
        // A VM whose name is its own id needs no link, and a link would replace the socket.
        let links: Vec<PathBuf> =
            names.filter(|name| *name != id).map(|name| self::path(folder, name)).collect();
        let mut made = Vec::new();
        let opened = link_all(&path, &links, &mut made).and_then(|()| listen(&path));
        match opened {
            Ok(socket) => {
                let socket = Self { socket, links };
                // A predecessor that ended meanwhile has taken the links for its own.
                link_all(&path, &socket.links, &mut made)?;
                Ok(socket)
            }
            Err(error) => {
                // Those that were there before may be another's that lives.
                unlink(&path, &made);
                Err(error)
            }
        }
    }

    /// Accepts one connection, non-blocking; `None` when there is none now.
    ///
    /// # Errors
    /// No descriptor or memory left.
    pub fn accept(&self) -> io::Result<Option<OwnedFd>> {
        self.socket.accept()
    }

    fn remove(&self) {
        let path = self.socket.path();
        let _ = self.socket.withdraw();
        // A successor's socket stays, and its links with it.
        if path.exists() {
            return;
        }
        unlink(path, &self.links);
        if path.exists() {
            // One came just now and had found its links in place.
            let _ = link_all(path, &self.links, &mut Vec::new());
        }
    }
}

/// Makes all `links` lead to the socket beside them, and adds to `made` those that did not before.
fn link_all(socket: &Path, links: &[PathBuf], made: &mut Vec<PathBuf>) -> io::Result<()> {
    links.iter().try_for_each(|link| {
        if self::link(socket, link)? {
            made.push(link.clone());
        }
        Ok(())
    })
}

/// Makes `link` lead to the socket beside it. `false`: it does already. What is there and no link is left alone: it
/// may be the socket of a VM whose id is this one's name.
fn link(socket: &Path, link: &Path) -> io::Result<bool> {
    let Some(file) = socket.file_name() else { return Err(io::ErrorKind::InvalidInput.into()) };
    if leads_to(link, socket) {
        return Ok(false);
    }
    if std::fs::symlink_metadata(link).is_ok_and(|meta| meta.is_symlink()) {
        std::fs::remove_file(link)?;
    }
    match std::os::unix::fs::symlink(file, link) {
        // Somebody who does the same was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && leads_to(link, socket) => Ok(false),
        Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", link.display()))),
        Ok(()) => Ok(true),
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
        self.socket.as_fd()
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path) -> LocalSocket {
        let uuid = Target::new("uuid:00-11").unwrap();
        LocalSocket::open(folder, DomainId(7), &DomainName::new("work").unwrap(), Some(&uuid)).unwrap()
    }

    fn assert_reached(socket: &LocalSocket, folder: &Path, name: &str) {
        engine::unix::connect(&path(folder, name)).unwrap();
        assert!(socket.accept().unwrap().is_some(), "{name}");
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
            assert_reached(&socket, root.path(), name);
        }
        assert!(socket.accept().unwrap().is_none());
        drop(socket);
        assert!(names(root.path()).is_empty());
    }

    /// With the names that are there when the socket gets its own, or not at all.
    fn opened_by(folder: &Path, listens: bool) -> (Vec<String>, io::Result<LocalSocket>) {
        let (uuid, name) = (Target::new("uuid:00-11").unwrap(), DomainName::new("work").unwrap());
        let mut then = Vec::new();
        let socket = LocalSocket::open_by(folder, DomainId(7), &name, Some(&uuid), |path| {
            then = names(folder);
            if listens { Bound::new(path, MODE) } else { Err(io::ErrorKind::OutOfMemory.into()) }
        });
        (then, socket)
    }

    #[test]
    fn all_names_lead_to_it_from_the_same_moment_on() {
        let root = tempfile::tempdir().unwrap();
        let (then, socket) = opened_by(root.path(), true);
        assert_eq!(then, ["qrexec.uuid:00-11", "qrexec.work"], "links that lead nowhere yet");
        drop(socket.unwrap());
        assert!(names(root.path()).is_empty());
    }

    #[test]
    fn a_failure_leaves_nothing_behind_and_takes_nothing_away() {
        let root = tempfile::tempdir().unwrap();
        opened_by(root.path(), false).1.unwrap_err();
        assert!(names(root.path()).is_empty());
        let living = open(root.path());
        opened_by(root.path(), false).1.unwrap_err();
        assert_reached(&living, root.path(), "work");
    }

    #[test]
    fn a_name_that_is_anothers_id_takes_no_socket_away() {
        let root = tempfile::tempdir().unwrap();
        let living = open(root.path());
        let name = DomainName::new("7").unwrap();
        let error = LocalSocket::open(root.path(), DomainId(8), &name, None).unwrap_err();
        assert!(error.to_string().contains("qrexec.7"), "{error}");
        assert_reached(&living, root.path(), "7");
    }

    #[test]
    fn a_link_that_leads_elsewhere_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("qrexec.6", path(root.path(), "work")).unwrap();
        let socket = open(root.path());
        assert_reached(&socket, root.path(), "work");
    }

    #[test]
    fn a_successor_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let first = open(root.path());
        let second = open(root.path());
        drop(first);
        assert_eq!(names(root.path()).len(), 3);
        assert_reached(&second, root.path(), "work");
    }

    #[test]
    fn a_name_that_is_the_id_is_no_link_to_itself() {
        let root = tempfile::tempdir().unwrap();
        let name = DomainName::new("7").unwrap();
        let _socket = LocalSocket::open(root.path(), DomainId(7), &name, None).unwrap();
        engine::unix::connect(&path(root.path(), "7")).unwrap();
    }
}
