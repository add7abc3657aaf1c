//! Bytes and wake-ups on a channel whose two ends are there.

use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use ring::{Access, Channel, Sizes, Spans};

use super::common::*;
use super::{all_orders, exchange};

/// Odd chunks over three laps, both ways at once, at every size of ring.
pub(crate) fn bytes_wrap_around(bed: &Bed) {
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

/// Each half has an owner of its own, and keeps what the next flush has to tell the peer.
pub(crate) fn a_channel_is_its_halves_and_their_link(bed: &Bed) {
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
    // The connection ends with the link, although the halves still exist.
    drop(link);
    wait_closed(&mut client);
    drop((tx, rx));
}

pub(crate) fn a_full_ring_takes_nothing_and_an_empty_one_gives_nothing(bed: &Bed) {
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
pub(crate) fn who_does_not_wait_is_not_woken(bed: &Bed) {
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
pub(crate) fn no_wake_up_is_lost(bed: &Bed) {
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
pub(crate) fn spans_carry_bulk(bed: &Bed) {
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
pub(crate) fn spans_wrap_and_stop_in_the_middle(bed: &Bed) {
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
