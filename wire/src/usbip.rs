//! USB/IP as qrexec carries it: one line from the side that has the device, then the messages of two kernels.
//!
//! *Import* is the machine that gets the device and sends commands; *export* has it and answers. There is no import
//! phase as in USB/IP over TCP: [`AttachLine`] comes first, from export to import, and nothing goes the other way.
//!
//! [`Filter`] stands between the two. It copies headers and isochronous descriptors out, checks them against the
//! requests that are pending, and gives back what to send on; payload is only counted. It writes headers and
//! descriptors anew from the values that it has understood, so bytes without a meaning become zero.
//!
//! Source: the kernel's `Documentation/usb/usbip_protocol.rst`, and what Linux 6.1 and 6.12 do.

mod descriptors;
mod filter;
mod header;
mod line;
mod packets;
mod pending;
mod rules;

pub use filter::{Event, Filter, Side};
pub use header::{Answer, Command, Direction, HEADER_LEN, MAX_LENGTH, MAX_PACKETS, Submit, Submitted};
pub use line::{AttachLine, LINE_MAX, Speed};
pub use packets::{PACKET_LEN, Packet};
pub use rules::{Classes, Rules};

/// Why a stream is refused. Names the field, never its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The first line is longer than [`LINE_MAX`], or not of its form.
    #[error("the first line is not `DEVID SPEED`")]
    Line,
    /// A command before the export has described its device.
    #[error("a command came before the first line")]
    Early,
    /// A field has a value that it cannot have.
    #[error("{0} has a value that it cannot have")]
    Field(Field),
    /// A request with the number of a pending one.
    #[error("the seqnum of a command is that of a pending one")]
    Reused,
    /// An answer to no pending command.
    #[error("an answer has the seqnum of no pending command of its kind")]
    Unasked,
    /// More than [`Rules::pending`], [`Rules::buffers`] or [`Rules::packets`].
    #[error("too much is pending")]
    TooMuch,
    /// [`Rules::vendor_requests`] is off.
    #[error("a vendor's control request, which is not allowed here")]
    VendorRequest,
    /// [`Rules::other_configurations`] is off.
    #[error("another configuration, which is not allowed here")]
    Configuration,
    /// An interface, or a whole device, of a class that [`Rules::classes`] does not list.
    #[error("the device has a class that is not allowed here")]
    Class,
    /// [`Rules::firmware`] is off.
    #[error("a request to an interface for firmware, or to one that no descriptor has shown")]
    Firmware,
    /// The stream ends inside the first line or a message.
    #[error("the stream ends within a message")]
    Cut,
}

/// A field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// What kind of message it is.
    Command,
    /// The device.
    Devid,
    /// Out or in.
    Direction,
    /// 0 to 15.
    Endpoint,
    /// Bytes of a request's buffer.
    BufferLength,
    /// Bytes that were moved.
    ActualLength,
    /// A negated errno, or 0.
    Status,
    /// How many isochronous packets.
    NumberOfPackets,
    /// Where a packet lies in the buffer.
    PacketOffset,
    /// Bytes of a packet.
    PacketLength,
    /// Bytes of a packet that were moved.
    PacketActualLength,
    /// A packet's negated errno, or 0.
    PacketStatus,
    /// Bytes that the protocol leaves zero.
    Reserved,
}

impl core::fmt::Display for Field {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Command => "command",
            Self::Devid => "devid",
            Self::Direction => "direction",
            Self::Endpoint => "ep",
            Self::BufferLength => "transfer_buffer_length",
            Self::ActualLength => "actual_length",
            Self::Status => "status",
            Self::NumberOfPackets => "number_of_packets",
            Self::PacketOffset => "offset of a packet",
            Self::PacketLength => "length of a packet",
            Self::PacketActualLength => "actual_length of a packet",
            Self::PacketStatus => "status of a packet",
            Self::Reserved => "a field that is always zero",
        })
    }
}

#[cfg(test)]
mod tests;
