//! What every transport must do, in one suite. A transport more is one line at the end of this file.

mod common;

use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use common::*;
use ring::{Access, Channel, Connector, Error, Kind, Sizes, Spans, Transport};

/// Both sizes of ring that a side can have, smallest to largest.
fn all_orders() -> impl Iterator<Item = (usize, usize)> {
    [(1 << 10, 1 << 11), (1 << 11, 1 << 10), (1 << 11, 1 << 12)]
        .into_iter()
        .chain((12..=20).map(|order| (1 << order, 1 << (32 - order))))
}

/// The server's rings are at least what was asked for, each in its direction, and powers of two.
fn sizes_are_chosen_by_the_server(bed: &Bed) {
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

fn the_server_comes_first(bed: &Bed) {
    let mut listener = bed.listen(2, Sizes::both(4096));
    assert!(listener.accept().unwrap().is_none());
    let (mut server, mut client) = meet(listener, bed.connect(2));
    exchange(&mut server, &mut client);
}

fn the_client_comes_first(bed: &Bed) {
    let mut connector = bed.connect(3);
    assert!(connector.poll().unwrap().is_none());
    let (mut server, mut client) = meet(bed.listen(3, Sizes::both(4096)), connector);
    exchange(&mut server, &mut client);
}

/// A client that sleeps is woken by the server's coming, without busy waiting in between.
fn a_sleeping_client_is_woken(bed: &Bed) {
    let connector = bed.connect(4);
    std::thread::scope(|threads| {
        let client = threads.spawn(move || connector.connect_within(LOST).unwrap());
        // Whether the client sleeps by now does not matter: either order must do.
        std::thread::yield_now();
        let mut server = bed.listen(4, Sizes::both(4096)).accept_within(LOST).unwrap();
        exchange(&mut server, &mut client.join().unwrap());
    });
}

fn nobody_comes(bed: &Bed) {
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

fn a_meeting_happens_once(bed: &Bed) {
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

/// A few bytes both ways.
fn exchange(server: &mut Channel, client: &mut Channel) {
    let mut got = [0; 5];
    send(server, b"there");
    receive(client, &mut got);
    assert_eq!(&got, b"there");
    send(client, b"again");
    receive(server, &mut got);
    assert_eq!(&got, b"again");
}

/// Odd chunks over three laps, both ways at once, at every size of ring.
fn bytes_wrap_around(bed: &Bed) {
    let pattern = Pattern::new();
    for (left, right) in all_orders() {
        let (server, client) = bed.meet(7, Sizes { left, right });
        let laps = |size: usize| 3 * size + 7;
        std::thread::scope(|threads| {
            let server =
                threads.spawn(|| both_ways(server, laps(right), laps(left), right / 3 + 1, &pattern));
            let client = threads.spawn(|| both_ways(client, laps(left), laps(right), left / 3 + 1, &pattern));
            drop((server.join().unwrap(), client.join().unwrap()));
        });
    }
}

/// Sends and receives at once, checking what arrives against the pattern; returns the channel still open.
fn both_ways(mut channel: Channel, out: usize, inn: usize, chunk: usize, pattern: &Pattern) -> Channel {
    let mut dice = Dice::new(chunk as u64);
    let mut buffer = vec![0; chunk];
    let (mut sent, mut got) = (0, 0);
    while sent < out || got < inn {
        let n = (1 + dice.below(chunk)).min(out - sent);
        let n = if n > 0 { channel.write(pattern.at(sent, n)).unwrap() } else { 0 };
        sent += n;
        let want = 1 + dice.below(chunk);
        let m = channel.read(&mut buffer[..want.min(inn - got)]).unwrap();
        assert!(buffer[..m] == *pattern.at(got, m), "wrong bytes within {m} of {got}");
        got += m;
        if dice.below(4) == 0 {
            channel.flush().unwrap();
        }
        if n == 0 && m == 0 && !channel.arm(got < inn, sent < out).unwrap() {
            sleep(&mut channel);
        }
        assert!(got == inn || !channel.ended().unwrap(), "the peer ended after {got} of {inn} bytes");
    }
    channel.flush().unwrap();
    while !channel.drained() {
        sleep(&mut channel);
    }
    channel
}

/// Each half has an owner of its own, and what a flush has still to tell goes with it.
fn a_channel_is_its_halves_and_their_link(bed: &Bed) {
    let (server, mut client) = bed.meet(22, Sizes::both(4096));
    let (mut tx, mut rx, mut link) = server.split();
    assert!(!client.arm(true, false).unwrap(), "it waits to be woken");
    assert!(link.writable(&mut tx).unwrap() >= 5);
    tx.put(0, b"halve");
    tx.commit(5);
    assert_eq!((tx.unflushed(), rx.unflushed()), (5, 0));
    link.flush(&mut tx, &mut rx).unwrap();
    assert_eq!(tx.unflushed(), 0);
    let mut got = [0; 5];
    receive(&mut client, &mut got);
    assert_eq!(&got, b"halve");
    let mut server = Channel::joined(tx, rx, link);
    exchange(&mut server, &mut client);
    let (tx, rx, link) = server.split();
    assert!(client.is_open());
    // With the link the connection ends, whoever has the halves.
    drop(link);
    wait_closed(&mut client);
    drop((tx, rx));
}

fn a_full_ring_takes_nothing_and_an_empty_one_gives_nothing(bed: &Bed) {
    let (mut server, mut client) = bed.meet(8, Sizes::both(4096));
    let mut buffer = [0; 1000];
    assert_eq!(client.read(&mut buffer).unwrap(), 0);
    assert!(!client.arm(true, false).unwrap());
    let mut total = 0;
    loop {
        let n = server.write(&[1; 777]).unwrap();
        server.flush().unwrap();
        total += n;
        if n == 0 {
            break;
        }
    }
    if !server.is_stream() {
        assert_eq!(total, server.tx().size(), "a ring holds every byte of its size");
    }
    assert_eq!(server.writable().unwrap(), 0);
    assert!(!server.arm(false, true).unwrap());
    let mut got = 0;
    while got < total {
        let n = client.read(&mut buffer).unwrap();
        client.flush().unwrap();
        got += n;
        if n == 0 {
            // Only a stream has more elsewhere: the rest is staged at the server's end.
            sleep(&mut server);
        }
    }
    assert_eq!(got, total);
    assert_eq!(client.read(&mut buffer).unwrap(), 0);
    let size = server.tx().size();
    assert!(server.arm_for(None, size).unwrap(), "all the room is back");
    assert_eq!(server.write(b"x").unwrap(), 1);
}

/// Nothing asked for, nothing rung: wake-ups cost more than copies.
fn who_does_not_wait_is_not_woken(bed: &Bed) {
    let (mut server, mut client) = bed.meet(9, Sizes::both(65_536));
    if server.is_stream() {
        return; // each flush moves bytes there
    }
    for _ in 0..100 {
        server.write(b"some bytes").unwrap();
        server.flush().unwrap();
    }
    assert!(server.counters().rings <= 1, "{:?}", server.counters());
    assert_eq!(server.counters().rings + server.counters().spared, 100);
    let mut buffer = [0; 2000];
    assert_eq!(client.read(&mut buffer).unwrap(), 1000);
    assert!(!client.arm(true, false).unwrap());
    let before = server.counters().rings;
    server.write(b"x").unwrap();
    server.flush().unwrap();
    assert_eq!(server.counters().rings, before + 1);
}

/// Writer and reader in threads, each asleep whenever it has nothing to do.
fn no_wake_up_is_lost(bed: &Bed) {
    let pattern = Pattern::new();
    for (size, total, chunk) in [(1024, 1 << 20, 100), (4096, 8 << 20, 6000), (65_536, 24 << 20, 90_000)] {
        let (mut server, mut client) = bed.meet(10, Sizes { left: size, right: 0 });
        std::thread::scope(|threads| {
            let pattern = &pattern;
            threads.spawn(move || {
                let mut dice = Dice::new(1);
                let mut sent = 0;
                while sent < total {
                    let n = client.write(pattern.at(sent, 1 + dice.below(chunk.min(total - sent)))).unwrap();
                    sent += n;
                    if dice.below(3) == 0 {
                        client.flush().unwrap();
                    }
                    if n == 0 && !client.arm_for(None, 1 + dice.below(size)).unwrap() {
                        sleep(&mut client);
                    }
                }
                close(client);
            });
            let mut dice = Dice::new(2);
            let mut buffer = vec![0; chunk];
            let mut got = 0;
            while !server.ended().unwrap() {
                let want = 1 + dice.below(chunk);
                let n = server.read(&mut buffer[..want]).unwrap();
                assert!(buffer[..n] == *pattern.at(got, n), "wrong bytes within {n} of {got}");
                got += n;
                if n == 0 && !server.arm(true, false).unwrap() {
                    sleep(&mut server);
                }
            }
            assert_eq!(got, total);
        });
    }
}

/// 256 MiB as the pump moves them: by the kernel, on the ring's own pages.
fn spans_carry_bulk(bed: &Bed) {
    const TOTAL: usize = 256 << 20;
    let (mut server, mut client) = bed.meet(11, Sizes::both(256 << 10));
    std::thread::scope(|threads| {
        threads.spawn(move || {
            let zero = std::fs::File::open("/dev/zero").unwrap();
            let mut sent = 0;
            while sent < TOTAL {
                let room = client.writable().unwrap().min(TOTAL - sent);
                let mut spans = Spans::new();
                assert!(client.tx().spans(0, room, &mut spans));
                let n = spans.fill_from(zero.as_fd(), Access::File).unwrap();
                client.commit(n);
                sent += n;
                if n == 0 && !client.arm_for(None, 64 << 10).unwrap() {
                    sleep(&mut client);
                }
            }
            close(client);
        });
        let null = std::fs::File::options().write(true).open("/dev/null").unwrap();
        let mut got = 0;
        while !server.ended().unwrap() {
            let ready = server.readable().unwrap();
            let mut spans = Spans::new();
            assert!(server.rx().spans(0, ready, &mut spans));
            let n = spans.drain_to(null.as_fd(), Access::File).unwrap();
            server.release(n);
            got += n;
            if n == 0 && !server.arm(true, false).unwrap() {
                sleep(&mut server);
            }
        }
        assert_eq!(got, TOTAL);
    });
}

/// Bytes through sockets at both ends, across the ring's end, partly taken: nothing is lost or doubled.
fn spans_wrap_and_stop_in_the_middle(bed: &Bed) {
    let pattern = Pattern::new();
    let (mut server, mut client) = bed.meet(12, Sizes::both(4096));
    let ((source, mut feed), (drain, mut sink)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
    let mut done = 0;
    for step in 0..40 {
        let len = 1 + step * 89 % 3900;
        feed.write_all(pattern.at(done, len)).unwrap();
        let mut spans = Spans::new();
        let room = client.writable().unwrap();
        assert!(client.tx().spans(0, room, &mut spans) && spans.bytes() == room);
        assert_eq!(spans.fill_from(source.as_fd(), Access::Socket).unwrap(), len);
        let empty = spans.fill_from(source.as_fd(), Access::Socket).unwrap_err();
        assert_eq!(empty.kind(), std::io::ErrorKind::WouldBlock);
        // What came in front is untouched by the failed transfer, and only it is published.
        client.commit(len);
        client.flush().unwrap();
        let mut moved = 0;
        while moved < len {
            let ready = server.readable().unwrap().min(1500);
            let mut spans = Spans::new();
            server.rx().spans(0, ready, &mut spans);
            let n = spans.drain_to(drain.as_fd(), Access::Socket).unwrap();
            server.release(n);
            moved += n;
        }
        server.flush().unwrap();
        let mut got = vec![0; len];
        std::io::Read::read_exact(&mut sink, &mut got).unwrap();
        assert!(got == pattern.at(done, len));
        done += len;
    }
}

fn what_was_written_can_be_read_after_the_close(bed: &Bed) {
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

fn writes_after_the_peers_close_fail(bed: &Bed) {
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

/// Whoever waits for room that will never come is told.
fn a_close_wakes_a_writer_that_waits_for_room(bed: &Bed) {
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

/// A peer in a process of its own, killed while we sleep: no destructor tells us of it.
fn a_killed_process_is_seen(bed: &Bed) {
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
fn be_doomed(kind: Kind) {
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

fn a_stale_socket_is_no_obstacle(bed: &Bed) {
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

fn a_listener_leaves_its_successors_socket(bed: &Bed) {
    let Some(path) = bed.socket(19) else { return };
    let first = bed.listen(19, Sizes::both(4096));
    let second = bed.listen(19, Sizes::both(4096));
    drop(first);
    let (mut server, mut client) = meet(second, bed.connect(19));
    exchange(&mut server, &mut client);
    assert!(!path.exists());
}

/// A client whose server goes before it answered waits for the next one.
fn a_server_that_gives_up_is_replaced(bed: &Bed) {
    let first = bed.listen(20, Sizes::both(4096));
    let mut connector = bed.connect(20);
    if connector.poll().unwrap().is_some() {
        return; // a stream is a channel as soon as it is connected
    }
    drop(first);
    let (mut server, mut client) = meet(bed.listen(20, Sizes::both(4096)), connector);
    exchange(&mut server, &mut client);
}

fn many_channels_at_once(bed: &Bed) {
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

fn long_folders_can_be_met_in(kind: Kind) {
    let name = Path::new(&"x".repeat(200)).join("y".repeat(100));
    let bed = Bed::below(kind, &name);
    let mut early = bed.connect(21);
    assert!(early.poll().unwrap().is_none());
    let (mut server, mut client) = meet(bed.listen(21, Sizes::both(4096)), early);
    exchange(&mut server, &mut client);
    assert_eq!(std::fs::read_dir(bed.dir()).unwrap().count(), 0);
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Shm => "shm",
        Kind::Socket => "socket",
        Kind::Xen => "xen",
    }
}

macro_rules! cases {
    ($kind:expr, $($case:ident)*) => { $(
        #[test]
        fn $case() {
            super::$case(&super::Bed::new($kind));
        }
    )* };
}

macro_rules! conformance {
    ($($transport:ident: $kind:expr;)*) => { $(
        mod $transport {
            use ring::Kind;

            cases! { $kind,
                sizes_are_chosen_by_the_server the_server_comes_first the_client_comes_first
                a_sleeping_client_is_woken nobody_comes a_meeting_happens_once bytes_wrap_around
                a_channel_is_its_halves_and_their_link
                a_full_ring_takes_nothing_and_an_empty_one_gives_nothing who_does_not_wait_is_not_woken
                no_wake_up_is_lost spans_carry_bulk spans_wrap_and_stop_in_the_middle
                what_was_written_can_be_read_after_the_close writes_after_the_peers_close_fail
                a_close_wakes_a_writer_that_waits_for_room a_killed_process_is_seen
                a_stale_socket_is_no_obstacle a_listener_leaves_its_successors_socket
                a_server_that_gives_up_is_replaced many_channels_at_once
            }

            #[test]
            fn long_folders_can_be_met_in() {
                super::long_folders_can_be_met_in($kind);
            }

            #[test]
            fn doomed_peer() {
                super::be_doomed($kind);
            }
        }
    )* };
}

conformance! {
    shm: Kind::Shm;
    socket: Kind::Socket;
}
