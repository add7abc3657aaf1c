//! The checksum of a copy, by the processor's own instructions.

use wire::filecopy::Checksum;

/// CRC-32 by `crc32fast`.
#[derive(Debug, Clone, Default)]
pub struct Sum(crc32fast::Hasher);

impl Checksum for Sum {
    fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn value(&self) -> u32 {
        self.0.clone().finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use wire::filecopy::Crc32;

    proptest! {
        #[test]
        fn the_sum_is_that_of_the_wire(
            bytes in proptest::collection::vec(any::<u8>(), 0..5000),
            cut in 0usize..5000,
        ) {
            let (mut fast, mut plain) = (Sum::default(), Crc32::default());
            let (first, rest) = bytes.split_at(cut.min(bytes.len()));
            fast.update(first);
            fast.update(rest);
            plain.update(&bytes);
            prop_assert_eq!(fast.value(), plain.value());
        }
    }
}
