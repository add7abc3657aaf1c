#![forbid(unsafe_code)]
//! Unix stream sockets at paths of any length.
//!
//! A socket address holds 108 bytes. Longer paths are reached through `/proc/self/fd/<folder>/<name>`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{self, Mode, OFlags, RenameFlags};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Bytes of a path that an address surely holds, its NUL included.
const ADDRESS_PATH: usize = 107;

/// An address for `path`, and the folder that must stay open while the address is used.
fn address(path: &Path) -> io::Result<(SocketAddrUnix, Option<OwnedFd>)> {
    if path.as_os_str().len() <= ADDRESS_PATH {
        return Ok((SocketAddrUnix::new(path)?, None));
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    short.push(name);
    Ok((SocketAddrUnix::new(short)?, Some(folder)))
}

fn socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | flags, None)?)
}

/// Which file a name stands for: device and inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity(u64, u64);

impl Identity {
    fn of(path: &Path) -> io::Result<Identity> {
        let meta = std::fs::symlink_metadata(path)?;
        Ok(Identity(meta.dev(), meta.ino()))
    }
}

/// A hidden name beside `path`, always the same one: what a killed process leaves there is in the way of the next one,
/// which removes it. The name must fit an address, so it stands for a longer one by a number.
fn hidden_beside(path: &Path, what: &str) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let shown: String = name.to_string_lossy().chars().take(16).collect();
    Ok(path.with_file_name(format!(".{what}.{:016x}.{shown}", hasher.finish())))
}

/// Listens at `path` with permissions `mode`, replacing what was there.
///
/// The socket is made ready under another name and renamed, so that whoever finds it can connect:
/// there is no moment at which it exists and refuses. The result is non-blocking.
pub fn listen(path: &Path, mode: u32) -> io::Result<OwnedFd> {
    listen_identified(path, mode).map(|(fd, _)| fd)
}

/// As [`listen`], and tells which file was made, for [`withdraw`].
///
/// The identity is taken before the socket gets its public name: afterwards a successor may have it.
pub fn listen_identified(path: &Path, mode: u32) -> io::Result<(OwnedFd, Identity)> {
    let temporary = hidden_beside(path, "new")?;

    let fd = socket(SocketFlags::NONBLOCK)?;
    let (at, _folder) = address(&temporary)?;
    let _ = fs::unlink(&temporary);
    net::bind(&fd, &at)?;
    let ready = || -> io::Result<Identity> {
        fs::chmod(&temporary, Mode::from_raw_mode(mode))?;
        net::listen(&fd, 4096)?;
        let identity = Identity::of(&temporary)?;
        fs::rename(&temporary, path)?;
        Ok(identity)
    };
    match ready() {
        Ok(identity) => Ok((fd, identity)),
        Err(error) => {
            let _ = fs::unlink(&temporary);
            Err(error)
        }
    }
}

/// Removes the socket file at `path` if it is the one `identity` names, and never a successor's.
///
/// No system call compares and unlinks in one step. So the file is moved aside first, looked at where
/// nobody replaces it, and put back if a successor came in between; clients that wait see it appear.
pub fn withdraw(path: &Path, identity: Identity) -> io::Result<()> {
    if Identity::of(path)? != identity {
        return Ok(());
    }
    let aside = hidden_beside(path, "old")?;
    fs::rename(path, &aside)?;
    if Identity::of(&aside)? != identity {
        match fs::renameat_with(fs::CWD, &aside, fs::CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(()),
            // A still newer one is there already: what was moved aside would have been replaced by it.
            Err(rustix::io::Errno::EXIST) => {}
            // A file system without that flag: the successor's place matters more than a third one's.
            Err(_) => return Ok(fs::rename(&aside, path)?),
        }
    }
    Ok(fs::unlink(&aside)?)
}

/// Connects to `path`; the result is blocking. Never waits longer than the listener's queue takes.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    connect_with(path, SocketFlags::empty())
}

/// Connects to `path`; the result is blocking, but waits no longer than `limit` to send. A listener whose queue is full
/// for so long is `WouldBlock`.
pub fn connect_within(path: &Path, limit: Duration) -> io::Result<OwnedFd> {
    let fd = socket(SocketFlags::empty())?;
    net::sockopt::set_socket_timeout(&fd, net::sockopt::Timeout::Send, Some(limit))?;
    let (at, _folder) = address(path)?;
    net::connect(&fd, &at)?;
    Ok(fd)
}

/// Connects to `path`; the result is non-blocking, and a full queue is `WouldBlock`.
pub fn connect_nonblocking(path: &Path) -> io::Result<OwnedFd> {
    connect_with(path, SocketFlags::NONBLOCK)
}

fn connect_with(path: &Path, flags: SocketFlags) -> io::Result<OwnedFd> {
    let fd = socket(flags)?;
    let (at, _folder) = address(path)?;
    net::connect(&fd, &at)?;
    Ok(fd)
}

/// Accepts one connection, close-on-exec and non-blocking; `None` when there is none now.
pub fn accept(listener: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    loop {
        match net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(fd) => return Ok(Some(fd)),
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The user id of whoever is at the other end.
pub fn peer_uid(fd: &OwnedFd) -> io::Result<u32> {
    crate::peer::uid(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_longer_than_an_address_work_and_leave_no_temporary() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("x".repeat(150)).join("y".repeat(50));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("a-name-of-ordinary-length.sock");
        let listener = listen(&path, 0o600).unwrap();
        assert!(accept(&listener).unwrap().is_none());
        let _client = connect(&path).unwrap();
        let server = accept(&listener).unwrap().expect("a connection waits");
        assert_eq!(peer_uid(&server).unwrap(), rustix::process::getuid().as_raw());
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s");
        drop(listen(&path, 0o600).unwrap());
        assert_eq!(connect(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let _listener = listen(&path, 0o600).unwrap();
        connect(&path).unwrap();
    }

    /// Killed before it had its name, or before it was gone: the next one at that place removes what is left.
    #[test]
    fn what_killed_ones_leave_is_removed_by_the_next() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s");
        for what in ["new", "old"] {
            let left = hidden_beside(&path, what).unwrap();
            net::bind(socket(SocketFlags::empty()).unwrap(), &address(&left).unwrap().0).unwrap();
        }
        let (_listener, identity) = listen_identified(&path, 0o600).unwrap();
        withdraw(&path, identity).unwrap();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_ones_own_socket_is_withdrawn() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s");
        let (_first, first) = listen_identified(&path, 0o600).unwrap();
        let (_second, second) = listen_identified(&path, 0o600).unwrap();
        withdraw(&path, first).unwrap();
        connect(&path).unwrap();
        withdraw(&path, second).unwrap();
        assert_eq!(connect(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_successor_that_comes_during_the_withdrawal_stays() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s");
        for _ in 0..300 {
            let (_old, identity) = listen_identified(&path, 0o600).unwrap();
            let new = std::thread::scope(|threads| {
                let new = threads.spawn(|| listen(&path, 0o600).unwrap());
                withdraw(&path, identity).unwrap();
                new.join().unwrap()
            });
            connect(&path).expect("the successor is there");
            drop(new);
        }
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
