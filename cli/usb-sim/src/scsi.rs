//! The SCSI commands that a stick understands.

use crate::medium::Medium;

/// Bytes of a block.
pub(crate) const BLOCK: u32 = 512;

/// What a command does with data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// These bytes go to the host.
    Reply(Vec<u8>),
    /// So many bytes from this place go to the host.
    Read { offset: u64, length: u64 },
    /// So many bytes of the host's go to this place.
    Write { offset: u64, length: u64 },
    /// What was written is to last.
    Sync,
    /// Nothing.
    Nothing,
}

/// Why a command failed: sense key and additional code.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sense(pub(crate) u8, pub(crate) u8);

const UNKNOWN_COMMAND: Sense = Sense(5, 0x20);
const OUT_OF_RANGE: Sense = Sense(5, 0x21);
const INVALID_FIELD: Sense = Sense(5, 0x24);
/// The medium does not do what it should.
pub(crate) const READ_ERROR: Sense = Sense(3, 0x11);
pub(crate) const WRITE_ERROR: Sense = Sense(3, 0x0c);

/// Understands a command block.
pub(crate) fn understand(block: &[u8; 16], medium: &Medium, sense: &mut Sense) -> Result<Action, Sense> {
    let blocks = medium.len() / u64::from(BLOCK);
    let [code, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11, b12, b13, ..] = *block;
    let long = u64::from(u32::from_be_bytes([b2, b3, b4, b5]));
    let (offset_16, count_16) =
        (u64::from_be_bytes([b2, b3, b4, b5, b6, b7, b8, b9]), u32::from_be_bytes([b10, b11, b12, b13]));
    let count_10 = u32::from(u16::from_be_bytes([b7, b8]));
    let short = u64::from(u32::from_be_bytes([0, b1 & 0x1f, b2, b3]));
    // Of six bytes only: 0 is 256.
    let count_6 = if b4 == 0 { 256 } else { u32::from(b4) };
    let within = |at: u64, count: u32| within(at, count, blocks);
    Ok(match code {
        // TEST UNIT READY, START STOP UNIT, PREVENT MEDIUM REMOVAL, VERIFY.
        0x00 | 0x1b | 0x1e => Action::Nothing,
        0x2f => within(long, count_10).map(|_| Action::Nothing)?,
        0x03 => {
            let Sense(key, code) = std::mem::take(sense);
            reply(&[0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, 0, 0, 0, 0, 0], u32::from(b4))
        }
        0x12 if b1 & 1 == 0 => reply(&inquiry(), u32::from(u16::from_be_bytes([b3, b4]))),
        0x12 => reply(&vital(b2)?, u32::from(u16::from_be_bytes([b3, b4]))),
        0x1a => reply(&[3, 0, 0, 0], u32::from(b4)),
        0x5a => reply(&[0, 6, 0, 0, 0, 0, 0, 0], count_10),
        0x23 => {
            let mut list = vec![0, 0, 0, 8];
            list.extend(u32::try_from(blocks).unwrap_or(u32::MAX).to_be_bytes());
            list.extend((BLOCK | 2 << 24).to_be_bytes());
            reply(&list, count_10)
        }
        0x25 => {
            let last = u32::try_from(blocks.saturating_sub(1)).unwrap_or(u32::MAX);
            reply(&[last.to_be_bytes(), BLOCK.to_be_bytes()].concat(), 8)
        }
        0x9e if b1 & 0x1f == 0x10 => {
            let mut capacity = blocks.saturating_sub(1).to_be_bytes().to_vec();
            capacity.extend(BLOCK.to_be_bytes());
            capacity.resize(32, 0);
            reply(&capacity, count_16)
        }
        0xa0 => {
            reply(&[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], u32::from_be_bytes([b6, b7, b8, b9]))
        }
        0x08 => within(short, count_6).map(read)?,
        0x28 => within(long, count_10).map(read)?,
        0x88 => within(offset_16, count_16).map(read)?,
        0x0a => within(short, count_6).map(write)?,
        0x2a => within(long, count_10).map(write)?,
        0x8a => within(offset_16, count_16).map(write)?,
        0x35 | 0x91 => Action::Sync,
        _ => return Err(UNKNOWN_COMMAND),
    })
}

fn read((offset, length): (u64, u64)) -> Action {
    Action::Read { offset, length }
}

fn write((offset, length): (u64, u64)) -> Action {
    Action::Write { offset, length }
}

/// Where these blocks are, in bytes, if the medium has them.
fn within(at: u64, count: u32, blocks: u64) -> Result<(u64, u64), Sense> {
    let end = at.checked_add(u64::from(count)).filter(|end| *end <= blocks).ok_or(OUT_OF_RANGE)?;
    let start = end - u64::from(count);
    Ok((start * u64::from(BLOCK), u64::from(count) * u64::from(BLOCK)))
}

fn reply(bytes: &[u8], most: u32) -> Action {
    let length = bytes.len().min(usize::try_from(most).unwrap_or(usize::MAX));
    Action::Reply(bytes.get(..length).unwrap_or_default().to_vec())
}

fn inquiry() -> Vec<u8> {
    let mut answer = vec![0, 0x80, 6, 2, 31, 0, 0, 0];
    answer.extend(b"qrexec  Simulated stick 0001");
    answer
}

fn vital(page: u8) -> Result<Vec<u8>, Sense> {
    match page {
        0x00 => Ok(vec![0, 0, 0, 2, 0x00, 0x80]),
        0x80 => Ok([&[0, 0x80, 0, 7][..], b"SIM0001"].concat()),
        _ => Err(INVALID_FIELD),
    }
}
