//! Errors, sorted by whose fault they are.

/// What ends a link because of the other side.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The peer broke the protocol; its connection is closed and nothing else happens.
    #[error("the peer broke the protocol: {0}")]
    Misbehaved(#[from] Breach),
    /// The peer keeps the protocol, but one that is too old to be spoken here.
    #[error("the peer speaks protocol {theirs}, at least {least} is needed")]
    Incompatible {
        /// The version in the peer's HELLO.
        theirs: u32,
        /// The lowest version that this link accepts.
        least: u32,
    },
}

/// How exactly a peer broke the protocol. No variant carries bytes chosen by the peer, only numbers,
/// so every text is safe to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Breach {
    /// A message type that is not defined.
    #[error("unknown message type {0:#x}")]
    UnknownType(u32),
    /// A known message type that may not come on this link, in this state or in this version.
    #[error("message type {0:#x} does not belong here")]
    UnexpectedType(u32),
    /// A body longer than this kind of link allows.
    #[error("a message body of {len} bytes, at most {max} are allowed")]
    BodyTooLong {
        /// Announced length in bytes.
        len: u32,
        /// The limit in bytes.
        max: u32,
    },
    /// A body whose length does not fit its message type.
    #[error("message type {ty:#x} with a body of {len} bytes")]
    BodyLength {
        /// The message type.
        ty: u32,
        /// Length of the body in bytes.
        len: usize,
    },
    /// A data chunk over the limit of the link's version.
    #[error("a data chunk of {len} bytes, at most {max} are allowed")]
    ChunkTooLong {
        /// Announced length in bytes.
        len: u32,
        /// The limit in bytes.
        max: u32,
    },
    /// A text without its final NUL, or with more text after it.
    #[error("text in message type {0:#x} is not terminated by its only NUL")]
    Termination(u32),
    /// A request id outside the printable subset, or not NUL-padded.
    #[error("malformed request id")]
    Ident,
    /// A service name that cannot be used.
    #[error("service name: {0}")]
    Service(NameError),
    /// More bytes after the end of the peer's request.
    #[error("bytes after the end of the request")]
    Trailing,
}

/// A wrong call of this crate by its own programs. Such an error means a bug here, and never that the peer is at
/// fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Misuse {
    /// This role does not send this kind of data.
    #[error("this side does not send that kind of data")]
    WrongKind,
    /// Data or an end of file after the stream's end of file.
    #[error("the stream has already ended")]
    StreamEnded,
    /// Anything after the exit code.
    #[error("the exit code has already been sent")]
    ExitSent,
    /// The exit code before the streams have ended.
    #[error("a stream is still open")]
    StreamOpen,
    /// A chunk that is empty (which would mean end of file) or over the version's limit.
    #[error("a chunk of {0} bytes cannot be sent")]
    ChunkLength(u32),
}

/// An own message that is too long for its receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of {len} bytes, the other side takes at most {max}")]
pub struct TooLong {
    /// Length in bytes of the message.
    pub len: usize,
    /// The limit in bytes.
    pub max: usize,
}

/// Why a name was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No bytes at all.
    #[error("the name is empty")]
    Empty,
    /// More bytes than the wire or the file system allows.
    #[error("the name has {len} bytes, at most {max} are allowed")]
    TooLong {
        /// Length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// A byte outside the allowed set.
    #[error("byte {0:#04x} is not allowed in a name")]
    BadByte(u8),
    /// A first character that would be misunderstood.
    #[error("a name does not begin with {0:?}")]
    BadStart(char),
}
