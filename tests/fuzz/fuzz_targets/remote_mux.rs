//! The conversation with an `ssh` that has a connection: what it says means the same in whatever pieces it comes, nothing is
//! heard behind a breach, and the order of events is that of a session.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::remote::mux::{Event, Session, Violation};

fuzz_target!(|data: &[u8]| {
    let (seed, bytes) = fuzz::split(data);
    let whole = heard(bytes, bytes.len().max(1));
    assert_eq!(heard(bytes, usize::from(seed % 16) + 1), whole);
    let order: Vec<u8> = whole.0.iter().map(rank).collect();
    assert!(order.windows(2).all(|pair| pair[0] < pair[1]), "{order:?}");
});

/// A session is ready, then open or refused, then over.
fn rank(event: &Event) -> u8 {
    match event {
        Event::Ready => 0,
        Event::Opened => 1,
        Event::Refused(_) | Event::Exited(_) => 2,
    }
}

fn heard(bytes: &[u8], cut: usize) -> (Vec<Event>, Option<Violation>) {
    let mut session = Session::default();
    let mut events = Vec::new();
    for piece in bytes.chunks(cut) {
        session.handle_bytes(piece);
        loop {
            match session.poll_event() {
                Ok(None) => break,
                Ok(Some(event)) => events.push(event),
                Err(violation) => {
                    session.handle_bytes(bytes);
                    assert_eq!(session.poll_event(), Err(violation));
                    return (events, Some(violation));
                }
            }
        }
    }
    (events, None)
}
