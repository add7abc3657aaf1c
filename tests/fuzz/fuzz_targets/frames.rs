//! Cutting a byte stream into messages: the pieces in which it arrives do not matter, nothing is lost or
//! made up, a long body is refused at its header, and no more is held than one message and one push.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::frame::{Decoder, Frame};
use wire::header::{HEADER_LEN, Header};
use wire::{Breach, PeerError};

#[derive(Debug, PartialEq)]
struct Heard {
    frames: Vec<Frame>,
    end: Option<PeerError>,
    mid_message: bool,
}

fn hear<'a>(max_body: usize, pieces: impl Iterator<Item = &'a [u8]>) -> Heard {
    let mut decoder = Decoder::new(max_body);
    let mut frames = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => {
                    decoder.push(piece);
                    assert_eq!(decoder.next(), Err(error.clone()), "an error stays");
                    assert_eq!(decoder.held(), 0);
                    return Heard { frames, end: Some(error), mid_message: false };
                }
            }
        }
        assert!(decoder.held() <= HEADER_LEN + max_body + piece.len());
    }
    Heard { frames, end: None, mid_message: decoder.is_mid_message() }
}

fuzz_target!(|data: &[u8]| {
    let (limit, data) = fuzz::split(data);
    let (seed, bytes) = fuzz::split(data);
    let max_body = fuzz::pick([0, 4, 96, 4096, 65_535], limit);
    let heard = hear(max_body, std::iter::once(bytes));
    assert_eq!(heard, hear(max_body, fuzz::pieces(bytes, seed)));

    let mut rest = bytes;
    for Frame { ty, body } in &heard.frames {
        assert!(body.len() <= max_body);
        rest =
            rest.strip_prefix(&Header::new(*ty, body.len() as u32).to_bytes()).expect("the header that came");
        rest = rest.strip_prefix(body.as_slice()).expect("the body that came");
    }
    match heard.end {
        None => assert_eq!(heard.mid_message, !rest.is_empty()),
        Some(error) => {
            let header = Header::from_bytes(*rest.first_chunk().expect("a header that is refused is there"));
            let max = max_body as u32;
            assert!(header.len > max);
            assert_eq!(error, Breach::BodyTooLong { len: header.len, max }.into());
        }
    }
});
