//! A channel as a plain reader and writer, on the transports that need no Xen.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::thread;

use common::{Bed, LOST};
use ring::{Blocking, Kind, Sizes};

const KINDS: [Kind; 2] = [Kind::Shm, Kind::Socket];

fn pair(bed: &Bed) -> (Blocking, Blocking) {
    thread::scope(|scope| {
        let listener = bed.listen(5, Sizes::both(8192));
        let client = scope.spawn(|| bed.connect(5).connect_within(LOST).unwrap());
        let server = listener.accept_within(LOST).unwrap();
        (Blocking::new(server), Blocking::new(client.join().unwrap()))
    })
}

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * i % 251) as u8).collect()
}

/// Pieces of many sizes through rings that are smaller than most, an answer, and the end.
#[test]
fn what_is_written_is_read_and_then_comes_the_end() {
    for kind in KINDS {
        let (mut server, mut client) = pair(&Bed::new(kind));
        let sent = bytes(600_000);
        let expected = sent.clone();
        let other = thread::spawn(move || {
            let mut got = vec![0; expected.len()];
            server.read_exact(&mut got).unwrap();
            assert!(got == expected);
            server.write_all(b"all of it").unwrap();
            server.flush().unwrap();
        });
        let mut rest = &sent[..];
        for piece in (1..).map(|i| i * 37 % 20_000 + 1) {
            let n = piece.min(rest.len());
            client.write_all(&rest[..n]).unwrap();
            rest = &rest[n..];
            if rest.is_empty() {
                break;
            }
        }
        client.flush().unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"all of it", "{kind:?}");
        other.join().unwrap();
    }
}

#[test]
fn who_writes_to_a_peer_that_is_gone_is_told() {
    for kind in KINDS {
        let (server, mut client) = pair(&Bed::new(kind));
        drop(server);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        assert_eq!(client.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe, "{kind:?}");
    }
}
