//! Bytes that can be made and checked anywhere without keeping them: any byte lost, repeated or changed shows.

use std::io::{self, Read, Write};

const BLOCK: usize = 64 << 10;

/// An endless stream of bytes that looks random and is the same for the same seed (xorshift64).
#[derive(Clone)]
pub(crate) struct Pattern {
    state: u64,
    block: Vec<u8>,
    at: usize,
}

impl Pattern {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed.max(1), block: Vec::new(), at: 0 }
    }

    /// A number from the stream, for choices.
    pub(crate) fn number(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    /// Another stream. The numbers of this one, as seeds, would give the same stream, a step apart.
    pub(crate) fn branch(&mut self) -> Self {
        Self::new(self.number().wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// One of the numbers under `limit`, each as likely as any other.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        // Successive numbers have much in common, their products have not.
        let mixed = self.number().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        ((mixed * limit as u64) >> 32) as usize
    }

    fn bytes(&mut self, wanted: usize) -> &[u8] {
        if self.at == self.block.len() {
            self.block.clear();
            while self.block.len() < BLOCK {
                let word = self.number();
                self.block.extend_from_slice(&word.to_le_bytes());
            }
            self.at = 0;
        }
        let end = (self.at + wanted).min(self.block.len());
        let start = std::mem::replace(&mut self.at, end);
        &self.block[start..end]
    }

    /// Writes the next `length` bytes.
    pub(crate) fn write_to(&mut self, out: &mut impl Write, mut length: u64) -> io::Result<()> {
        while length > 0 {
            let bytes = self.bytes(usize::try_from(length).unwrap_or(usize::MAX));
            out.write_all(bytes)?;
            length -= bytes.len() as u64;
        }
        Ok(())
    }

    /// Reads to the end, `step` bytes at a time, and compares; returns how many bytes there were, or where the first
    /// wrong one is.
    pub(crate) fn check(&mut self, input: &mut impl Read, step: usize) -> Result<u64, String> {
        let mut buffer = vec![0; step];
        let mut total = 0u64;
        loop {
            let got = input.read(&mut buffer).map_err(|error| format!("after {total} bytes: {error}"))?;
            if got == 0 {
                return Ok(total);
            }
            let mut rest = &buffer[..got];
            while !rest.is_empty() {
                let expected = self.bytes(rest.len());
                let (head, tail) = rest.split_at(expected.len());
                if head != expected {
                    let at = head.iter().zip(expected).position(|(a, b)| a != b).unwrap();
                    return Err(format!("byte {} is wrong", total + at as u64));
                }
                total += head.len() as u64;
                rest = tail;
            }
        }
    }
}
