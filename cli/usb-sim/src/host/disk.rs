//! The driver of mass storage: one command at a time, three messages each.

use super::device::{control_in, control_out};
use super::measure::measure;
use super::{Host, Measured, Request, Trouble};

/// Bytes of a block.
const BLOCK: usize = 512;
/// The endpoints.
const IN: u8 = 1;
const OUT: u8 = 2;
/// Largest disk whose content is kept for comparison.
const KNOWN: u64 = 256 << 20;
/// What Linux's driver leaves in commands and statuses: the setup packet of its one control request, for the count of units.
const LEFT_OVER: [u8; 8] = [0xa1, 0xfe, 0, 0, 0, 0, 1, 0];
/// A request that the device has refused, and the halted endpoint with it.
const STALL: i32 = -32;

/// What is known of a disk's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// [`crate::pattern`], as a stick in memory has it at first.
    Pattern,
    /// Nothing: what is read is not compared.
    Unknown,
}

/// Which way data go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the disk.
    Read,
    /// To the disk.
    Write,
}

/// A disk.
#[derive(Debug)]
pub struct Disk<'a> {
    host: &'a mut Host,
    blocks: u64,
    tag: u32,
    /// What the disk has to contain.
    expected: Option<Vec<u8>>,
    /// What is written, but for its first bytes.
    fresh: Vec<u8>,
}

impl<'a> Disk<'a> {
    /// Asks a disk, which is configured, what it is and how large.
    ///
    /// # Errors
    /// It does not answer as a disk does.
    pub fn open(host: &'a mut Host, content: Content) -> Result<Self, Trouble> {
        control_in(host, [0xa1, 0xfe], 0, 0, 1)?;
        let mut disk = Self { host, blocks: 0, tag: 0, expected: None, fresh: Vec::new() };
        let inquiry = disk.ask(&[0x12, 0, 0, 0, 36, 0], 36)?;
        if inquiry.first() != Some(&0) || inquiry.len() != 36 {
            return Err(Trouble::Wrong("this is no disk"));
        }
        disk.command(&[0x00, 0, 0, 0, 0, 0], 0, None)?;
        let capacity = disk.ask(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8)?;
        let Some(last) = capacity.first_chunk() else {
            return Err(Trouble::Wrong("a capacity is cut short"));
        };
        disk.blocks = u64::from(u32::from_be_bytes(*last)) + 1;
        disk.ask(&[0x1a, 0, 0x3f, 0, 192, 0], 192)?;
        let bytes = disk.blocks * BLOCK as u64;
        if content == Content::Pattern && bytes <= KNOWN {
            disk.expected = Some(crate::pattern(usize::try_from(bytes).unwrap_or_default()));
        }
        Ok(disk)
    }

    /// Its size.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.blocks * BLOCK as u64
    }

    /// Moves `total` bytes in commands of `length`, one after the other, from the begin to the end and again.
    ///
    /// # Errors
    /// A command fails, or what was read is not what it has to be.
    pub fn measure(&mut self, way: Way, length: usize, total: usize) -> Result<Measured, Trouble> {
        let blocks = length.div_ceil(BLOCK).clamp(1, 0xffff);
        let places = (self.blocks / blocks as u64).max(1);
        if way == Way::Write {
            self.fresh = crate::pattern(blocks * BLOCK);
        }
        measure(total.div_ceil(blocks * BLOCK), |number| {
            let block = (number as u64 % places) * blocks as u64;
            match way {
                Way::Read => self.read(block, blocks)?,
                Way::Write => self.write(block, blocks)?,
            }
            Ok((blocks * BLOCK) as u64)
        })
    }

    /// Reads so many blocks and compares them.
    ///
    /// # Errors
    /// The command fails, or the content is not what it has to be.
    pub fn read(&mut self, block: u64, blocks: usize) -> Result<(), Trouble> {
        let length = blocks * BLOCK;
        self.command(&ten(0x28, block, blocks), length, None)?;
        if self.host.data().len() != length {
            return Err(Trouble::Wrong("a read is cut short"));
        }
        let place = place(block, length);
        match self.expected.as_ref().map(|expected| expected.get(place)) {
            Some(expected) if expected != Some(self.host.data()) => {
                Err(Trouble::Wrong("the disk contains something else"))
            }
            _ => self.status(),
        }
    }

    /// Writes so many blocks.
    ///
    /// # Errors
    /// The command fails.
    pub fn write(&mut self, block: u64, blocks: usize) -> Result<(), Trouble> {
        let length = blocks * BLOCK;
        if self.fresh.len() != length {
            self.fresh = crate::pattern(length);
        }
        let mut fresh = std::mem::take(&mut self.fresh);
        for (place, byte) in fresh.iter_mut().zip((u64::from(self.tag) << 32 | block).to_le_bytes()) {
            *place = byte;
        }
        let written =
            self.command(&ten(0x2a, block, blocks), length, Some(&fresh)).and_then(|()| self.status());
        if let Some(place) =
            self.expected.as_mut().and_then(|expected| expected.get_mut(place(block, length)))
        {
            place.copy_from_slice(&fresh);
        }
        self.fresh = fresh;
        written
    }

    /// What was written is to last.
    ///
    /// # Errors
    /// The command fails.
    pub fn sync(&mut self) -> Result<(), Trouble> {
        self.command(&[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0, None)
    }

    /// A command with an answer of at most `most` bytes.
    fn ask(&mut self, block: &[u8], most: usize) -> Result<Vec<u8>, Trouble> {
        self.command(block, most, None)?;
        let answer = self.host.data().to_vec();
        self.status()?;
        Ok(answer)
    }

    /// The first steps of a command: all of one without data, else all but the status.
    fn command(&mut self, block: &[u8], length: usize, data: Option<&[u8]>) -> Result<(), Trouble> {
        self.tag = self.tag.wrapping_add(1);
        let mut wrapper = b"USBC".to_vec();
        wrapper.extend(self.tag.to_le_bytes());
        let length = u32::try_from(length).map_err(|_| Trouble::Wrong("a command is too long"))?;
        wrapper.extend(length.to_le_bytes());
        wrapper.extend([if data.is_none() { 0x80 } else { 0 }, 0, u8::try_from(block.len()).unwrap_or(16)]);
        wrapper.extend(block);
        wrapper.resize(31, 0);
        self.host.transfer("command", &wrapped(Request::to_device(OUT, &wrapper)))?;
        let moved = match data {
            Some(data) => self.host.transfer("data", &Request::to_device(OUT, data)),
            None if length > 0 => self.host.transfer("data", &Request::from_device(IN, length)),
            None => return self.status(),
        };
        match moved {
            Err(Trouble::Failed(_, STALL)) => {
                // The driver clears the halt and asks for the status, which says that the command failed.
                control_out(self.host, 0x02, 1, 0, 0x81)?;
                self.status()?;
                Err(Trouble::Wrong("data was refused and the command succeeded"))
            }
            moved => moved.map(|_| ()),
        }
    }

    /// The last step of a command.
    fn status(&mut self) -> Result<(), Trouble> {
        self.host.transfer("status", &wrapped(Request::from_device(IN, 13)))?;
        let status = self.host.data();
        let tag = status.get(4..8).map(|tag| tag == self.tag.to_le_bytes());
        match (status.first_chunk(), tag, status.get(12)) {
            (Some(b"USBS"), Some(true), Some(0)) => Ok(()),
            (Some(b"USBS"), Some(true), Some(code)) => Err(Trouble::Failed("command", i32::from(*code))),
            _ => Err(Trouble::Wrong("a status is none")),
        }
    }
}

const fn wrapped(request: Request<'_>) -> Request<'_> {
    Request { setup: LEFT_OVER, ..request }
}

/// A command with a place and a count of blocks.
fn ten(code: u8, block: u64, blocks: usize) -> [u8; 10] {
    let [a, b, c, d] = u32::try_from(block).unwrap_or(u32::MAX).to_be_bytes();
    let [e, f] = u16::try_from(blocks).unwrap_or(u16::MAX).to_be_bytes();
    [code, 0, a, b, c, d, 0, e, f, 0]
}

fn place(block: u64, length: usize) -> std::ops::Range<usize> {
    let start = usize::try_from(block).unwrap_or(usize::MAX).saturating_mul(BLOCK);
    start..start.saturating_add(length)
}
