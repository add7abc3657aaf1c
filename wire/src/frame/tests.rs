use alloc::vec;

use proptest::prelude::*;

use super::*;
use crate::names::{Ident, ServiceName, Target};
use crate::version::Version;

fn message(ty: u32, body: &[u8]) -> Vec<u8> {
    [&Header::new(ty, body.len() as u32).to_bytes(), body].concat()
}

#[test]
fn half_messages_wait() {
    let mut decoder = Decoder::new(16);
    assert!(!decoder.is_mid_message());
    for byte in message(7, b"abc") {
        assert_eq!(decoder.next(), Ok(None));
        decoder.push(&[byte]);
    }
    assert!(decoder.is_mid_message());
    assert_eq!(decoder.next(), Ok(Some(Frame { ty: 7, body: b"abc".to_vec() })));
    assert_eq!(decoder.next(), Ok(None));
    assert!(!decoder.is_mid_message());
}

#[test]
fn a_length_over_the_limit_is_final() {
    let mut decoder = Decoder::new(16);
    decoder.push(&message(1, &[0; 16]));
    decoder.push(&Header::new(2, 17).to_bytes());
    assert!(matches!(decoder.next(), Ok(Some(Frame { ty: 1, .. }))));
    let error = Err(Breach::BodyTooLong { len: 17, max: 16 }.into());
    assert_eq!(decoder.next(), error);
    decoder.push(&message(3, b""));
    assert_eq!(decoder.next(), error);
    assert!(!decoder.is_mid_message());
}

#[test]
fn an_announced_length_costs_nothing() {
    let mut decoder = Decoder::new(usize::MAX);
    decoder.push(&Header::new(1, u32::MAX).to_bytes());
    assert_eq!(decoder.next(), Ok(None));
    assert!(decoder.buffer.capacity() < 64);
}

fn call() -> Trigger {
    Trigger {
        source: None,
        target: Target::new("work").unwrap(),
        service: ServiceName::new("qubes.Test").unwrap(),
        ident: Ident::new("SOCKET").unwrap(),
    }
}

#[test]
fn clients_of_every_age() {
    let framed = |version| call().encode(version).unwrap();
    let bare = framed(Version::V2)[HEADER_LEN..].to_vec();
    for request in [bare, framed(Version::V2), framed(Version::V3), framed(Version::V4)] {
        let mut whole = LocalTriggerDecoder::new();
        assert_eq!(whole.feed(&request), Ok(Some(Ok(call()))));
        assert_eq!(whole.feed(b""), Ok(Some(Ok(call()))));
        assert_eq!(whole.feed(b"x"), Err(Breach::Trailing.into()));
        let mut slow = LocalTriggerDecoder::new();
        let (last, first) = request.split_last().unwrap();
        for byte in first {
            assert_eq!(slow.feed(&[*byte]), Ok(None));
            assert!(slow.has_begun());
        }
        assert_eq!(slow.feed(&[*last]), Ok(Some(Ok(call()))));
    }
}

#[test]
fn other_messages_are_not_taken_for_names() {
    for ty in [ty::HELLO, ty::EXEC_CMDLINE, 0x214] {
        let answer = LocalTriggerDecoder::new().feed(&Header::new(ty, 4).to_bytes());
        assert_eq!(answer, Err(Breach::UnexpectedType(ty).into()));
    }
    let huge = Header::new(ty::TRIGGER_SERVICE4, u32::MAX).to_bytes();
    let error = Breach::BodyTooLong { len: u32::MAX, max: 65_535 };
    assert_eq!(LocalTriggerDecoder::new().feed(&huge), Err(error.into()));
}

#[test]
fn one_letter_names_of_old_clients_are_names() {
    let mut bare = [0; TRIGGER2_LEN];
    bare[0] = b'a';
    let read = LocalTriggerDecoder::new().feed(&bare).unwrap().unwrap().unwrap();
    assert_eq!((read.service.as_str(), read.target.as_str()), ("a", "@default"));
}

proptest! {
    #[test]
    fn messages_come_out_as_they_went_in(
        bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8),
        cuts in proptest::collection::vec(1..30_usize, 1..20),
    ) {
        let wire: Vec<u8> = bodies.iter().flat_map(|body| message(body.len() as u32, body)).collect();
        let mut decoder = Decoder::new(40);
        let mut out = vec![];
        let mut cuts = cuts.iter().cycle();
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            let (piece, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            rest = later;
            decoder.push(piece);
            while let Some(frame) = decoder.next().unwrap() {
                out.push(frame.body);
            }
            prop_assert!(decoder.buffer.len() < HEADER_LEN + 40 + 30);
        }
        prop_assert_eq!(out, bodies);
        prop_assert!(!decoder.is_mid_message());
    }

    #[test]
    fn any_bytes_are_judged(pieces: Vec<Vec<u8>>) {
        let mut decoder = Decoder::new(100);
        let mut local = LocalTriggerDecoder::new();
        for piece in pieces {
            decoder.push(&piece);
            while let Ok(Some(frame)) = decoder.next() {
                prop_assert!(frame.body.len() <= 100);
            }
            if local.feed(&piece).is_err() {
                break;
            }
        }
    }
}
