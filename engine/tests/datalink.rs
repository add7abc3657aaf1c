//! Opening a data link: which server is met, and how long is waited.

use std::time::{Duration, Instant};

use engine::datalink::{self, Error};
use ring::{Kind, Sizes, Transport};
use wire::version::Version;

const LIMIT: Duration = Duration::from_secs(20);
const KINDS: [Kind; 2] = [Kind::Shm, Kind::Socket];

fn transports(kind: Kind, dir: &std::path::Path) -> (Transport, Transport) {
    (Transport::new(kind, 1, dir), Transport::new(kind, 2, dir))
}

/// Upstream's daemon reuses a port while the client of its last call is still there: a connecting service first finds
/// that one, which closes, and then the right one.
#[test]
fn a_server_on_its_way_out_is_not_the_one() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let (server, client) = transports(kind, dir.path());
        let old = server.listen(2, 513, Sizes::both(4096)).unwrap();
        let other = std::thread::spawn(move || datalink::connect(&client, 1, 513, LIMIT).map(drop));
        drop(old.accept_within(LIMIT).unwrap());
        datalink::serve(&server, 2, 513, Sizes::both(4096), LIMIT).unwrap();
        other.join().unwrap().unwrap();
    }
}

#[test]
fn a_server_that_closes_and_has_no_successor_ends_the_wait_with_that_reason() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let (server, client) = transports(kind, dir.path());
        let old = server.listen(2, 513, Sizes::both(4096)).unwrap();
        let other =
            std::thread::spawn(move || datalink::connect(&client, 1, 513, Duration::from_secs(1)).map(drop));
        drop(old.accept_within(LIMIT).unwrap());
        assert!(matches!(other.join().unwrap(), Err(Error::Closed)), "{kind:?}");
    }
}

/// Where only programs of this project meet, no other server is waited for after one was killed: neither before it has
/// shared its memory, nor after.
#[test]
fn a_server_that_is_gone_ends_the_wait_within_a_second() {
    let begun = Instant::now();
    for accepts in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (server, client) = transports(Kind::Shm, dir.path());
        let old = server.listen(2, 513, Sizes::both(4096)).unwrap();
        let found = datalink::Found::look(&client, 1, 513, LIMIT).unwrap();
        if accepts {
            drop(old.accept_within(LIMIT).unwrap());
        } else {
            drop(old);
        }
        assert!(found.greet(LIMIT).is_err());
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn nobody_is_waited_for_longer_than_said() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let (server, client) = transports(kind, dir.path());
        let (limit, begun) = (Duration::from_millis(300), Instant::now());
        assert!(datalink::connect(&client, 1, 513, limit).is_err());
        assert!(datalink::serve(&server, 2, 513, Sizes::both(4096), limit).is_err());
        let took = begun.elapsed();
        assert!(took >= 2 * limit && took < LIMIT, "{kind:?}: {took:?}");
    }
}

/// Other programs rely on these times: with shorter ones, a call would be given up that is still being prepared.
#[test]
fn the_limits_are_upstreams() {
    let seconds =
        [datalink::WAIT_VM, datalink::WAIT_CLIENT, datalink::WAIT_DOM0_SERVICE, datalink::WAIT_HELLO]
            .map(|limit| limit.as_secs());
    assert_eq!(seconds, [120, 10, 5, 10]);
}

/// A peer that is there and sends nothing, or only a part of a HELLO.
#[test]
fn a_hello_may_not_take_for_ever() {
    for kind in KINDS {
        for said in [&b""[..], &[0, 3, 0]] {
            let dir = tempfile::tempdir().unwrap();
            let (server, client) = transports(kind, dir.path());
            let listener = server.listen(2, 513, Sizes::both(4096)).unwrap();
            let other = std::thread::spawn(move || client.connect(1, 513).unwrap().connect_within(LIMIT));
            let ours = listener.accept_within(LIMIT).unwrap();
            let mut silent = other.join().unwrap().unwrap();
            assert_eq!(silent.write(said).unwrap(), said.len());
            silent.flush().unwrap();
            let limit = Duration::from_millis(100);
            let begun = Instant::now();
            let greeted = datalink::greet_as(ours, Version::V4, limit).map(drop);
            assert!(
                matches!(greeted, Err(Error::Silent(said)) if said == limit),
                "{kind:?} {said:?}: {greeted:?}"
            );
            assert!(begun.elapsed() >= limit && begun.elapsed() < LIMIT, "{kind:?} {said:?}");
        }
    }
}
