//! Bulk file copy, both directions: what a receiver lets through stays below its folder and within its limits, the pieces
//! in which bytes arrive do not matter, and an answer of any form is read within bounds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::filecopy::{
    ANSWER_LEN, AnswerReader, Answered, EXTENSION_MAX, Event, Limits, LinkRules, NAME_MAX, NameRules,
    Receiver, Sender, Time, check_link, check_name,
};

fuzz_target!(|data: &[u8]| {
    let (by, stream) = fuzz::split(data);
    let limits = Limits {
        names: fuzz::pick([NameRules::Plain, NameRules::All], by),
        links: fuzz::pick([LinkRules::Inside, LinkRules::Canonical], by / 2),
        only_files: by & 4 != 0,
        entries: fuzz::pick([0, 2], by / 8),
        bytes: fuzz::pick([0, 10], by / 16),
    };
    let whole = receive(stream, 0, limits);
    assert_eq!(receive(stream, by | 1, limits), whole);
    answer(stream, by | 1);
    again(&whole);
});

/// Entries, with their content, and how the stream ended.
#[derive(Debug, PartialEq)]
struct Got {
    entries: Vec<(Vec<u8>, Event)>,
    content: Vec<u8>,
    taken: usize,
}

fn receive(stream: &[u8], seed: u8, limits: Limits) -> Got {
    let mut receiver = Receiver::new(limits);
    let mut got = Got { entries: Vec::new(), content: Vec::new(), taken: 0 };
    for piece in fuzz::pieces(stream, seed) {
        let mut rest = piece;
        loop {
            let taken = receiver.handle_input(rest);
            let (before, behind) = rest.split_at(taken);
            (rest, got.taken) = (behind, got.taken + taken);
            match receiver.poll_event() {
                None => break,
                Some(Event::Content(len)) => got.content.extend(&before[before.len() - len..]),
                Some(event) => note(&mut got, receiver.name(), event, limits),
            }
        }
        assert!(rest.is_empty() || matches!(got.entries.last(), Some((_, Event::End | Event::Refused(_)))));
    }
    receiver.handle_end();
    if let Some(event) = receiver.poll_event() {
        note(&mut got, receiver.name(), event, limits);
    }
    assert!(matches!(got.entries.last(), Some((_, Event::End | Event::Refused(_)))));
    if limits.bytes != 0 {
        assert!(got.content.len() as u64 <= limits.bytes);
    }
    got
}

fn note(got: &mut Got, name: &[u8], event: Event, limits: Limits) {
    assert!(name.len() <= NAME_MAX as usize);
    match &event {
        Event::File { mode, times, .. } | Event::Folder { mode, times } => {
            assert!(mode & !0o1777 == 0 && times.iter().all(|time| time.is_valid()));
            assert_eq!(check_name(name, limits.names), Ok(()));
        }
        Event::Link(target) => {
            assert!(!target.is_empty() && target.len() < 4096);
            assert_eq!(check_link(name, target, limits.names, limits.links), Ok(()));
        }
        Event::FileEnd | Event::End | Event::Refused(_) | Event::Content(_) => {}
    }
    if limits.only_files {
        assert!(!matches!(event, Event::Folder { .. } | Event::Link(_)));
    }
    got.entries.push((name.to_vec(), event));
}

fn answer(bytes: &[u8], seed: u8) {
    let read = |seed| {
        let mut reader = AnswerReader::default();
        for piece in fuzz::pieces(bytes, seed) {
            reader.handle_input(piece);
        }
        reader.handle_end();
        reader.poll_answer().expect("an end is an answer")
    };
    let whole = read(0);
    assert_eq!(read(seed), whole);
    match whole {
        Answered::Cut(said) => assert!(said.len() < ANSWER_LEN && said == bytes),
        Answered::Whole(answer) => {
            assert!(answer.last_name.as_ref().is_none_or(|name| name.len() <= EXTENSION_MAX as usize));
            let _ = (answer.code.to_string(), answer.code.as_text());
        }
    }
}

/// What was received can be sent again, and is then received as the same.
fn again(got: &Got) {
    let (mut sender, mut stream) = (Sender::default(), Vec::new());
    let mut content = got.content.as_slice();
    let mut sent = Vec::new();
    for (name, event) in &got.entries {
        let none = [Time::default(); 2];
        let (mode, times, body) = match event {
            Event::File { mode, len, times } if *len <= content.len() as u64 => {
                let (body, rest) = content.split_at(*len as usize);
                content = rest;
                (0o100_000 | mode, *times, body)
            }
            Event::Folder { mode, times } => (0o40_000 | mode, *times, &[][..]),
            Event::Link(target) => (0o120_777, none, target.as_slice()),
            Event::FileEnd => continue,
            _ => break,
        };
        // A name of the full length had no NUL when it came, and has no room for one now.
        if sender.handle_entry(name, mode, body.len() as u64, times, &mut stream).is_err() {
            break;
        }
        stream.extend(body);
        sender.handle_body(body.len() as u64).expect("as much as was announced");
        sent.push((name.clone(), event.clone()));
    }
    sender.handle_end(&mut stream).expect("every body is complete");
    let limits = Limits { names: NameRules::All, ..Limits::default() };
    let mut back = receive(&stream, 0, limits).entries;
    back.retain(|(_, event)| !matches!(event, Event::FileEnd));
    assert!(matches!(back.pop(), Some((_, Event::End))));
    assert_eq!(back, sent);
}
