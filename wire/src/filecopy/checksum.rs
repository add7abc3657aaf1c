//! The checksum of a copy: CRC-32 as zlib and gzip have it.

/// A running sum over all bytes of a copy's entries.
pub trait Checksum {
    /// Takes these bytes into the sum.
    fn update(&mut self, bytes: &[u8]);

    /// The sum of everything so far.
    fn value(&self) -> u32;
}

/// The checksum by a small table: for programs that have no faster way, and to test the faster ways.
#[derive(Debug, Clone, Copy)]
pub struct Crc32(u32);

impl Default for Crc32 {
    fn default() -> Self {
        Self(!0)
    }
}

/// One step for each half of a byte.
const TABLE: [u32; 16] = table();

const fn table() -> [u32; 16] {
    let mut table = [0; 16];
    let mut index: u32 = 0;
    while index < 16 {
        let mut value = index;
        let mut bit = 0;
        while bit < 4 {
            value = if value & 1 == 1 { (value >> 1) ^ 0xedb8_8320 } else { value >> 1 };
            bit += 1;
        }
        table[index as usize] = value;
        index += 1;
    }
    table
}

impl Checksum for Crc32 {
    fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let mut sum = self.0 ^ u32::from(*byte);
            sum = (sum >> 4) ^ TABLE[(sum & 15) as usize];
            sum = (sum >> 4) ^ TABLE[(sum & 15) as usize];
            self.0 = sum;
        }
    }

    fn value(&self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_that_of_zlib_however_the_bytes_are_cut() {
        let mut sum = Crc32::default();
        assert_eq!(sum.value(), 0);
        sum.update(b"1234");
        sum.update(b"56789");
        assert_eq!(sum.value(), 0xcbf4_3926);
    }
}
