#![forbid(unsafe_code)]
//! Why a call fails, as a C program learns of it: -1 (or a null pointer) and `errno`.

use ring::Error;

/// Why a call returns -1.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A null pointer, a negative number, or more bytes than an `int` or the ring can hold.
    Invalid,
    /// The peer is gone, and what it left has been read.
    Closed,
    /// The connection attempt is not finished.
    NotYet,
    /// The channel cannot be used: the peer broke the protocol, or a system call failed.
    Fatal(Error),
}

impl Failure {
    /// The value for `errno`.
    pub(crate) fn errno(&self) -> i32 {
        match self {
            Failure::Invalid => libc::EINVAL,
            Failure::Closed => libc::EPIPE,
            Failure::NotYet => libc::EAGAIN,
            Failure::Fatal(Error::Io { source, .. }) => source.raw_os_error().unwrap_or(libc::EIO),
            Failure::Fatal(Error::BadIndex(_) | Error::BadMeeting { .. } | Error::BadOrders { .. }) => {
                libc::EPROTO
            }
            Failure::Fatal(_) => libc::EINVAL,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Invalid => f.write_str("impossible argument"),
            Failure::Closed => f.write_str("the peer is gone"),
            Failure::NotYet => f.write_str("not connected yet"),
            Failure::Fatal(error) => write!(f, "{error}"),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::Closed => Failure::Closed,
            other => Failure::Fatal(other),
        }
    }
}
