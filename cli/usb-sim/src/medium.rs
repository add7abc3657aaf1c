//! What a stick keeps its blocks on.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Where the blocks are.
#[derive(Debug)]
pub enum Medium {
    /// In memory, and gone with the device.
    Memory(Vec<u8>),
    /// In a file of this many bytes.
    File(File, u64),
}

/// What a stick in memory holds at first: eight bytes of each word say which word it is, so that a block in the wrong
/// place is noticed.
#[must_use]
pub fn pattern(bytes: usize) -> Vec<u8> {
    let words = bytes.div_ceil(8);
    let mut content: Vec<u8> = (1u64..)
        .take(words)
        .flat_map(|word| word.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes())
        .collect();
    content.truncate(bytes);
    content
}

impl Medium {
    /// Its size.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(_, length) => *length,
        }
    }

    /// Appends what is at `offset`.
    pub(crate) fn read(&self, offset: u64, length: usize, into: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Memory(bytes) => {
                into.extend_from_slice(
                    range(offset, length).and_then(|range| bytes.get(range)).ok_or_else(outside)?,
                );
            }
            Self::File(file, _) => {
                let at = into.len();
                into.resize(at + length, 0);
                let space = into.get_mut(at..).unwrap_or_default();
                file.read_exact_at(space, offset)?;
            }
        }
        Ok(())
    }

    /// Replaces what is at `offset`.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        match self {
            Self::Memory(bytes) => {
                let place =
                    range(offset, data.len()).and_then(|range| bytes.get_mut(range)).ok_or_else(outside)?;
                place.copy_from_slice(data);
                Ok(())
            }
            Self::File(file, _) => file.write_all_at(data, offset),
        }
    }

    /// What was written is to outlive a loss of power.
    pub(crate) fn sync(&self) -> io::Result<()> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::File(file, _) => file.sync_data(),
        }
    }
}

fn range(offset: u64, length: usize) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    Some(start..start.checked_add(length)?)
}

fn outside() -> io::Error {
    io::Error::from(io::ErrorKind::UnexpectedEof)
}
