//! Protocol 1, which releases R1 and R2 speak: one vchan for each VM, which carries all its calls.
//!
//! There is no HELLO and no version. The daemon gives each of its local clients a small number, and every message
//! names the one that it is about. If a side cannot pass on a client's data it keeps them, and sends [`ty::XOFF`] for
//! that client only.
//!
//! [`AgentMux`] and [`DaemonMux`] are the two ends, without I/O. What arrives on the link goes in through
//! `handle_bytes`, what is to be sent comes out of `outgoing`, and what is to be done out of `poll_output`. The caller
//! reads a stream only while `may_read` allows it, and never while bytes wait to be sent: so nothing grows.

mod agent;
mod daemon;
mod frame;
mod ids;
mod kept;
mod status;
mod trigger;

pub use agent::{AgentMux, AgentOutput, CallKey, Stream};
pub use daemon::{ClientKey, DaemonMux, DaemonOutput, NoRoom};
pub use frame::{Decoder, HEADER_LEN, Header, Message};
pub use ids::IDS;
pub use status::WaitStatus;
pub use trigger::{BLOB_LEN, Blob, BlobError, Handles};

/// Message types.
pub mod ty {
    /// Client to daemon: run this command.
    pub const CLIENT_EXEC: u32 = 0x100;
    /// Client to daemon: run this command without streams.
    pub const CLIENT_JUST_EXEC: u32 = 0x101;
    /// Client to daemon: connect to the sockets of this ident.
    pub const CLIENT_CONNECT: u32 = 0x102;
    /// Daemon to agent: the sockets of this ident are the client's.
    pub const CONNECT_EXISTING: u32 = 0x103;
    /// Daemon to agent: run this command.
    pub const EXEC: u32 = 0x104;
    /// Daemon to agent: run this command without streams.
    pub const JUST_EXEC: u32 = 0x105;
    /// Daemon to agent: bytes for the process; an empty body ends them.
    pub const INPUT: u32 = 0x106;
    /// Daemon to agent: forget this client.
    pub const CLIENT_END: u32 = 0x107;
    /// Stop sending data of this client.
    pub const XOFF: u32 = 0x108;
    /// Send data of this client again.
    pub const XON: u32 = 0x109;
    /// Agent to daemon: bytes of standard output; an empty body ends them.
    pub const STDOUT: u32 = 0x10a;
    /// Agent to daemon: bytes of error output; an empty body ends them.
    pub const STDERR: u32 = 0x10b;
    /// Agent to daemon: how the process ended.
    pub const EXIT_CODE: u32 = 0x10c;
    /// Agent to daemon: a program of the VM asks for a service.
    pub const TRIGGER: u32 = 0x10d;
    /// Daemon to client: as [`STDOUT`].
    pub const TO_CLIENT_STDOUT: u32 = 0x10e;
    /// Daemon to client: as [`STDERR`].
    pub const TO_CLIENT_STDERR: u32 = 0x10f;
    /// Daemon to client: as [`EXIT_CODE`].
    pub const TO_CLIENT_EXIT_CODE: u32 = 0x110;
}

/// Bytes of the ring from the agent to the daemon. The old programs rely on both sizes: rings must not be larger.
pub const TO_DAEMON_RING: usize = 1024;
/// Bytes of the ring from the daemon to the agent.
pub const TO_AGENT_RING: usize = 2048;

/// Most data in a message to a daemon.
pub const TO_DAEMON_BODY: usize = TO_DAEMON_RING - HEADER_LEN;
/// Most data in a message to an agent.
pub const TO_AGENT_BODY: usize = TO_AGENT_RING - HEADER_LEN;
/// Most data in a message from either.
pub const MAX_DATA: usize = 4096;
/// Longest command with its NUL, on the link and on local sockets.
pub const MAX_COMMAND: usize = 65_535;

/// Bytes kept for one client that does not read them: far more than is still on the way when the other side receives
/// [`ty::XOFF`]. If it goes on sending nevertheless, this client is ended.
pub const MAX_KEPT: usize = 1 << 20;
/// Bytes kept for all clients together.
pub const MAX_KEPT_BY_ALL: usize = 8 << 20;

/// Bytes that may wait to be sent before requests are refused. Data is only read while none wait.
pub const MAX_WAITING: usize = 1 << 20;

/// How the other side broke the protocol, for which the link is closed. No text of the peer's is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// A type that is never sent to this side.
    #[error("message type {0:#x} does not belong here")]
    Type(u32),
    /// No client can have this number.
    #[error("client id {0}: the highest is 255")]
    Client(u32),
    /// A body that is too long.
    #[error("message type {ty:#x} with a body of {len} bytes, at most {max} are allowed")]
    TooLong {
        /// The message type.
        ty: u32,
        /// Its length in bytes.
        len: u32,
        /// The limit in bytes.
        max: u32,
    },
    /// A body whose length does not fit its type.
    #[error("message type {ty:#x} with a body of {len} bytes")]
    Length {
        /// The message type.
        ty: u32,
        /// Its length in bytes.
        len: u32,
    },
    /// A new call with a number that is in use.
    #[error("client id {0} is in use")]
    InUse(u8),
    /// A text without its NUL, or with more bytes behind it.
    #[error("text in message type {0:#x} is not ended by its only NUL")]
    Text(u32),
}

#[cfg(test)]
mod tests;
