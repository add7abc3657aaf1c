//! The data stream: every header in every state, for both roles and all versions; and what our sending half
//! allows is what a receiving half accepts.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::header::{Header, ty};
use wire::stream::{Incoming, Kind, Next, Outgoing, Role};
use wire::version::Version;

const KINDS: [Kind; 3] = [Kind::Stdin, Kind::Stdout, Kind::Stderr];
const TYPES: [u32; 8] = [
    ty::DATA_STDIN,
    ty::DATA_STDOUT,
    ty::DATA_STDERR,
    ty::DATA_EXIT_CODE,
    ty::HELLO,
    ty::EXEC_CMDLINE,
    ty::TRIGGER_SERVICE4,
    0xffff,
];

fuzz_target!(|data: &[u8]| {
    let (by, steps) = fuzz::split(data);
    let role = fuzz::pick([Role::Client, Role::Service], by);
    let version = fuzz::pick(fuzz::VERSIONS, by / 2);
    receive(role, version, steps);
    send(role, version, by >= 128, steps);
});

/// Steps of three bytes: a type and a length.
fn headers(steps: &[u8]) -> impl Iterator<Item = Header> {
    steps.as_chunks::<3>().0.iter().map(|[ty, high, low]| {
        let len = match u32::from(u16::from_be_bytes([*high, *low])) {
            // The limits and their neighbours.
            len @ 0xff00.. => fuzz::pick([4095, 4096, 4097, 65_535, 65_536, 65_537, u32::MAX], len as u8),
            len => len,
        };
        Header::new(fuzz::pick(TYPES, *ty), len)
    })
}

fn receive(role: Role, version: Version, steps: &[u8]) {
    let mut incoming = Incoming::new(role, version);
    for header in headers(steps) {
        let open = KINDS.map(|kind| incoming.is_open(kind));
        let is_open = |kind: Kind| open[KINDS.iter().position(|other| *other == kind).unwrap()];
        let is_data = (ty::DATA_STDIN..=ty::DATA_EXIT_CODE).contains(&header.ty);
        let next = match incoming.on_header(header) {
            Ok(next) => next,
            Err(_) => return assert!(header.len > version.max_chunk() || !is_data, "{header:?}"),
        };
        assert!(header.len <= version.max_chunk() && is_data, "{header:?}");
        match next {
            Next::Payload { kind, len } => {
                assert!(is_open(kind) && incoming.is_open(kind) && len == header.len && len > 0);
            }
            Next::Eof(kind) => assert!(is_open(kind) && !incoming.is_open(kind) && header.len == 0),
            Next::ExitCode { len } => {
                assert!(role == Role::Client && incoming.exit_code().is_none() && len == header.len);
                let body = steps.get(..len.min(6) as usize).unwrap_or_default();
                let code = incoming.on_exit_code(body);
                assert!(body.len() >= 4 || code == 255);
                assert_eq!(incoming.exit_code(), Some(code));
            }
            Next::Ignore { len } => assert_eq!(len, header.len),
        }
        if incoming.exit_code().is_some() {
            assert!(KINDS.iter().all(|kind| !incoming.is_open(*kind)));
        }
    }
}

fn send(role: Role, version: Version, just_exec: bool, steps: &[u8]) {
    let (mut outgoing, role) = match just_exec {
        true => (Outgoing::just_exec(version), Role::Service),
        false => (Outgoing::new(role, version), role),
    };
    let other = if role == Role::Client { Role::Service } else { Role::Client };
    let mut peer = Incoming::new(other, version);
    for header in headers(steps) {
        let kind = KINDS.into_iter().find(|kind| kind.data_type() == header.ty);
        let Some(kind) = kind else {
            if let Ok(message) = outgoing.exit_code(header.len as i32) {
                let (head, body) = message.split_first_chunk().expect("a header");
                assert_eq!(peer.on_header(Header::from_bytes(*head)), Ok(Next::ExitCode { len: 4 }));
                assert_eq!(peer.on_exit_code(body), header.len as i32);
            }
            continue;
        };
        let said = if header.len == 0 { outgoing.eof(kind) } else { outgoing.header(kind, header.len) };
        let Ok(said) = said else { continue };
        assert_eq!(said, header);
        let expected = match header.len {
            0 => Next::Eof(kind),
            len => Next::Payload { kind, len },
        };
        assert_eq!(peer.on_header(said), Ok(expected));
        assert_eq!(outgoing.is_open(kind), header.len > 0);
    }
    assert!(!peer.crossed());
    assert_eq!(outgoing.exit_sent(), peer.exit_code().is_some());
}
