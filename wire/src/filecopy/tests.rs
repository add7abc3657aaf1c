//! Sender and receiver against each other, and a receiver against anything.

use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

const TIMES: [Time; 2] =
    [Time { seconds: 7, nanoseconds: 999_999_999 }, Time { seconds: u32::MAX, nanoseconds: 0 }];

/// What a receiver made of a stream.
#[derive(Debug, Default, PartialEq)]
struct Got {
    events: Vec<(Vec<u8>, Event)>,
    content: Vec<u8>,
    taken: usize,
}

/// Feeds a stream in pieces of this many bytes, then its end.
fn receive(stream: &[u8], piece: usize, limits: Limits) -> Got {
    let mut receiver = Receiver::new(limits);
    let mut got = Got::default();
    for piece in stream.chunks(piece.max(1)) {
        let mut rest = piece;
        loop {
            let taken = receiver.handle_input(rest);
            got.taken += taken;
            let (before, behind) = rest.split_at(taken);
            rest = behind;
            match receiver.poll_event() {
                Some(Event::Content(len)) => got.content.extend(&before[taken - len..]),
                Some(event) => got.events.push((receiver.name().to_vec(), event)),
                None => break,
            }
        }
    }
    receiver.handle_end();
    if let Some(event) = receiver.poll_event() {
        got.events.push((receiver.name().to_vec(), event));
    }
    got
}

fn refusal(stream: &[u8], limits: Limits) -> Refusal {
    match receive(stream, usize::MAX, limits).events.pop() {
        Some((_, Event::Refused(refusal))) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

fn header(name: &[u8], mode: u32, body_len: u64) -> Vec<u8> {
    let [accessed, modified] = TIMES;
    let header = EntryHeader { name_len: name.len() as u32, mode, body_len, accessed, modified };
    [&header.to_bytes(), name].concat()
}

#[test]
fn a_tree_arrives_as_it_was_sent() {
    let (mut sender, mut stream) = (Sender::default(), Vec::new());
    sender.handle_entry(b"d", 0o40_750, 4096, TIMES, &mut stream).unwrap();
    sender.handle_entry(b"d/f", 0o106_755, 5, TIMES, &mut stream).unwrap();
    stream.extend(b"hello");
    sender.handle_body(5).unwrap();
    sender.handle_entry(b"d/l", 0o120_777, 1, TIMES, &mut stream).unwrap();
    stream.extend(b"f");
    sender.handle_body(1).unwrap();
    sender.handle_entry(b"d", 0o47_777, 4096, TIMES, &mut stream).unwrap();
    sender.handle_end(&mut stream).unwrap();
    for piece in [1, 7, 1000] {
        let got = receive(&stream, piece, Limits::default());
        let entry = |name: &[u8], event| (name.to_vec(), event);
        let expected = [
            entry(b"d", Event::Folder { mode: 0o750, times: TIMES }),
            entry(b"d/f", Event::File { mode: 0o755, len: 5, times: TIMES }),
            entry(b"d/f", Event::FileEnd),
            entry(b"d/l", Event::Link(b"f".to_vec())),
            entry(b"d", Event::Folder { mode: 0o1777, times: TIMES }),
            entry(b"d", Event::End),
        ];
        assert_eq!(got.events, expected, "{piece}");
        assert_eq!(got.content, b"hello");
        assert_eq!(got.taken, stream.len());
    }
}

#[test]
fn a_sender_sends_what_it_announced() {
    let (mut sender, mut out) = (Sender::default(), Vec::new());
    assert_eq!(sender.handle_entry(b"f", 0o10_644, 0, TIMES, &mut out), Err(Misused::Kind));
    let long = vec![b'x'; NAME_MAX as usize];
    for name in [&b""[..], b"a\0b", &long] {
        assert_eq!(sender.handle_entry(name, 0o100_644, 0, TIMES, &mut out), Err(Misused::Name));
    }
    assert!(out.is_empty());
    sender.handle_entry(&long[1..], 0o100_644, 2, TIMES, &mut out).unwrap();
    assert_eq!(sender.handle_end(&mut out), Err(Misused::BodyMissing(2)));
    assert_eq!(sender.handle_body(3), Err(Misused::BodyTooLong));
    sender.handle_body(2).unwrap();
    sender.handle_end(&mut out).unwrap();
    assert_eq!(sender.handle_end(&mut out), Err(Misused::Ended));
    assert!(sender.has_ended());
}

#[test]
fn names_with_and_without_their_nul() {
    let end = [0; ENTRY_LEN];
    for name in [&b"f"[..], b"f\0"] {
        let got = receive(&[&header(name, 0o100_644, 0)[..], &end].concat(), 3, Limits::default());
        assert_eq!(got.events[0].0, b"f");
        assert_eq!(got.events.last().unwrap().1, Event::End);
    }
    assert_eq!(refusal(&header(b"f\0g", 0o100_644, 0), Limits::default()).code, Code::NAME);
    assert_eq!(refusal(&header(b"\0", 0o100_644, 0), Limits::default()).code, Code::NAME);
}

#[test]
fn what_makes_no_sense_is_refused_with_the_codes_of_the_wire() {
    let code = |stream: &[u8]| refusal(stream, Limits::default()).code;
    for mode in [0o10_644, 0o20_644, 0o60_644, 0o140_644, 0, 0o170_000] {
        assert_eq!(code(&header(b"x", mode, 0)), Code::INVALID, "{mode:o}");
    }
    assert_eq!(code(&header(b"d", 0o40_755, 5)), Code::INVALID);
    assert_eq!(code(&header(b"f", 0o100_644, u64::MAX)), Code::QUOTA);
    assert_eq!(code(&header(&[b'x'; 256], 0o100_644, 0)), Code::NAME_TOO_LONG);
    assert_eq!(code(&header(b"d/l", 0o120_777, 16_384)), Code::NAME_TOO_LONG);
    assert_eq!(code(&header(b"d/l", 0o120_777, 0)), Code::MISSING);
    let link = |name: &[u8], target: &[u8]| {
        code(&[&header(name, 0o120_777, target.len() as u64)[..], target].concat())
    };
    assert_eq!(link(b"d/l", &[b'x'; 4096]), Code::NAME_TOO_LONG);
    assert_eq!(link(b"d/l", b"\0"), Code::MISSING);
    assert_eq!(link(b"d/l", b"a\0b"), Code::LINK);
    assert_eq!(link(b"l", b"f"), Code::LINK);
    let mut late = header(b"f", 0o100_644, 0);
    late[20..24].copy_from_slice(&1_000_000_000u32.to_le_bytes());
    assert_eq!(code(&late), Code::INVALID);
}

#[test]
fn a_name_that_is_too_long_is_not_read_and_not_told() {
    for len in [16_384, u32::MAX] {
        let entry = EntryHeader { name_len: len, mode: 0o100_644, ..EntryHeader::END };
        let refused = refusal(&entry.to_bytes(), Limits::default());
        assert_eq!((refused.code, refused.has_name), (Code::NAME_TOO_LONG, false));
    }
    let path = [vec![b'd'; 99], vec![b'/']].concat().repeat(150);
    assert_eq!(refusal(&header(&path[..14_999], 0o100_644, 0)[..], Limits::default()).code, Code::CUT);
}

#[test]
fn an_early_end_says_where() {
    let code = |stream: &[u8]| refusal(stream, Limits::default()).code;
    let file = header(b"f", 0o100_644, 2);
    assert_eq!(code(b""), Code::CUT);
    assert_eq!(code(&file[..20]), Code::CUT);
    assert_eq!(code(&file[..32]), Code::BROKEN);
    assert_eq!(code(&[&file[..], b"x"].concat()), Code::BROKEN);
    assert_eq!(code(&[&file[..], b"xy"].concat()), Code::CUT);
    assert_eq!(code(&header(b"d/l", 0o120_777, 2)), Code::BROKEN);
}

#[test]
fn limits_count_headers_and_bytes() {
    let folders = header(b"d", 0o40_755, 0).repeat(3);
    assert_eq!(refusal(&folders, Limits { entries: 2, ..Limits::default() }).code, Code::QUOTA);
    assert_eq!(refusal(&folders, Limits { entries: 3, ..Limits::default() }).code, Code::CUT);
    let files = [&header(b"f", 0o100_644, 8)[..], b"12345678", &header(b"g", 0o100_644, 3)].concat();
    let got = receive(&files, 5, Limits { bytes: 10, ..Limits::default() });
    let (name, event) = got.events.last().unwrap();
    assert_eq!(name, b"g");
    assert!(matches!(event, Event::Refused(Refusal { code: Code::QUOTA, .. })));
    let only_files = Limits { only_files: true, ..Limits::default() };
    assert_eq!(refusal(&folders, only_files).code, Code::INVALID);
}

proptest! {
    #[test]
    fn any_bytes_end_in_one_last_event_however_they_are_cut(
        stream in proptest::collection::vec(prop_oneof![3 => Just(0u8), 1 => any::<u8>()], 0..400),
        piece in 1usize..50,
    ) {
        let whole = receive(&stream, usize::MAX, Limits::default());
        prop_assert!(whole.taken <= stream.len());
        let last = |event: &Event| matches!(event, Event::End | Event::Refused(_));
        prop_assert_eq!(whole.events.iter().filter(|(_, event)| last(event)).count(), 1);
        prop_assert!(last(&whole.events.last().unwrap().1));
        prop_assert_eq!(receive(&stream, piece, Limits::default()), whole);
    }

    #[test]
    fn names_that_pass_stay_below_and_come_back(
        parts in proptest::collection::vec("[a-z.~ ]{1,5}", 1..5),
        content in proptest::collection::vec(any::<u8>(), 0..200),
        piece in 1usize..50,
    ) {
        let name = parts.join("/").into_bytes();
        let (mut sender, mut stream) = (Sender::default(), Vec::new());
        sender.handle_entry(&name, 0o100_640, content.len() as u64, TIMES, &mut stream).unwrap();
        stream.extend(&content);
        sender.handle_body(content.len() as u64).unwrap();
        sender.handle_end(&mut stream).unwrap();
        let got = receive(&stream, piece, Limits::default());
        if parts.iter().any(|part| part == "." || part == "..") {
            let refused =
                Refusal { code: Code::NAME, has_name: true, wrong: Some(Wrong::Path) };
            prop_assert_eq!(&got.events[0], &(name, Event::Refused(refused)));
        } else {
            prop_assert_eq!(&got.content, &content);
            prop_assert_eq!(got.taken, stream.len());
        }
    }
}
