//! The peer dies between any two bytes: the pump ends at once, and reports a loss unless everything had been sent.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::time::Duration;

use engine::datalink;
use engine::pump::{Call, Outcome, run};
use ring::{Channel, Kind, Sizes, Transport};
use wire::stream::Role;
use wire::version::Version;

const LIMIT: Duration = Duration::from_secs(20);

/// The pump's end of a link, and a peer that is only a channel.
fn link(kind: Kind, dir: &std::path::Path) -> ((Channel, Version), Channel) {
    let (server, client) = (Transport::new(kind, 1, dir), Transport::new(kind, 2, dir));
    let other = std::thread::spawn(move || datalink::connect(&client, 1, 513, LIMIT).unwrap());
    let ours = datalink::serve(&server, 2, 513, Sizes::both(4096), LIMIT).unwrap();
    (ours, other.join().unwrap().0)
}

fn message(ty: u32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap();
    [&ty.to_le_bytes()[..], &len.to_le_bytes(), body].concat()
}

/// Pumps against a peer that sends `words` and dies. Returns the outcome, and what the local side got.
fn against(kind: Kind, role: Role, words: &[u8]) -> (Outcome, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let ((channel, version), mut peer) = link(kind, dir.path());
    let (out, theirs): (OwnedFd, OwnedFd) = rustix::pipe::pipe().unwrap();
    let call = Call { sink: Some(theirs), ..Call::new(role, version) };
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || drop(done.send(run(channel, call))));
    let mut sent = 0;
    while sent < words.len() {
        sent += peer.write(&words[sent..]).unwrap();
        peer.flush().unwrap();
    }
    drop(peer);
    let outcome = ended.recv_timeout(LIMIT).expect("the pump hangs");
    let mut got = Vec::new();
    File::from(out).read_to_end(&mut got).unwrap();
    (outcome, got)
}

/// A service's last bytes, cut at every place, as its client sees them.
#[test]
fn a_service_that_dies_is_lost_until_its_exit_code_is_whole() {
    let words = [
        message(0x191, b"out"),
        message(0x192, b"err"),
        message(0x191, b""),
        message(0x192, b""),
        message(0x193, &7_i32.to_le_bytes()),
    ]
    .concat();
    for kind in [Kind::Shm, Kind::Socket] {
        for cut in 0..=words.len() {
            let (outcome, got) = against(kind, Role::Client, &words[..cut]);
            let whole = cut == words.len();
            assert_eq!(outcome.remote, whole.then_some(7), "{kind:?} {cut}: {outcome:?}");
            assert_eq!(outcome.lost().is_none(), whole, "{kind:?} {cut}: {outcome:?}");
            // What had arrived was delivered.
            assert_eq!(got, b"out"[..cut.saturating_sub(8).min(3)], "{kind:?} {cut}");
        }
    }
}

/// A client's bytes, cut at every place. The service has ended already, and sees only what it was sent.
#[test]
fn a_client_that_dies_ends_the_service_side() {
    let words = [message(0x190, b"in"), message(0x190, b"more"), message(0x190, b"")].concat();
    for kind in [Kind::Shm, Kind::Socket] {
        for cut in 0..=words.len() {
            let (outcome, got) = against(kind, Role::Service, &words[..cut]);
            assert!(outcome.failed().is_none(), "{kind:?} {cut}: {outcome:?}");
            assert!(b"inmore".starts_with(&got[..]), "{kind:?} {cut}: {got:?}");
        }
    }
}
