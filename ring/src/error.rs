#![forbid(unsafe_code)]
//! What can go wrong on a channel, sorted by whose fault it is.

use std::io;
use std::path::PathBuf;

/// The peer wrote something into the shared page that cannot be true.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadIndex {
    /// Its consumer index claims bytes that were never produced, or went backwards.
    #[error("the peer's cons {cons:#x} does not follow from prod {prod:#x} in a ring of {size} bytes")]
    Cons {
        /// What the page says.
        cons: u32,
        /// Our own producer index.
        prod: u32,
        /// Ring size in bytes.
        size: u32,
    },
    /// Its producer index claims more than the ring holds, or went backwards.
    #[error("the peer's prod {prod:#x} does not follow from cons {cons:#x} in a ring of {size} bytes")]
    Prod {
        /// What the page says.
        prod: u32,
        /// Our own consumer index.
        cons: u32,
        /// Ring size in bytes.
        size: u32,
    },
}

/// Errors of channels and of meeting.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Shared indices that cannot be true: the channel is over.
    #[error("vchan peer misbehaved: {0}")]
    BadIndex(#[from] BadIndex),
    /// The peer has closed or died; nothing can be sent any more.
    #[error("vchan peer is gone")]
    Closed,
    /// Orders outside 10 to 20, or two small rings that would lie at the same place.
    #[error("vchan peer named impossible ring orders {left}/{right}")]
    BadOrders {
        /// Client to server.
        left: u16,
        /// Server to client.
        right: u16,
    },
    /// More than 1 MiB was asked for.
    #[error("a ring of {asked} bytes is too large: the format ends at 1048576")]
    TooLarge {
        /// The minimum that was asked for.
        asked: usize,
    },
    /// The other end of the meeting socket did not keep to the protocol.
    #[error("vchan peer at {path:?} misbehaved: {what}")]
    BadMeeting {
        /// The socket.
        path: PathBuf,
        /// What was wrong.
        what: &'static str,
    },
    /// Nobody came in time.
    #[error("no vchan peer within {0:?}")]
    Timeout(std::time::Duration),
    /// This machine was saved and restored: no channel lives through that.
    #[error("this VM was restored from a saved one, which ends all its calls")]
    Restored,
    /// The limit on one domain's pages keeps it from taking all memory that is left for mapped pages.
    #[error("calls with domain {domain} have as many of its pages mapped here as they may")]
    TooManyPages {
        /// Whose pages.
        domain: u32,
    },
    /// The environment names no usable transport.
    #[error("{0}")]
    Config(String),
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path where there is one.
        what: String,
        /// The reason.
        source: io::Error,
    },
}

impl Error {
    /// Wraps a failed system call.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }
}
