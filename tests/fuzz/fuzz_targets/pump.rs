//! A whole call against a peer that says anything and is gone: what reaches the local side is what the rules
//! for headers make of those bytes, no byte more, and the call ends.
#![no_main]

use std::fs::File;
use std::io::{Read, Seek};

use engine::pump::{Call, run};
use libfuzzer_sys::fuzz_target;
use ring::{Orders, Sizes};
use rustix::fs::{MemfdFlags, memfd_create};
use wire::escape::filter_terminal;
use wire::header::{HEADER_LEN, Header};
use wire::stream::{Incoming, Kind, Next, Role};
use wire::version::Version;

fuzz_target!(|data: &[u8]| {
    let (by, bytes) = fuzz::split(data);
    let role = fuzz::pick([Role::Client, Role::Service], by);
    let version = fuzz::pick(fuzz::VERSIONS, by / 2);
    let filter = by >= 128;
    let orders = Orders::choose(Sizes::both(65_536)).expect("sizes within the limits");
    let (client, server) = ring::fuzzing::pair(orders).expect("memory");
    // The side that asked for the service is the server of the data link.
    let (ours, mut theirs) = if role == Role::Client { (server, client) } else { (client, server) };
    let bytes = &bytes[..bytes.len().min(65_536)];
    assert_eq!(theirs.write(bytes).expect("an honest ring"), bytes.len());
    drop(theirs);

    let (main, err) = (file(), file());
    let mut call = Call::new(role, version);
    call.sink = Some(main.try_clone().expect("a copy").into());
    if role == Role::Client {
        call.stderr = Some(err.try_clone().expect("a copy").into());
        (call.filter_sink, call.filter_stderr) = (filter, filter);
    }
    let outcome = run(ours, call);
    let filter = filter && role == Role::Client;
    let expected = Expected::of(role, version, bytes);
    let (main, err) = (text(main), text(err));
    assert!(main == shown(&expected.main, filter) && err == shown(&expected.err, filter), "{outcome:?}");
    assert!(outcome.failed().is_none() && outcome.bytes_in as usize <= bytes.len(), "{outcome:?}");
    assert_eq!(outcome.remote, expected.exit);
    assert_eq!(outcome.lost().is_some(), expected.exit.is_none(), "{outcome:?}");
});

fn file() -> File {
    memfd_create("sink", MemfdFlags::CLOEXEC).expect("memory").into()
}

fn text(mut file: File) -> Vec<u8> {
    let mut text = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut text)).expect("a file in memory");
    text
}

fn shown(bytes: &[u8], filter: bool) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if filter {
        filter_terminal(&mut bytes);
    }
    bytes
}

/// What a stream of bytes means.
#[derive(Debug, Default)]
struct Expected {
    main: Vec<u8>,
    err: Vec<u8>,
    exit: Option<i32>,
}

impl Expected {
    fn of(role: Role, version: Version, mut bytes: &[u8]) -> Self {
        let mut incoming = Incoming::new(role, version);
        let mut expected = Self::default();
        while let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() {
            let (sink, len) = match incoming.on_header(Header::from_bytes(*header)) {
                Ok(Next::Payload { kind: Kind::Stderr, len }) => (Some(&mut expected.err), len),
                Ok(Next::Payload { len, .. }) => (Some(&mut expected.main), len),
                Ok(Next::Eof(_)) => (None, 0),
                Ok(Next::Ignore { len }) => (None, len),
                Ok(Next::ExitCode { len }) => {
                    let want = len.min(4) as usize;
                    expected.exit = rest.get(..want).map(|body| incoming.on_exit_code(body));
                    return expected;
                }
                Err(_) => return expected,
            };
            let (body, rest) = rest.split_at(rest.len().min(len as usize));
            if let Some(sink) = sink {
                sink.extend_from_slice(body);
            }
            bytes = rest;
        }
        expected
    }
}
