#![forbid(unsafe_code)]
//! Access to the parser of xenstore's messages, for the fuzz target `xenstore` in `tests/fuzz`.

use super::store_messages::{self, Decoder, MAX_BODY, Message};

/// Most bytes that an incomplete message has.
pub const MAX_MESSAGE: usize = 16 + MAX_BODY;

/// What a stream was understood as.
#[derive(Debug, PartialEq, Eq)]
pub struct Heard {
    /// One entry a message: `None` for a change, its type and body for a reply, 0 and a name for a failure.
    pub messages: Vec<Option<(u32, Vec<u8>)>>,
    /// A message longer than the protocol allows, which ends the stream.
    pub too_long: bool,
    /// Bytes of a message that is not complete.
    pub held: usize,
}

/// Decodes a stream that arrives in these pieces.
pub fn messages<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Heard {
    let mut decoder = Decoder::default();
    let mut messages = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            messages.push(match decoder.next() {
                Ok(Some(Message::Changed(_))) => None,
                Ok(Some(Message::Reply { ty, body })) => Some((ty, body)),
                Ok(Some(Message::Failed(name))) => Some((0, name)),
                Ok(None) => break,
                Err(store_messages::TooLong) => return Heard { messages, too_long: true, held: 0 },
            });
        }
    }
    Heard { messages, too_long: false, held: decoder.held() }
}

/// The text of a failure with this name.
pub fn failure(name: &[u8]) -> String {
    store_messages::failure(name).to_string()
}

/// A positive decimal number.
pub fn number(value: &[u8]) -> Option<u32> {
    store_messages::number(value)
}
