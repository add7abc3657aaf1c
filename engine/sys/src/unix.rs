#![forbid(unsafe_code)]
//! Unix stream sockets at paths of any length.
//!
//! A socket address holds 108 bytes. Longer paths are reached through `/proc/self/fd/<folder>/<name>`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, RenameFlags};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Longest path in bytes that an address can hold, without the NUL.
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

/// A hidden name beside `path`, always the same one: a file that a killed process left there is found by the next
/// process, which removes it. The name must fit an address, so it stands for a longer one by a number.
fn hidden_beside(path: &Path, what: &str) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let shown: String = name.to_string_lossy().chars().take(16).collect();
    Ok(path.with_file_name(format!(".{what}.{:016x}.{shown}", hasher.finish())))
}

/// A listening socket with its file, which is removed with it; the file of a successor is never removed.
///
/// The socket is non-blocking. It is made ready under another name and then renamed, so that a client that finds it
/// can connect: at no moment does it exist and refuse connections, or have another mode or owner than it should.
#[derive(Debug)]
pub struct Bound {
    fd: OwnedFd,
    path: PathBuf,
    identity: Identity,
    leaves: bool,
}

impl Bound {
    /// Listens at `path` with permissions `mode`, replacing the file that was there.
    pub fn new(path: &Path, mode: u32) -> io::Result<Bound> {
        Bound::new_for(path, mode, None)
    }

    /// As [`Bound::new`]; the file gets this group.
    pub fn new_for(path: &Path, mode: u32, group: Option<Gid>) -> io::Result<Bound> {
        let (fd, identity) = listen_for(path, mode, group)?;
        Ok(Bound { fd, path: path.to_owned(), identity, leaves: false })
    }

    /// Accepts one connection, as [`accept`].
    pub fn accept(&self) -> io::Result<Option<OwnedFd>> {
        accept(&self.fd)
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file, if it is still this socket's, so that no further client can connect.
    pub fn withdraw(&self) -> io::Result<()> {
        withdraw(&self.path, self.identity)
    }

    /// Closes the socket here and leaves the file: another process holds the socket.
    pub fn leave(mut self) {
        self.leaves = true;
    }
}

impl AsFd for Bound {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if !self.leaves {
            // A file that cannot be removed is replaced by the next process that listens there.
            let _ = self.withdraw();
        }
    }
}

/// Listens at `path` as [`Bound`] does. Returns which file was made, for [`withdraw`].
///
/// The identity is taken before the socket gets its public name: afterwards a successor's file may have that name.
pub fn listen_identified(path: &Path, mode: u32) -> io::Result<(OwnedFd, Identity)> {
    listen_for(path, mode, None)
}

fn listen_for(path: &Path, mode: u32, group: Option<Gid>) -> io::Result<(OwnedFd, Identity)> {
    let temporary = hidden_beside(path, "new")?;
    let fd = socket(SocketFlags::NONBLOCK)?;
    let (at, _folder) = address(&temporary)?;
    let _ = fs::unlink(&temporary);
    bind(&fd, &at, Mode::from_raw_mode(mode))?;
    let ready = || -> io::Result<Identity> {
        let file = Made::find(&temporary)?;
        file.give_to(group)?;
        net::listen(&fd, 4096)?;
        fs::rename(&temporary, path)?;
        Ok(file.identity)
    };
    match ready() {
        Ok(identity) => Ok((fd, identity)),
        Err(error) => {
            let _ = fs::unlink(&temporary);
            Err(error)
        }
    }
}

/// Binds `fd` so that its file has `mode` from its first moment on: the kernel gives the file the socket's mode, less
/// the umask. No name is used to change the mode afterwards, since it may lead to another file by then.
fn bind(fd: &OwnedFd, at: &SocketAddrUnix, mode: Mode) -> io::Result<()> {
    fs::fchmod(fd, mode)?;
    if mode.intersects(Mode::RWXG | Mode::RWXO) {
        // The umask is that of all threads. Sockets for other users are made at the start of a program, before there
        // are others.
        let umask = rustix::process::umask(Mode::empty());
        let bound = net::bind(fd, at);
        rustix::process::umask(umask);
        return Ok(bound?);
    }
    Ok(net::bind(fd, at)?)
}

/// A socket file that was just made, held by a descriptor, whatever happens to its name.
struct Made {
    file: OwnedFd,
    identity: Identity,
}

impl Made {
    fn find(path: &Path) -> io::Result<Made> {
        let file = fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let stat = fs::fstat(&file)?;
        let ours = stat.st_uid == rustix::process::geteuid().as_raw();
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket || !ours {
            return Err(io::Error::other("somebody has put another file in the place of a new socket"));
        }
        Ok(Made { file, identity: Identity(stat.st_dev, stat.st_ino) })
    }

    fn give_to(&self, group: Option<Gid>) -> io::Result<()> {
        if group.is_some() {
            fs::chownat(&self.file, "", None, group, AtFlags::EMPTY_PATH)?;
        }
        Ok(())
    }
}

/// Removes the socket file at `path` if it is the one `identity` names, and never a successor's.
///
/// No system call compares and unlinks in one step. So the file is first moved to a name that only this code uses and
/// examined there. If it is a successor's it is put back; clients that wait see it appear.
pub fn withdraw(path: &Path, identity: Identity) -> io::Result<()> {
    if Identity::of(path)? != identity {
        return Ok(());
    }
    let aside = hidden_beside(path, "old")?;
    fs::rename(path, &aside)?;
    if Identity::of(&aside)? != identity {
        match fs::renameat_with(fs::CWD, &aside, fs::CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(()),
            // A still newer file is there already, which would have replaced the one that was moved.
            Err(rustix::io::Errno::EXIST) => {}
            // The file system does not support that flag: the successor's file is put back, even if a third one is
            // replaced by it.
            Err(_) => return Ok(fs::rename(&aside, path)?),
        }
    }
    Ok(fs::unlink(&aside)?)
}

/// Connects to `path`; the result is blocking. Waits if the listener's queue is full.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    connect_with(path, SocketFlags::empty())
}

/// Connects to `path`; the result is blocking, but waits no longer than `limit` when sending. If the listener's queue
/// is full for so long, the error is `WouldBlock`.
pub fn connect_within(path: &Path, limit: Duration) -> io::Result<OwnedFd> {
    let fd = socket(SocketFlags::empty())?;
    net::sockopt::set_socket_timeout(&fd, net::sockopt::Timeout::Send, Some(limit))?;
    let (at, _folder) = address(path)?;
    net::connect(&fd, &at)?;
    Ok(fd)
}

/// Connects to `path`; the result is non-blocking. If the listener's queue is full, the error is `WouldBlock`.
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

/// The user id of the process at the other end.
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
        let listener = Bound::new(&path, 0o600).unwrap();
        assert!(listener.accept().unwrap().is_none());
        let _client = connect(&path).unwrap();
        let server = listener.accept().unwrap().expect("a connection waits");
        assert_eq!(peer_uid(&server).unwrap(), rustix::process::getuid().as_raw());
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s");
        Bound::new(&path, 0o600).unwrap().leave();
        assert_eq!(connect(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let _listener = Bound::new(&path, 0o600).unwrap();
        connect(&path).unwrap();
    }

    /// A process may be killed before its socket has its name, or before the file was removed: the next one there
    /// removes what is left.
    #[test]
    fn what_killed_ones_leave_is_removed_by_the_next() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s");
        for what in ["new", "old"] {
            let left = hidden_beside(&path, what).unwrap();
            net::bind(socket(SocketFlags::empty()).unwrap(), &address(&left).unwrap().0).unwrap();
        }
        drop(Bound::new(&path, 0o600).unwrap());
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }

    /// Whatever umask the process has, and although no name is used to change the mode.
    #[test]
    fn a_socket_has_its_mode_from_the_first_moment_on() {
        let root = tempfile::tempdir().unwrap();
        for mode in [0o600, 0o660, 0o666, 0o777] {
            let path = root.path().join("s");
            let fd = socket(SocketFlags::empty()).unwrap();
            bind(&fd, &address(&path).unwrap().0, Mode::from_raw_mode(mode)).unwrap();
            assert_eq!(
                std::fs::metadata(&path).unwrap().mode() & 0o7777,
                mode,
                "bound, and nothing else done"
            );
            let _bound = Bound::new(&path, mode).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, mode);
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_file_that_is_no_socket_of_ours_is_not_dressed() {
        let root = tempfile::tempdir().unwrap();
        let (file, link) = (root.path().join("file"), root.path().join("link"));
        std::fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let bound = Bound::new(&root.path().join("s"), 0o600).unwrap();
        let to_socket = root.path().join("to-socket");
        std::os::unix::fs::symlink(bound.path(), &to_socket).unwrap();
        for other in [&file, &link, &to_socket] {
            assert!(Made::find(other).is_err(), "{}", other.display());
        }
        Made::find(bound.path()).unwrap().give_to(Some(rustix::process::getegid())).unwrap();
    }

    #[test]
    fn only_ones_own_socket_is_withdrawn() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s");
        let first = Bound::new(&path, 0o600).unwrap();
        let second = Bound::new(&path, 0o600).unwrap();
        drop(first);
        connect(&path).unwrap();
        second.withdraw().unwrap();
        assert_eq!(connect(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_successor_that_comes_during_the_withdrawal_stays() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s");
        for _ in 0..300 {
            let old = Bound::new(&path, 0o600).unwrap();
            let new = std::thread::scope(|threads| {
                let new = threads.spawn(|| Bound::new(&path, 0o600).unwrap());
                drop(old);
                new.join().unwrap()
            });
            connect(&path).expect("the successor is there");
            new.leave();
        }
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
