//! Where the pieces of a sparse member lie: GNU's own form, and its three in pax records.

use super::{BLOCK, octal};

/// Most pieces of one member; a map of so many takes some 40 MiB.
const PIECES_MAX: usize = 1 << 20;

/// So many bytes at this place; between pieces there are zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// What pax records say of a sparse member.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    /// There is at least one.
    pub(super) any: bool,
    /// Its name; the one in the header is another.
    pub(super) name: Option<Vec<u8>>,
    /// Its size with the zeros.
    pub(super) real_size: Option<u64>,
    /// The map stands in front of the pieces.
    map_in_body: bool,
    /// Offsets and lengths in turn.
    numbers: Vec<u64>,
}

impl Records {
    /// Takes a record whose key begins with `GNU.sparse.`; `None` for a value that cannot be.
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        self.any = true;
        match key {
            b"name" => self.name = Some(value.to_vec()),
            b"realsize" | b"size" => self.real_size = Some(decimal(value)?),
            b"major" => self.map_in_body = decimal(value)? == 1,
            b"offset" | b"numbytes" => self.push(value)?,
            b"map" => value.split(|byte| *byte == b',').try_for_each(|value| self.push(value))?,
            _ => {}
        }
        Some(())
    }

    fn push(&mut self, value: &[u8]) -> Option<()> {
        let number = decimal(value)?;
        (self.numbers.len() < 2 * PIECES_MAX).then(|| self.numbers.push(number))
    }

    /// The pieces. A map in the body is read by blocks with `next`.
    pub(super) fn pieces<E>(
        &self,
        mut next: impl FnMut() -> Result<[u8; BLOCK], E>,
    ) -> Result<Option<(Vec<Piece>, u64)>, E> {
        if !self.map_in_body {
            return Ok(in_pairs(&self.numbers).map(|pieces| (pieces, 0)));
        }
        let (mut numbers, mut digits, mut blocks) = (Vec::new(), Vec::new(), 0);
        loop {
            blocks += 1;
            for byte in next()? {
                // The first number says how many pairs follow.
                let wanted = numbers.first().map(|pairs: &u64| pairs.saturating_mul(2).saturating_add(1));
                if wanted == Some(numbers.len() as u64) {
                    break;
                }
                match byte {
                    b'\n' => {
                        let Some(number) = decimal(&digits) else { return Ok(None) };
                        numbers.push(number);
                        digits.clear();
                    }
                    _ if digits.len() < 20 => digits.push(byte),
                    _ => return Ok(None),
                }
            }
            match numbers.split_first() {
                Some((pairs, _)) if *pairs > PIECES_MAX as u64 => return Ok(None),
                Some((pairs, rest)) if rest.len() as u64 == *pairs * 2 => {
                    return Ok(in_pairs(rest).map(|pieces| (pieces, blocks * BLOCK as u64)));
                }
                _ => {}
            }
        }
    }
}

/// The map in a header of GNU's own form (type `S`), and in the blocks behind it, and the size with the zeros.
pub(super) fn old<E>(
    header: &[u8; BLOCK],
    mut next: impl FnMut() -> Result<[u8; BLOCK], E>,
) -> Result<Option<(Vec<Piece>, u64)>, E> {
    let Some(real_size) = header.get(483..495).and_then(octal) else { return Ok(None) };
    let mut pieces = Vec::new();
    let (mut map, mut more) =
        (header.get(386..482).unwrap_or_default().to_vec(), header.get(482) == Some(&1));
    loop {
        for entry in map.as_chunks::<24>().0 {
            let (offset, len) = entry.split_at(12);
            if offset.first() == Some(&0) {
                break;
            }
            let (Some(offset), Some(len)) = (octal(offset), octal(len)) else { return Ok(None) };
            pieces.push(Piece { offset, len });
        }
        if !more {
            return Ok(Some((pieces, real_size)));
        }
        if pieces.len() > PIECES_MAX {
            return Ok(None);
        }
        let block = next()?;
        more = block.get(504) == Some(&1);
        map = block.get(..504).unwrap_or_default().to_vec();
    }
}

/// Whether the pieces follow each other within the size, and are so many bytes together.
pub(super) fn fit(pieces: &[Piece], stored: u64, real_size: u64) -> bool {
    let mut end = Some(0_u64);
    let mut sum = Some(0_u64);
    for piece in pieces {
        end = end.filter(|end| *end <= piece.offset).and_then(|_| piece.offset.checked_add(piece.len));
        sum = sum.and_then(|sum| sum.checked_add(piece.len));
    }
    end.is_some_and(|end| end <= real_size) && sum == Some(stored)
}

fn in_pairs(numbers: &[u64]) -> Option<Vec<Piece>> {
    let (pairs, rest) = numbers.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[offset, len]| Piece { offset: *offset, len: *len }).collect())
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(offset: u64, len: u64) -> Piece {
        Piece { offset, len }
    }

    fn records(pairs: &[(&str, &str)]) -> Option<Records> {
        let mut records = Records::default();
        pairs.iter().try_for_each(|(key, value)| records.take(key.as_bytes(), value.as_bytes()))?;
        Some(records)
    }

    fn no_block() -> Result<[u8; BLOCK], &'static str> {
        Err("no block is wanted")
    }

    #[test]
    fn maps_in_records_are_lists_or_pairs() {
        let pairs =
            [("offset", "0"), ("numbytes", "4"), ("offset", "512"), ("numbytes", "0"), ("size", "512")];
        let old = records(&pairs).unwrap();
        assert_eq!(old.pieces(no_block), Ok(Some((vec![piece(0, 4), piece(512, 0)], 0))));
        assert_eq!(old.real_size, Some(512));
        let list = records(&[("map", "0,4,512,0"), ("name", "a")]).unwrap();
        assert_eq!(list.pieces(no_block), old.pieces(no_block));
        assert_eq!(list.name.as_deref(), Some(&b"a"[..]));
        assert_eq!(records(&[("map", "0,4,512")]).unwrap().pieces(no_block), Ok(None));
        assert!(records(&[("map", "0,-4")]).is_none() && records(&[("realsize", "")]).is_none());
    }

    #[test]
    fn a_map_in_the_body_may_take_several_blocks() {
        let records = records(&[("major", "1"), ("minor", "0"), ("realsize", "9")]).unwrap();
        let text: String =
            std::iter::once("100\n".to_owned()).chain((0..100).map(|n| format!("{n}000\n1\n"))).collect();
        let mut blocks = text.as_bytes().chunks(BLOCK).map(|piece| {
            let mut block = [0; BLOCK];
            block[..piece.len()].copy_from_slice(piece);
            block
        });
        let (pieces, taken) = records.pieces(|| blocks.next().ok_or("too few")).unwrap().unwrap();
        assert_eq!((pieces.len(), pieces[99], taken), (100, piece(99_000, 1), 1024));
        for bad in ["x\n", "9999999999999999999999\n", "\n", "2000000\n"] {
            let mut block = [0; BLOCK];
            block[..bad.len()].copy_from_slice(bad.as_bytes());
            assert_eq!(records.pieces(|| Ok::<_, ()>(block)), Ok(None), "{bad}");
        }
    }

    #[test]
    fn pieces_lie_one_behind_the_other() {
        assert!(fit(&[piece(0, 4), piece(8, 2), piece(20, 0)], 6, 20) && fit(&[], 0, 5));
        assert!(!fit(&[piece(0, 4), piece(3, 2)], 6, 20), "they overlap");
        assert!(!fit(&[piece(0, 4)], 5, 20), "bytes are left");
        assert!(!fit(&[piece(17, 4)], 4, 20), "beyond the end");
        assert!(!fit(&[piece(u64::MAX, 4)], 4, u64::MAX));
    }
}
