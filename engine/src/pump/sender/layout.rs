#![forbid(unsafe_code)]
//! How one read of a local descriptor becomes several messages in place.
//!
//! The bytes are read into the ring with gaps of a header's size, one before each chunk. When it is known how many
//! came, the headers are written into the gaps, and everything is published at once.

use wire::header::HEADER_LEN;

/// Most chunks for one read.
const CHUNKS: usize = 30;
const _: () = assert!(2 * CHUNKS <= ring::spans::MAX_SPANS);
/// A last chunk shorter than this is not worth a header if there are others before it.
const TAIL: usize = 1024;

/// Places for payload, as positions after the ring's `prod`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    room: usize,
    chunk: usize,
}

impl Layout {
    /// For `room` free bytes and chunks of at most `chunk` bytes.
    pub(super) fn new(room: usize, chunk: u32) -> Layout {
        Layout { room, chunk: chunk as usize }
    }

    /// Payload places `(at, len)`, none of them empty.
    pub(super) fn slots(self) -> impl Iterator<Item = (usize, usize)> {
        let mut at = 0;
        (0..CHUNKS).map_while(move |i| {
            let len = self.room.saturating_sub(at + HEADER_LEN).min(self.chunk);
            let worth = if i == 0 { len > 0 } else { len >= TAIL.min(self.chunk) };
            let slot = worth.then_some((at + HEADER_LEN, len));
            at += HEADER_LEN + len;
            slot
        })
    }

    /// The chunks `(header_at, len)` that `n` bytes read into the slots make.
    pub(super) fn chunks(self, n: usize) -> impl Iterator<Item = (usize, usize)> {
        let mut left = n;
        self.slots().map_while(move |(at, slot)| {
            let len = slot.min(left);
            left -= len;
            (len > 0).then_some((at - HEADER_LEN, len))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_quarter_megabyte_takes_four_chunks_in_one_read() {
        let layout = Layout::new(256 << 10, 65_536);
        let slots: Vec<_> = layout.slots().collect();
        assert_eq!(slots.len(), 4);
        assert_eq!(slots[1], (8 + 65_536 + 8, 65_536));
        assert_eq!(layout.chunks(65_537).collect::<Vec<_>>(), [(0, 65_536), (65_544, 1)]);
    }

    proptest! {
        #[test]
        fn chunks_never_overlap_and_stay_inside(room in 0usize..1 << 20, chunk in prop::sample::select(vec![4096u32, 65_536]), frac in 0.0f64..=1.0) {
            let layout = Layout::new(room, chunk);
            let offered: usize = layout.slots().map(|s| s.1).sum();
            let n = (offered as f64 * frac) as usize;
            let mut end = 0;
            let mut sum = 0;
            for (at, len) in layout.chunks(n) {
                prop_assert_eq!(at, end);
                prop_assert!(len > 0 && len <= chunk as usize);
                end = at + HEADER_LEN + len;
                sum += len;
            }
            prop_assert_eq!(sum, n);
            prop_assert!(end <= room);
        }
    }
}
