//! What one end sees when the other closes, or is killed.

use std::path::Path;

use ring::{Error, Kind, Sizes, Transport};

use super::common::*;
use super::name;

pub(crate) fn what_was_written_can_be_read_after_the_close(bed: &Bed) {
    let pattern = Pattern::new();
    for from_server in [true, false] {
        let (server, client) = bed.meet(13, Sizes::both(65_536));
        let (mut writer, mut reader) = if from_server { (server, client) } else { (client, server) };
        assert_eq!(writer.write(pattern.at(0, 60_000)).unwrap(), 60_000);
        // Not flushed by hand: closing does it.
        drop(writer);
        assert!(receive_to_end(&mut reader) == pattern.at(0, 60_000));
        assert!(!reader.is_open() && writes_fail(&mut reader));
    }
}

pub(crate) fn writes_after_the_peers_close_fail(bed: &Bed) {
    for drop_server in [true, false] {
        let (server, client) = bed.meet(14, Sizes::both(4096));
        let (gone, mut stays) = if drop_server { (server, client) } else { (client, server) };
        drop(gone);
        assert!(writes_fail(&mut stays));
        wait_closed(&mut stays);
        assert!(matches!(stays.write(b"x"), Err(Error::Closed)));
        assert!(stays.arm(true, true).unwrap(), "nobody sleeps on a closed channel");
        assert!(stays.ended().unwrap() && stays.drained());
    }
}

/// A writer that waits for room is woken when the reader closes and no room will ever come.
pub(crate) fn a_close_wakes_a_writer_that_waits_for_room(bed: &Bed) {
    let (mut server, client) = bed.meet(15, Sizes::both(4096));
    while server.write(&[0; 4096]).unwrap() > 0 {
        server.flush().unwrap();
    }
    assert!(!server.arm(false, true).unwrap());
    std::thread::scope(|threads| {
        threads.spawn(move || drop(client));
        wait_closed(&mut server);
    });
    assert!(writes_fail(&mut server));
}

/// The environment variable that turns a run of this program into a peer that is to be killed.
const DOOMED: &str = "RING_TEST_DOOMED_IN";

/// A peer in a process of its own, which is killed while this side sleeps, so that no destructor runs there.
pub(crate) fn a_killed_process_is_seen(bed: &Bed) {
    for doomed_listens in [true, false] {
        let port = if doomed_listens { 17 } else { 16 };
        let listener = (!doomed_listens).then(|| bed.listen(port, Sizes::both(4096)));
        let test = format!("{}::doomed_peer", name(bed.kind()));
        let mut child =
            again(&test, &[(DOOMED, bed.dir()), ("RING_TEST_PORT", Path::new(&port.to_string()))]);
        let mut channel = match listener {
            Some(listener) => listener.accept_within(LOST).unwrap(),
            None => bed.connect(port).connect_within(LOST).unwrap(),
        };
        let mut word = [0; 5];
        receive(&mut channel, &mut word);
        assert!(&word == b"alive" && channel.is_open());
        child.kill().unwrap();
        child.wait().unwrap();
        wait_closed(&mut channel);
        assert!(channel.ended().unwrap() && writes_fail(&mut channel));
    }
}

/// The other process of [`a_killed_process_is_seen`]; in an ordinary run there is nothing to do.
pub(crate) fn be_doomed(kind: Kind) {
    let (Some(dir), Ok(port)) = (std::env::var_os(DOOMED), std::env::var("RING_TEST_PORT")) else { return };
    let port: u32 = port.parse().unwrap();
    let mut channel = if port == 17 {
        let server = Transport::new(kind, SERVER, Path::new(&dir));
        server.listen(CLIENT, port, Sizes::both(4096)).unwrap().accept_within(LOST).unwrap()
    } else {
        let client = Transport::new(kind, CLIENT, Path::new(&dir));
        client.connect(SERVER, port).unwrap().connect_within(LOST).unwrap()
    };
    send(&mut channel, b"alive");
    // Until the kill, or until the parent is gone with its end of the pipe.
    let _ = std::io::Read::read(&mut std::io::stdin(), &mut [0]);
    std::mem::forget(channel);
    std::process::exit(1);
}
