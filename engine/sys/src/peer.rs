#![allow(unsafe_code)] // one getsockopt(2), because rustix cannot represent a peer without a process id
//! The user at the other end of a unix socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// The user id of the process that connected, or listened, at the other end.
///
/// Not through `rustix::net::sockopt::socket_peercred`: a peer outside of this process's PID namespace has the process
/// id 0, which rustix's result type cannot hold, so that even a valid answer would be an error.
///
/// # Errors
/// `fd` is no unix socket.
pub(crate) fn uid(fd: impl AsFd) -> io::Result<u32> {
    let mut credentials = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `credentials` is a live, writable `struct ucred` and `length` says its exact size, so the kernel writes
    // inside it; any bytes make a valid value of its three integers. The descriptor is borrowed for the call.
    let result = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(credentials.uid)
}
