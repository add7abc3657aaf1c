//! The 48 bytes before every message.

use zerocopy::byteorder::big_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Field, Violation};

/// Bytes of a header.
pub const HEADER_LEN: usize = 48;
/// Longest buffer of a request. The longest that Linux was seen to ask for is 1 MiB.
pub const MAX_LENGTH: u32 = 16 << 20;
/// Most isochronous packets of a request.
pub const MAX_PACKETS: u32 = 1024;
/// Some programs write this for "not isochronous", where Linux writes 0.
const NO_PACKETS: u32 = u32::MAX;
/// Errnos are below this.
const ERRNO_MAX: i32 = 4096;

const CMD_SUBMIT: u32 = 1;
const CMD_UNLINK: u32 = 2;
const RET_SUBMIT: u32 = 3;
const RET_UNLINK: u32 = 4;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    command: U32,
    seqnum: U32,
    devid: U32,
    direction: U32,
    endpoint: U32,
    words: [U32; 5],
    setup: [u8; 8],
}

/// Which way the data of a request go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// To the device.
    Out,
    /// From the device.
    In,
}

/// A request for the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submit {
    /// The request's number.
    pub seqnum: u32,
    /// The device.
    pub devid: u32,
    /// Which way its data go.
    pub direction: Direction,
    /// 0 to 15.
    pub endpoint: u8,
    /// `URB_…`; the export's kernel masks them.
    pub flags: u32,
    /// Bytes of its buffer, at most [`MAX_LENGTH`].
    pub length: u32,
    /// Of an isochronous request.
    pub start_frame: u32,
    /// Isochronous packets, at most [`MAX_PACKETS`]; 0 for any other request.
    pub packets: u32,
    /// In frames or microframes.
    pub interval: u32,
    /// The setup packet of a control transfer, else zeros.
    pub setup: [u8; 8],
}

/// What the import's kernel sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// A request. The data of one that goes out follow, then its packets.
    Submit(Submit),
    /// A request is to be cancelled.
    Unlink {
        /// The number of this command.
        seqnum: u32,
        /// The device.
        devid: u32,
        /// The number of the request.
        target: u32,
    },
}

/// The answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    /// The request's number.
    pub seqnum: u32,
    /// 0 or a negated errno of Linux.
    pub status: i32,
    /// Bytes that were moved, at most [`MAX_LENGTH`].
    pub length: u32,
    /// Of an isochronous request.
    pub start_frame: u32,
    /// Isochronous packets, at most [`MAX_PACKETS`]; 0 for any other request.
    pub packets: u32,
    /// Packets with an error.
    pub errors: u32,
}

/// What the export's kernel sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// To a request. The data of one that came in follow, then its packets.
    Submitted(Submitted),
    /// To a cancellation.
    Unlinked {
        /// The number of the command that asked for it.
        seqnum: u32,
        /// 0 if the request's own answer was on its way, else a negated errno.
        status: i32,
    },
}

impl Command {
    /// Reads a header from the import.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn from_bytes(bytes: [u8; HEADER_LEN]) -> Result<Self, Violation> {
        let raw: Raw = zerocopy::transmute!(bytes);
        let [a, b, c, d, e] = raw.words.map(U32::get);
        let (seqnum, devid) = (raw.seqnum.get(), raw.devid.get());
        match raw.command.get() {
            CMD_SUBMIT => {
                let direction = match raw.direction.get() {
                    0 => Direction::Out,
                    1 => Direction::In,
                    _ => return Err(Violation::Field(Field::Direction)),
                };
                let endpoint = u8::try_from(raw.endpoint.get()).ok().filter(|endpoint| *endpoint < 16);
                let endpoint = endpoint.ok_or(Violation::Field(Field::Endpoint))?;
                let packets = packets(d)?;
                if packets > 0 && endpoint == 0 {
                    return Err(Violation::Field(Field::NumberOfPackets));
                }
                Ok(Self::Submit(Submit {
                    seqnum,
                    devid,
                    direction,
                    endpoint,
                    flags: a,
                    length: length(b, Field::BufferLength)?,
                    start_frame: c,
                    packets,
                    interval: e,
                    // On other endpoints Linux sends what is left there of the driver's last control request, as
                    // usb-storage does.
                    setup: if endpoint == 0 { raw.setup } else { [0; 8] },
                }))
            }
            CMD_UNLINK => {
                let reserved = [raw.direction.get(), raw.endpoint.get(), b, c, d, e];
                if reserved != [0; 6] || raw.setup != [0; 8] {
                    return Err(Violation::Field(Field::Reserved));
                }
                Ok(Self::Unlink { seqnum, devid, target: a })
            }
            _ => Err(Violation::Field(Field::Command)),
        }
    }

    /// The bytes of the header.
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        match self {
            Self::Submit(submit) => zerocopy::transmute!(Raw {
                command: CMD_SUBMIT.into(),
                seqnum: submit.seqnum.into(),
                devid: submit.devid.into(),
                direction: u32::from(submit.direction == Direction::In).into(),
                endpoint: u32::from(submit.endpoint).into(),
                words: [submit.flags, submit.length, submit.start_frame, submit.packets, submit.interval]
                    .map(U32::new),
                setup: submit.setup,
            }),
            Self::Unlink { seqnum, devid, target } => {
                zerocopy::transmute!(plain(CMD_UNLINK, seqnum, devid, [target, 0, 0, 0, 0]))
            }
        }
    }
}

impl Answer {
    /// Reads a header from the export. Devices that are programs repeat the device, the direction and the endpoint
    /// where Linux leaves zeros; these fields have no meaning and are not checked.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn from_bytes(bytes: [u8; HEADER_LEN]) -> Result<Self, Violation> {
        let raw: Raw = zerocopy::transmute!(bytes);
        let [a, b, c, d, e] = raw.words.map(U32::get);
        let seqnum = raw.seqnum.get();
        match raw.command.get() {
            RET_SUBMIT => Ok(Self::Submitted(Submitted {
                seqnum,
                status: status(a, Field::Status)?,
                length: length(b, Field::ActualLength)?,
                start_frame: c,
                packets: packets(d)?,
                errors: e,
            })),
            RET_UNLINK => Ok(Self::Unlinked { seqnum, status: status(a, Field::Status)? }),
            _ => Err(Violation::Field(Field::Command)),
        }
    }

    /// The bytes of the header, with zeros in fields without a meaning.
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let raw = match self {
            Self::Submitted(answer) => {
                let words = [
                    answer.status.cast_unsigned(),
                    answer.length,
                    answer.start_frame,
                    answer.packets,
                    answer.errors,
                ];
                plain(RET_SUBMIT, answer.seqnum, 0, words)
            }
            Self::Unlinked { seqnum, status } => {
                plain(RET_UNLINK, seqnum, 0, [status.cast_unsigned(), 0, 0, 0, 0])
            }
        };
        zerocopy::transmute!(raw)
    }
}

fn plain(command: u32, seqnum: u32, devid: u32, words: [u32; 5]) -> Raw {
    Raw {
        command: command.into(),
        seqnum: seqnum.into(),
        devid: devid.into(),
        direction: U32::ZERO,
        endpoint: U32::ZERO,
        words: words.map(U32::new),
        setup: [0; 8],
    }
}

fn length(word: u32, field: Field) -> Result<u32, Violation> {
    if word <= MAX_LENGTH { Ok(word) } else { Err(Violation::Field(field)) }
}

fn packets(word: u32) -> Result<u32, Violation> {
    match word {
        NO_PACKETS => Ok(0),
        0..=MAX_PACKETS => Ok(word),
        _ => Err(Violation::Field(Field::NumberOfPackets)),
    }
}

/// Linux takes a positive status for success without a result; no device sends one.
pub(super) fn status(word: u32, field: Field) -> Result<i32, Violation> {
    let status = word.cast_signed();
    if (-ERRNO_MAX < status) && status <= 0 { Ok(status) } else { Err(Violation::Field(field)) }
}
