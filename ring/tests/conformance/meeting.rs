//! Who finds whom, in which order, and what is left in the folder.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use ring::{Connector, Error, Kind, Sizes, Transport};

use super::common::*;
use super::{all_orders, exchange};

/// The server's rings are at least what was asked for, each in its direction, and powers of two.
pub(crate) fn sizes_are_chosen_by_the_server(bed: &Bed) {
    for (left, right) in all_orders().chain([(0, 0), (5000, 100), (1, 65_537)]) {
        let (mut server, mut client) = bed.meet(1, Sizes { left, right });
        let (mut to_client, mut to_server) = (server.tx().size(), server.rx().size());
        if client.is_stream() {
            // Staging is each side's own; only the server was told a minimum.
            (to_client, to_server) = (to_client.max(right), to_server.max(left));
        } else {
            assert_eq!((client.rx().size(), client.tx().size()), (to_client, to_server));
        }
        assert!(to_client.is_power_of_two() && to_client >= right, "{to_client} for {right}");
        assert!(to_server.is_power_of_two() && to_server >= left, "{to_server} for {left}");
        assert!((server.tx().size(), server.rx().size()) == (to_client, to_server));
        drop((server, client));
    }
    let too_large = Sizes { left: (1 << 20) + 1, right: 0 };
    let refused = Transport::new(bed.kind(), SERVER, bed.dir()).listen(CLIENT, 1, too_large);
    assert!(matches!(refused, Err(Error::TooLarge { .. })));
}

pub(crate) fn the_server_comes_first(bed: &Bed) {
    let mut listener = bed.listen(2, Sizes::both(4096));
    assert!(listener.accept().unwrap().is_none());
    let (mut server, mut client) = meet(listener, bed.connect(2));
    exchange(&mut server, &mut client);
}

pub(crate) fn the_client_comes_first(bed: &Bed) {
    let mut connector = bed.connect(3);
    assert!(connector.poll().unwrap().is_none());
    let (mut server, mut client) = meet(bed.listen(3, Sizes::both(4096)), connector);
    exchange(&mut server, &mut client);
}

/// A client that sleeps is woken by the server's coming, without busy waiting in between.
pub(crate) fn a_sleeping_client_is_woken(bed: &Bed) {
    let connector = bed.connect(4);
    std::thread::scope(|threads| {
        let client = threads.spawn(move || connector.connect_within(LOST).unwrap());
        // Whether the client sleeps by now does not matter: either order must do.
        std::thread::yield_now();
        let mut server = bed.listen(4, Sizes::both(4096)).accept_within(LOST).unwrap();
        exchange(&mut server, &mut client.join().unwrap());
    });
}

pub(crate) fn nobody_comes(bed: &Bed) {
    let limit = Duration::from_millis(20);
    let start = Instant::now();
    let listener = bed.listen(5, Sizes::both(4096));
    assert!(matches!(listener.accept_within(limit), Err(Error::Timeout(l)) if l == limit));
    assert!(matches!(bed.connect(5).connect_within(limit), Err(Error::Timeout(l)) if l == limit));
    assert!(start.elapsed() >= 2 * limit && start.elapsed() < LOST);
    assert_eq!(std::fs::read_dir(bed.dir()).unwrap().count(), 0, "something was left behind");
    // A limit beyond any clock is no limit.
    let (listener, connector) = (bed.listen(5, Sizes::both(4096)), bed.connect(5));
    std::thread::scope(|threads| {
        threads.spawn(|| connector.connect_within(Duration::MAX).unwrap());
        listener.accept_within(Duration::MAX).unwrap();
    });
}

pub(crate) fn a_meeting_happens_once(bed: &Bed) {
    let mut listener = bed.listen(6, Sizes::both(4096));
    let mut connector = bed.connect(6);
    let (mut server, mut client) = (None, None);
    while server.is_none() || client.is_none() {
        if server.is_none() {
            server = listener.accept().unwrap();
        }
        if client.is_none() {
            client = connector.poll().unwrap();
        }
    }
    let _second = bed.connect(6).poll();
    assert!(matches!(listener.accept(), Err(Error::Closed)));
    assert!(matches!(connector.poll(), Err(Error::Closed)));
    exchange(&mut server.unwrap(), &mut client.unwrap());
}

pub(crate) fn a_stale_socket_is_no_obstacle(bed: &Bed) {
    let Some(path) = bed.socket(18) else { return };
    drop(UnixListener::bind(&path).unwrap());
    // A process that another test is just starting has a copy of it until its exec.
    while UnixStream::connect(&path).is_ok() {
        std::thread::yield_now();
    }
    let mut early = bed.connect(18);
    assert!(early.poll().unwrap().is_none());
    let (mut server, mut client) = meet(bed.listen(18, Sizes::both(4096)), early);
    exchange(&mut server, &mut client);
    assert!(!path.exists());
}

pub(crate) fn a_listener_leaves_its_successors_socket(bed: &Bed) {
    let Some(path) = bed.socket(19) else { return };
    let first = bed.listen(19, Sizes::both(4096));
    let second = bed.listen(19, Sizes::both(4096));
    drop(first);
    let (mut server, mut client) = meet(second, bed.connect(19));
    exchange(&mut server, &mut client);
    assert!(!path.exists());
}

/// A client whose server goes before it answered waits for the next one.
pub(crate) fn a_server_that_gives_up_is_replaced(bed: &Bed) {
    let first = bed.listen(20, Sizes::both(4096));
    let mut connector = bed.connect(20);
    if connector.poll().unwrap().is_some() {
        return; // a stream is a channel as soon as it is connected
    }
    drop(first);
    let (mut server, mut client) = meet(bed.listen(20, Sizes::both(4096)), connector);
    exchange(&mut server, &mut client);
}

pub(crate) fn many_channels_at_once(bed: &Bed) {
    let ports = 1000..1100;
    let mut connectors: Vec<Connector> = ports.clone().map(|port| bed.connect(port)).collect();
    assert!(connectors.iter_mut().all(|c| c.poll().unwrap().is_none()));
    let listeners: Vec<_> = ports.map(|port| bed.listen(port, Sizes::both(4096))).collect();
    let mut pairs: Vec<_> = listeners.into_iter().zip(connectors).map(|(l, c)| meet(l, c)).collect();
    for (i, (server, client)) in pairs.iter_mut().enumerate() {
        send(server, &[i as u8; 100]);
        send(client, &[!i as u8; 200]);
    }
    for (i, (server, client)) in pairs.iter_mut().enumerate() {
        let (mut to_client, mut to_server) = ([0; 100], [0; 200]);
        receive(client, &mut to_client);
        receive(server, &mut to_server);
        assert!(to_client == [i as u8; 100] && to_server == [!i as u8; 200]);
    }
}

pub(crate) fn long_folders_can_be_met_in(kind: Kind) {
    let name = Path::new(&"x".repeat(200)).join("y".repeat(100));
    let bed = Bed::below(kind, &name);
    let mut early = bed.connect(21);
    assert!(early.poll().unwrap().is_none());
    let (mut server, mut client) = meet(bed.listen(21, Sizes::both(4096)), early);
    exchange(&mut server, &mut client);
    assert_eq!(std::fs::read_dir(bed.dir()).unwrap().count(), 0);
}
