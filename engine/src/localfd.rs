#![forbid(unsafe_code)]
//! Local descriptors: pipes, sockets, terminals and files that other processes may share.
//!
//! An inherited open file description belongs to the caller's shell as well, so its flags are never changed. A pipe or
//! terminal is reopened through `/proc/self/fd/N`, which gives this process a description of its own that can be
//! non-blocking; a socket is used with `MSG_DONTWAIT`; a file never waits. A descriptor that cannot be reopened is
//! used with care: it is read once after `POLLIN`, and after `POLLOUT` so little is written that the write does not
//! wait. Pipes have other ways as well, see [`shared`].

mod shared;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use ring::{Access, Spans};
use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::ReadWriteFlags;
use rustix::net::Shutdown;

use shared::Shared;

/// `PIPE_BUF` of Linux: a pipe that polls writable takes this much without blocking.
const PIPE_BUF: usize = 4096;

/// A terminal that polls writable takes this much without blocking, but not always more. A process that waits in such
/// a write is not woken when there is room again.
const TERMINAL_BUF: usize = 1024;

/// The offset for `preadv2` and `pwritev2` that means the descriptor's own position.
const HERE: u64 = u64::MAX;

/// The direction of the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// This process reads.
    In,
    /// This process writes.
    Out,
}

/// How a descriptor is used so that it never blocks this process.
#[derive(Debug)]
enum Kind {
    /// A non-blocking description of this process's own.
    Own,
    /// Any socket.
    Socket,
    /// A regular file or a memory device, which never waits.
    File,
    /// A pipe whose description is shared and blocking.
    Shared(Shared),
    /// Anything else whose description is shared and blocking.
    Careful,
}

/// One local descriptor, ready to be pumped.
#[derive(Debug)]
pub struct LocalFd {
    fd: OwnedFd,
    kind: Kind,
    terminal: Option<Side>,
}

/// The two sides of a terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    /// The side of programs, some of them in the background.
    Programs,
    /// The side of the program that emulates the terminal.
    Master,
}

impl LocalFd {
    /// Takes charge of `fd`. `BrokenPipe` means that a pipe's reader is already gone.
    pub fn adopt(fd: OwnedFd, direction: Direction) -> io::Result<LocalFd> {
        let stat = fs::fstat(&fd)?;
        let (terminal, kind) = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Socket => (None, Kind::Socket),
            FileType::RegularFile | FileType::BlockDevice => (None, Kind::File),
            FileType::Fifo => return Self::reopen(fd, direction, None),
            // Opening a terminal's other side, the master, would make a new terminal.
            FileType::CharacterDevice if is_master(&fd) => (Some(Side::Master), Kind::Careful),
            FileType::CharacterDevice if is_terminal(&fd) => {
                return Self::reopen(fd, direction, Some(Side::Programs));
            }
            FileType::CharacterDevice if is_memory_device(stat.st_rdev) => (None, Kind::File),
            _ => (None, Kind::Careful),
        };
        Ok(LocalFd { fd, kind, terminal })
    }

    fn reopen(fd: OwnedFd, direction: Direction, terminal: Option<Side>) -> io::Result<LocalFd> {
        let access = match direction {
            Direction::In => OFlags::RDONLY,
            Direction::Out => OFlags::WRONLY,
        };
        let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        match fs::open(own_path(&fd), flags, Mode::empty()) {
            Ok(own) => Ok(LocalFd { fd: own, kind: Kind::Own, terminal }),
            Err(rustix::io::Errno::NXIO) => Err(io::ErrorKind::BrokenPipe.into()),
            // Another user's pipe or terminal, or there is no /proc: use the descriptor as it was given.
            Err(_) if terminal.is_some() => Ok(LocalFd { fd, kind: Kind::Careful, terminal }),
            Err(_) => {
                let kind = Kind::Shared(Shared::new(fd.as_fd(), direction));
                Ok(LocalFd { fd, kind, terminal })
            }
        }
    }

    /// Whether a write may be tried before poll said that the descriptor is ready.
    pub fn may_try(&self) -> bool {
        match &self.kind {
            Kind::Own | Kind::Socket | Kind::File => true,
            Kind::Shared(shared) => shared.may_try(),
            Kind::Careful => false,
        }
    }

    /// The same for a read. Not on a terminal: a program in its background that reads is stopped, even if there is no
    /// input.
    pub fn may_try_reading(&self) -> bool {
        self.may_try() && self.terminal.is_none()
    }

    /// Whether a read would stop this process, because it is in the background of the terminal and the input is for
    /// other programs.
    pub fn is_in_background(&self) -> bool {
        self.terminal == Some(Side::Programs)
            && rustix::termios::tcgetpgrp(&self.fd).is_ok_and(|front| Some(front) != crate::process::group())
    }

    /// Whether the descriptor never waits, as a file's, so that polling it is useless.
    pub fn is_always_ready(&self) -> bool {
        matches!(self.kind, Kind::File)
    }

    /// Most bytes that one write may carry.
    pub fn write_limit(&self) -> usize {
        match (&self.kind, self.terminal) {
            (Kind::Shared(shared), _) => shared.write_limit(self.fd.as_fd()),
            (Kind::Careful, Some(_)) => TERMINAL_BUF,
            (Kind::Careful, None) => PIPE_BUF,
            _ => usize::MAX,
        }
    }

    /// How the ring's spans are to be transferred.
    fn access(&self) -> Access {
        if matches!(self.kind, Kind::Socket) { Access::Socket } else { Access::File }
    }

    /// Gives the pipe of a call that moves much as much room as the ring has, so that each turn moves more. What the
    /// user's limits forbid stays as it is; content and flags never change.
    pub fn grow(&self, bytes: usize) {
        if let Kind::Shared(shared) = &self.kind {
            return shared.grow(self.fd.as_fd(), bytes);
        }
        if matches!(self.kind, Kind::Own)
            && rustix::pipe::fcntl_getpipe_size(&self.fd).is_ok_and(|now| now < bytes)
        {
            let _ = rustix::pipe::fcntl_setpipe_size(&self.fd, bytes);
        }
    }

    /// Makes a pipe of this process's own hold exactly `bytes`. Returns whether that was possible.
    pub fn set_pipe_size(&self, bytes: usize) -> bool {
        matches!(self.kind, Kind::Own)
            && rustix::pipe::fcntl_setpipe_size(&self.fd, bytes).is_ok_and(|now| now == bytes)
    }

    /// A reference to a pipe of this process's own by which [`Left::held`] tells what is unread after the descriptor
    /// was closed. It keeps neither the pipe nor its content alive.
    pub fn left(&self) -> Option<Left> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let path = fs::open(own_path(&self.fd), flags, Mode::empty()).ok()?;
        (matches!(self.kind, Kind::Own)).then_some(Left(path))
    }

    /// Reads into ring spans.
    pub fn fill(&self, spans: &Spans<'_>) -> io::Result<usize> {
        self.eof_if_gone(match &self.kind {
            Kind::Shared(shared) => shared.read(|access| spans.fill_from(self.fd.as_fd(), access)),
            _ => spans.fill_from(self.fd.as_fd(), self.access()),
        })
    }

    /// Writes ring spans.
    pub fn drain(&self, spans: &Spans<'_>) -> io::Result<usize> {
        let pipe = self.fd.as_fd();
        match &self.kind {
            Kind::Shared(shared) => {
                shared.write(pipe, spans.bytes(), |to, access| spans.drain_to(to, access))
            }
            _ => spans.drain_to(pipe, self.access()),
        }
    }

    /// Reads into private memory.
    pub fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.eof_if_gone(match &self.kind {
            Kind::Socket => {
                use rustix::net::{RecvFlags, recv};
                recv(&self.fd, buf, RecvFlags::DONTWAIT).map(|(n, _)| n).map_err(io::Error::from)
            }
            Kind::Shared(shared) => shared.read(|access| match access {
                Access::Nowait => {
                    let bufs = &mut [io::IoSliceMut::new(buf)];
                    Ok(rustix::io::preadv2(&self.fd, bufs, HERE, ReadWriteFlags::NOWAIT)?)
                }
                _ => Ok(rustix::io::read(&self.fd, &mut *buf)?),
            }),
            _ => rustix::io::read(&self.fd, buf).map_err(io::Error::from),
        })
    }

    /// A connection that was reset has ended, and so has a terminal whose other side was closed. On anything else,
    /// such as a disk, the same error means that there are more bytes which cannot be read.
    fn eof_if_gone(&self, result: io::Result<usize>) -> io::Result<usize> {
        let hung_up = |e: &io::Error| {
            self.terminal.is_some() && e.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
        };
        match result {
            Err(e) if is_gone(&e) || hung_up(&e) => Ok(0),
            other => other,
        }
    }

    /// Writes private memory, at most [`LocalFd::write_limit`] bytes of it.
    pub fn write(&self, buf: &[u8]) -> io::Result<usize> {
        let buf = &buf[..buf.len().min(self.write_limit())];
        Ok(match &self.kind {
            Kind::Socket => {
                use rustix::net::{SendFlags, send};
                send(&self.fd, buf, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?
            }
            Kind::Shared(shared) => shared.write(self.fd.as_fd(), buf.len(), |to, access| match access {
                Access::Nowait => {
                    let bufs = &[io::IoSlice::new(buf)];
                    Ok(rustix::io::pwritev2(to, bufs, HERE, ReadWriteFlags::NOWAIT)?)
                }
                _ => Ok(rustix::io::write(to, buf)?),
            })?,
            _ => rustix::io::write(&self.fd, buf)?,
        })
    }

    /// Ends one direction. A socket of this process's own is shut down, since its other direction or a copy of it may
    /// stay open; everything else is just closed.
    pub fn finish(self, direction: Direction, shut_sockets: bool) {
        if matches!(self.kind, Kind::Socket) && shut_sockets {
            let how = match direction {
                Direction::In => Shutdown::Read,
                Direction::Out => Shutdown::Write,
            };
            // If the peer is gone already, the direction has ended anyway.
            let _ = rustix::net::shutdown(&self.fd, how);
        }
    }
}

impl AsFd for LocalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A pipe that was closed here and whose reader may still read.
#[derive(Debug)]
pub struct Left(OwnedFd);

impl Left {
    /// Bytes that were not read yet. None once the reader is gone too, since the kernel frees them then.
    #[must_use]
    pub fn held(&self) -> usize {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match fs::open(own_path(&self.0), flags, Mode::empty()) {
            Ok(pipe) => held(&pipe),
            Err(rustix::io::Errno::NXIO) => 0,
            // No descriptor is free to look with: assume that bytes are left.
            Err(_) => usize::MAX,
        }
    }
}

/// A path by which a descriptor of this process can be opened anew.
fn own_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Bytes in a pipe that were not read yet. If the pipe does not tell, the largest number.
pub fn held(pipe: impl AsFd) -> usize {
    rustix::io::ioctl_fionread(pipe).map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX))
}

/// Whether an error of a local descriptor only means that its other end is gone.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected
    )
}

fn is_terminal(fd: &OwnedFd) -> bool {
    // EIO comes from a terminal that was hung up.
    matches!(rustix::termios::tcgetattr(fd), Ok(_) | Err(rustix::io::Errno::IO))
}

/// Whether this is the side of a terminal that the program emulating it holds.
fn is_master(fd: &OwnedFd) -> bool {
    rustix::pty::ptsname(fd, Vec::new()).is_ok()
}

/// `/dev/null`, `/dev/zero` and similar devices: major number 1.
fn is_memory_device(rdev: u64) -> bool {
    rustix::fs::major(rdev) == 1
}

/// How much the socket of a local process's stdin or stdout holds before the writer waits: two transfers of the pump.
const SOCKET_BUFFER: usize = 256 << 10;

/// Two connected sockets for a local process's stdin or stdout. They are sockets and not pipes, because a process may
/// ask for one of them to carry both directions.
pub fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};
    let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    for end in [&pair.0, &pair.1] {
        // The system may limit it; a smaller buffer only means more wake-ups.
        let _ = sockopt::set_socket_send_buffer_size(end, SOCKET_BUFFER);
    }
    Ok(pair)
}

/// How much the socket of a USB device holds before the writer waits: the longest request that Linux makes of a disk,
/// and its header.
const URB: usize = (1 << 20) + 48;

/// Lets a socket take a whole request of a USB device, as far as the system or the caller's rights allow.
pub fn widen_for_urbs(socket: impl AsFd) {
    use rustix::net::sockopt;
    if sockopt::set_socket_send_buffer_size_force(&socket, URB).is_err() {
        let _ = sockopt::set_socket_send_buffer_size(&socket, URB);
    }
}

/// Takes this process's stdin and stdout and leaves `/dev/null` in their places, so that the processes at their other
/// ends see at once when they are closed.
pub fn take_stdin_stdout() -> io::Result<(OwnedFd, OwnedFd)> {
    let input = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let output = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    let null = fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok((input, output))
}

/// A copy of this process's stderr.
pub fn copy_stderr() -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3)?)
}
