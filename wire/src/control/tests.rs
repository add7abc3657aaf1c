use alloc::vec;

use proptest::prelude::*;

use super::*;
use crate::frame::Decoder;
use crate::names::{ServiceName, Target};

fn decode_whole(bytes: &[u8]) -> Result<Message, PeerError> {
    let mut decoder = Decoder::new(MAX_LOCAL_BODY);
    decoder.push(bytes);
    let frame = decoder.next()?.expect("a whole message");
    assert!(!decoder.is_mid_message());
    Message::decode(frame.ty, &frame.body)
}

fn exec(cmdline: &[u8]) -> ExecParams {
    ExecParams { connect_domain: DomainId(5), connect_port: Port(513), cmdline: cmdline.to_vec() }
}

#[test]
fn exec_on_the_wire() {
    let message = Message::Exec { just: false, params: exec(b"user:ls") };
    let bytes = message.encode(Version::V4).unwrap();
    assert_eq!(bytes, b"\x00\x02\0\0\x10\0\0\0\x05\0\0\0\x01\x02\0\0user:ls\0");
    assert_eq!(decode_whole(&bytes), Ok(message));
}

#[test]
fn an_answer_to_a_local_client_has_no_text() {
    let message = Message::Exec { just: true, params: exec(b"") };
    let bytes = message.encode(Version::V3).unwrap();
    assert_eq!(bytes, b"\x01\x02\0\0\x08\0\0\0\x05\0\0\0\x01\x02\0\0");
    assert_eq!(decode_whole(&bytes), Ok(message));
}

#[test]
fn text_ends_at_its_only_nul() {
    let with = |text: &[u8]| [&[0; EXEC_LEN], text].concat();
    let decoded = |text: &[u8]| ExecParams::decode(ty::EXEC_CMDLINE, &with(text)).map(|p| p.cmdline);
    assert_eq!(decoded(b"a\0\0\0"), Ok(b"a".to_vec()));
    for bad in [b"a".as_slice(), b"a\0b", b"a\0b\0"] {
        assert_eq!(decoded(bad), Err(Breach::Termination(ty::EXEC_CMDLINE).into()));
    }
    let short = ExecParams::decode(ty::JUST_EXEC, &[0; EXEC_LEN - 1]);
    assert_eq!(short, Err(Breach::BodyLength { ty: ty::JUST_EXEC, len: 7 }.into()));
}

#[test]
fn service_connect_takes_both_paddings() {
    let endpoint = Endpoint { domain: DomainId(2), port: Port(515) };
    let ours = ServiceParams { endpoint, ident: Ident::numbered(9) };
    let encoded = ours.encode();
    assert_eq!(encoded.len(), EXEC_LEN + IDENT_LEN);
    assert_eq!(ServiceParams::decode(&encoded), Ok(ours));
    assert_eq!(ServiceParams::decode(&encoded[..EXEC_LEN + 8]), Ok(ours));
    assert!(ServiceParams::decode(&encoded[..EXEC_LEN + 7]).is_err());
    let hostile = [&endpoint.to_bytes(), b"SOCKET9\n\0".as_slice()].concat();
    assert_eq!(ServiceParams::decode(&hostile), Err(Breach::Ident.into()));
}

#[test]
fn fixed_bodies_have_their_length() {
    for (ty, right) in [(ty::HELLO, 4), (ty::SERVICE_REFUSED, 32), (ty::CONNECTION_TERMINATED, 8)] {
        for len in [0, right - 1, right, right + 1] {
            let decoded = Message::decode(ty, &vec![0; len]);
            let wanted = Err(Breach::BodyLength { ty, len }.into());
            assert_eq!(decoded == wanted, len != right, "{ty:#x} {len}");
        }
    }
}

#[test]
fn foreign_types_are_breaches() {
    assert_eq!(Message::decode(ty::DATA_STDIN, b""), Err(Breach::UnexpectedType(ty::DATA_STDIN).into()));
    assert_eq!(Message::decode(0x204, b""), Err(Breach::UnknownType(0x204).into()));
}

#[test]
fn triggers_belong_to_versions() {
    let fits = |ty, version| check_trigger_version(ty, version).is_ok();
    use Version::{V2, V3, V4};
    assert_eq!([V2, V3, V4].map(|v| fits(ty::TRIGGER_SERVICE, v)), [true, false, false]);
    assert_eq!([V2, V3, V4].map(|v| fits(ty::TRIGGER_SERVICE3, v)), [false, true, true]);
    assert_eq!([V2, V3, V4].map(|v| fits(ty::TRIGGER_SERVICE4, v)), [false, false, true]);
}

#[test]
fn limits_are_kept_with_a_reason() {
    let message = Message::Exec { just: false, params: exec(&[b'x'; 4088]) };
    let error = message.encode_within(Version::V4, MAX_CONTROL_BODY);
    assert_eq!(error, Err(TooLong { len: 4097, max: 4096 }));
    let message = Message::Exec { just: false, params: exec(&[b'x'; 4087]) };
    assert!(message.encode_within(Version::V4, MAX_CONTROL_BODY).is_ok());
    let message = Message::Exec { just: false, params: exec(&vec![b'x'; MAX_CMDLINE + 1]) };
    assert_eq!(message.encode(Version::V4), Err(TooLong { len: 65_536, max: 65_535 }));
}

/// How much upstream's control rings hold in one piece.
#[test]
fn names_that_upstreams_rings_hold() {
    for (version, longest) in [(Version::V3, 3999), (Version::V4, 3935)] {
        let message = |length: usize| {
            let service = ServiceName::new(&"s".repeat(length)).unwrap();
            let target = Target::new("db").unwrap();
            let trigger = Trigger { source: None, target, service, ident: Ident::numbered(1) };
            Message::Trigger(trigger).encode_within(version, MAX_CONTROL_BODY).map(drop)
        };
        assert_eq!(message(longest), Ok(()));
        assert_eq!(message(longest + 1), Err(TooLong { len: 4097, max: 4096 }));
    }
}

fn any_message() -> impl Strategy<Value = Message> {
    let endpoint = (any::<u32>(), any::<u32>())
        .prop_map(|(domain, port)| Endpoint { domain: DomainId(domain), port: Port(port) });
    let ident = any::<u64>().prop_map(Ident::numbered);
    let source = proptest::option::of("[a-z@:.-]{1,63}".prop_map(|s| Target::new(&s).unwrap()));
    let trigger = (source, "[A-Za-z@:_.-]{1,63}", "[a-z.][a-z+.]{0,99}", ident.clone()).prop_map(
        |(source, target, service, ident)| {
            let target = Target::new(&target).unwrap();
            Message::Trigger(Trigger { source, target, service: ServiceName::new(&service).unwrap(), ident })
        },
    );
    prop_oneof![
        any::<u32>().prop_map(Message::Hello),
        (any::<bool>(), endpoint.clone(), proptest::collection::vec(1..=255_u8, 0..300)).prop_map(
            |(just, Endpoint { domain, port }, cmdline)| {
                let params = ExecParams { connect_domain: domain, connect_port: port, cmdline };
                Message::Exec { just, params }
            }
        ),
        (endpoint.clone(), ident.clone())
            .prop_map(|(endpoint, ident)| Message::ServiceConnect(ServiceParams { endpoint, ident })),
        ident.prop_map(Message::Refused),
        trigger,
        endpoint.prop_map(Message::ConnectionTerminated),
    ]
}

proptest! {
    #[test]
    fn messages_round_trip(message in any_message()) {
        let bytes = message.encode(Version::V4).unwrap();
        prop_assert_eq!(decode_whole(&bytes), Ok(message));
    }

    #[test]
    fn any_body_of_any_type_is_judged(ty in 0x1f0..0x310_u32, body: Vec<u8>) {
        if let Ok(message) = Message::decode(ty, &body) {
            // What was decoded can be encoded again.
            let version = if ty == ty::TRIGGER_SERVICE { Version::V2 } else { Version::V4 };
            prop_assert!(message.encode(version).is_ok());
        }
    }
}
