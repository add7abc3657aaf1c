//! A call to another machine: what comes out of the frames does not depend on the pieces in which they came, and nothing
//! comes behind a breach or the exit code; a command that is taken says the same when it is written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::remote::frames::{Parser, Piece, Violation};
use wire::remote::names::{Remotes, Sources, check_name};
use wire::remote::request::{self, Command};
use wire::stream::Role;

fuzz_target!(|data: &[u8]| {
    let (seed, bytes) = fuzz::split(data);
    for role in [Role::Client, Role::Service] {
        let whole = frames(role, bytes, bytes.len());
        assert_eq!(frames(role, bytes, usize::from(seed % 16) + 1), whole);
    }
    if let Ok(Command::Call(call)) = request::parse(bytes) {
        assert_eq!(request::parse(call.command().as_bytes()), Ok(Command::Call(call)));
    }
    if let Ok(text) = str::from_utf8(bytes) {
        let (near, _) = text.split_once('\n').unwrap_or((text, ""));
        if let Some(name) = Sources::parse(text).ok().and_then(|sources| sources.local(near)) {
            assert!(check_name(name.as_bytes()).is_ok());
        }
        let _ = Remotes::parse(text);
    }
});

/// Streams, events, and the breach that ended them.
type Seen = (Vec<u8>, Vec<u8>, Vec<i32>, Option<Violation>);

fn frames(role: Role, bytes: &[u8], cut: usize) -> Seen {
    let mut parser = Parser::new(role);
    let mut seen: Seen = Default::default();
    for mut rest in bytes.chunks(cut.max(1)) {
        loop {
            match parser.next(&mut rest) {
                Ok(None) => break,
                Ok(Some(piece)) => {
                    assert!(seen.2.is_empty(), "something behind the exit code");
                    match piece {
                        Piece::Data(wire::stream::Kind::Stderr, bytes) => seen.1.extend(bytes),
                        Piece::Data(_, bytes) => seen.0.extend(bytes),
                        Piece::Exit(code) => seen.2.push(code),
                        Piece::Hello | Piece::End(_) => {}
                    }
                }
                Err(violation) => {
                    assert_eq!(parser.next(&mut rest), Err(violation));
                    seen.3 = Some(violation);
                    return seen;
                }
            }
        }
    }
    seen
}
