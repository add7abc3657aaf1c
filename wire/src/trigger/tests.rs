use alloc::vec;

use proptest::prelude::*;

use super::*;
use crate::header::{HEADER_LEN, Header};
use crate::names::NameError;

fn trigger(source: Option<&str>, target: &str, service: &str) -> Trigger {
    Trigger {
        source: source.map(|s| Target::new(s).unwrap()),
        target: Target::new(target).unwrap(),
        service: ServiceName::new(service).unwrap(),
        ident: Ident::numbered(3),
    }
}

fn split(bytes: &[u8]) -> (Header, &[u8]) {
    let (header, body) = bytes.split_first_chunk::<HEADER_LEN>().unwrap();
    let header = Header::from_bytes(*header);
    assert_eq!(header.len as usize, body.len());
    (header, body)
}

#[test]
fn the_three_forms() {
    let call = trigger(Some("work"), "@default", "qubes.Test+arg");
    for (version, ty, len) in [
        (Version::V2, ty::TRIGGER_SERVICE, 128),
        (Version::V3, ty::TRIGGER_SERVICE3, 96 + 15),
        (Version::V4, ty::TRIGGER_SERVICE4, 160 + 15),
    ] {
        let bytes = call.encode(version).unwrap();
        let (header, body) = split(&bytes);
        assert_eq!((header.ty, body.len()), (ty, len));
        let read = Trigger::decode(header.ty, body).unwrap().unwrap();
        let source = call.source.clone().filter(|_| version == Version::V4);
        assert_eq!(read, Trigger { source, ..call.clone() });
    }
}

#[test]
fn offsets_of_the_v4_form() {
    let bytes = trigger(Some("work"), "db", "qubes.Test").encode(Version::V4).unwrap();
    let (_, body) = split(&bytes);
    assert_eq!(&body[..5], b"work\0");
    assert_eq!(&body[64..67], b"db\0");
    assert_eq!(&body[128..136], b"SOCKET3\0");
    assert_eq!(&body[160..], b"qubes.Test\0");
}

#[test]
fn the_oldest_form_has_little_room() {
    assert!(trigger(None, &"t".repeat(31), &"s".repeat(63)).encode(Version::V2).is_ok());
    let error = trigger(None, &"t".repeat(32), "s").encode(Version::V2);
    assert_eq!(error, Err(TooLong { len: 32, max: 31 }));
    let error = trigger(None, "t", &"s".repeat(64)).encode(Version::V2);
    assert_eq!(error, Err(TooLong { len: 64, max: 63 }));
}

#[test]
fn bad_requests_are_refused_by_their_id() {
    let bytes = trigger(None, "db", "x").encode(Version::V4).unwrap();
    let fixed = &bytes[HEADER_LEN..bytes.len() - 2];
    let reason = |name: &[u8]| {
        let body = [fixed, name].concat();
        let bad = Trigger::decode(ty::TRIGGER_SERVICE4, &body).unwrap().unwrap_err();
        assert_eq!(bad.ident, Ident::numbered(3).to_bytes());
        bad.reason
    };
    assert_eq!(reason(b"\0"), Breach::Service(NameError::Empty));
    assert_eq!(reason(b"+x\0"), Breach::Service(NameError::BadStart('+')));
    for name in [b"".as_slice(), b"x", b"x\0y\0", b"x\0\0"] {
        assert_eq!(reason(name), Breach::Termination(ty::TRIGGER_SERVICE4));
    }
    let long = [vec![b'a'; 65_000], vec![0]].concat();
    assert!(matches!(reason(&long), Breach::Service(NameError::TooLong { .. })));
}

/// An agent may have filled the field with what its client sent, so a malformed id says nothing about the agent.
#[test]
fn a_malformed_id_is_refused_with_the_bytes_that_came() {
    let field = |text: &[u8]| {
        let mut field = [0; IDENT_LEN];
        field[..text.len()].copy_from_slice(text);
        field
    };
    for ident in [field(b"\x01\x02"), field(b"a\0b"), field(b"a/b"), field(b"\xff"), [b'a'; IDENT_LEN]] {
        for version in [Version::V2, Version::V3, Version::V4] {
            let bytes = trigger(None, "db", "x").encode(version).unwrap();
            let (header, body) = split(&bytes);
            let mut body = body.to_vec();
            let place =
                body.windows(IDENT_LEN).position(|field| field == Ident::numbered(3).to_bytes()).unwrap();
            body[place..place + IDENT_LEN].copy_from_slice(&ident);
            let bad = Trigger::decode(header.ty, &body).unwrap().unwrap_err();
            assert_eq!(bad, BadTrigger { ident, reason: Breach::Ident }, "{version:?}");
            let answer = crate::control::Message::BadTrigger(bad).encode(version).unwrap();
            let (header, body) = split(&answer);
            assert_eq!((header.ty, body), (ty::SERVICE_REFUSED, ident.as_slice()), "{version:?}");
        }
    }
}

#[test]
fn without_room_for_its_fields_it_is_no_request() {
    for (ty, lens) in [
        (ty::TRIGGER_SERVICE, &[0, 127, 129][..]),
        (ty::TRIGGER_SERVICE3, &[0, 95]),
        (ty::TRIGGER_SERVICE4, &[0, 159]),
    ] {
        for &len in lens {
            let wrong = Trigger::decode(ty, &vec![0; len]);
            assert_eq!(wrong, Err(Breach::BodyLength { ty, len }.into()));
        }
    }
}

#[test]
fn unterminated_targets_are_cut() {
    let mut bytes = trigger(None, "db", "x").encode(Version::V4).unwrap();
    bytes[HEADER_LEN..HEADER_LEN + 128].fill(b'$');
    let read = Trigger::decode(ty::TRIGGER_SERVICE4, &bytes[HEADER_LEN..]).unwrap().unwrap();
    assert_eq!(read.target.as_str(), "_".repeat(63));
    assert_eq!(read.source.unwrap().as_str(), "_".repeat(63));
}

proptest! {
    #[test]
    fn any_body_is_judged(body in proptest::collection::vec(any::<u8>(), 0..400), form in 0..3_usize) {
        let ty = [ty::TRIGGER_SERVICE, ty::TRIGGER_SERVICE3, ty::TRIGGER_SERVICE4][form];
        let _ = Trigger::decode(ty, &body);
    }

    /// Zeroed ids are well formed, so this reaches the names.
    #[test]
    fn any_names_are_sanitized(names: [[u8; 32]; 4], service: Vec<u8>) {
        let body = [names.concat().as_slice(), &[0; IDENT_LEN], &service, &[0]].concat();
        if let Ok(Ok(trigger)) = Trigger::decode(ty::TRIGGER_SERVICE4, &body) {
            prop_assert!(ServiceName::new(trigger.service.as_str()).is_ok());
            prop_assert!(Target::new(trigger.target.as_str()).is_ok());
        }
    }
}
