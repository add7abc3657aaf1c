//! The receiver's answer: 16 bytes, and the name of the entry in hand.

use alloc::vec::Vec;

use super::code::Code;

/// Bytes of an answer without its extension.
pub const ANSWER_LEN: usize = 16;

/// Most bytes of a name behind an answer that are read.
pub const EXTENSION_MAX: u32 = 16_384;

/// What a receiver answers at the end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// 0, or what went wrong.
    pub code: Code,
    /// The checksum of everything that was received.
    pub checksum: u32,
    /// The last entry, or the one that failed; `None` where nothing follows the 16 bytes.
    pub last_name: Option<Vec<u8>>,
}

impl Answer {
    /// The bytes of the answer.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ANSWER_LEN);
        bytes.extend_from_slice(&self.code.0.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&u64::from(self.checksum).to_le_bytes());
        if let Some(name) = &self.last_name {
            let len = name.len().min(EXTENSION_MAX as usize - 1);
            bytes.extend_from_slice(&u32::try_from(len).unwrap_or(0).to_le_bytes());
            bytes.extend(name.iter().take(len));
        }
        bytes
    }
}

/// The result of reading an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answered {
    /// The whole answer, with as much of its name as came.
    Whole(Answer),
    /// The other side ended before its answer was complete; these are its bytes.
    Cut(Vec<u8>),
}

/// Reads an answer as it arrives.
#[derive(Debug, Default)]
pub struct AnswerReader {
    bytes: Vec<u8>,
    ended: bool,
}

/// Most bytes that are kept.
const MOST: usize = ANSWER_LEN + 4 + EXTENSION_MAX as usize;

impl AnswerReader {
    /// Takes bytes of the answer; bytes behind it are dropped.
    pub fn handle_input(&mut self, bytes: &[u8]) {
        let room = MOST.saturating_sub(self.bytes.len());
        self.bytes.extend(bytes.iter().take(room));
    }

    /// The other side has ended.
    pub fn handle_end(&mut self) {
        self.ended = true;
    }

    /// Whether anything has come: the other side has begun to answer, so it will receive nothing more.
    pub fn has_begun(&self) -> bool {
        !self.bytes.is_empty() || self.ended
    }

    /// The answer, once it is complete or can no longer become so.
    pub fn poll_answer(&self) -> Option<Answered> {
        let Some((head, rest)) = self.bytes.split_first_chunk::<ANSWER_LEN>() else {
            return self.ended.then(|| Answered::Cut(self.bytes.clone()));
        };
        let word =
            |at: usize| head.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default();
        let code = Code(u32::from_le_bytes(word(0)));
        // The high half of the sum is always zero, and so is the word before it in all but the oldest receivers.
        let checksum = u32::from_le_bytes(word(8));
        let last_name = match rest.split_first_chunk::<4>() {
            Some((len, name)) => {
                let len = u32::from_le_bytes(*len).min(EXTENSION_MAX) as usize;
                match name.get(..len) {
                    Some(name) => Some(name.to_vec()),
                    None if self.ended => Some(name.to_vec()),
                    None => return None,
                }
            }
            None if self.ended => None,
            None => return None,
        };
        Some(Answered::Whole(Answer { code, checksum, last_name }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], ended: bool) -> Option<Answered> {
        let mut reader = AnswerReader::default();
        bytes.iter().for_each(|byte| reader.handle_input(&[*byte]));
        if ended {
            reader.handle_end();
        }
        reader.poll_answer()
    }

    #[test]
    fn an_answer_is_read_as_it_was_written() {
        let answer = Answer { code: Code::EXISTS, checksum: 0xdead_beef, last_name: Some(b"a/b".to_vec()) };
        let bytes = answer.to_bytes();
        assert_eq!(bytes[..12], [17, 0, 0, 0, 0, 0, 0, 0, 0xef, 0xbe, 0xad, 0xde]);
        assert_eq!(read(&bytes, false), Some(Answered::Whole(answer)));
    }

    #[test]
    fn an_answer_may_end_behind_its_sixteen_bytes() {
        let bytes = Answer::default().to_bytes();
        assert_eq!(read(&bytes, false), None);
        assert_eq!(read(&bytes, true), Some(Answered::Whole(Answer::default())));
    }

    #[test]
    fn a_short_answer_is_none_and_a_long_name_is_cut() {
        assert_eq!(read(b"", true), Some(Answered::Cut(Vec::new())));
        assert_eq!(read(&[0; 8], true), Some(Answered::Cut([0; 8].to_vec())));
        let mut bytes = Answer::default().to_bytes();
        bytes.extend(100u32.to_le_bytes());
        bytes.extend(b"ab");
        let Some(Answered::Whole(answer)) = read(&bytes, true) else { panic!("an answer") };
        assert_eq!(answer.last_name.as_deref(), Some(&b"ab"[..]));
        let mut bytes = Answer::default().to_bytes();
        bytes.extend(u32::MAX.to_le_bytes());
        bytes.extend([b'x'; 20_000]);
        let Some(Answered::Whole(answer)) = read(&bytes, false) else { panic!("an answer") };
        assert_eq!(answer.last_name.unwrap().len(), 16_384);
    }
}
