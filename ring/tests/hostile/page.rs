//! Hostile on the shared page and on the doorbell, one violation at a time.

use std::io::Read as _;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ring::layout::offset;
use ring::{Channel, Error, Kind};

use crate::common::*;
use crate::random::use_channel;
use crate::raw::{Raw, send_with};
use crate::{DEADLINE, SMALL};

/// Runs a body against a hostile client and against a hostile server.
fn both(body: fn(&mut Channel, &Raw)) {
    within(DEADLINE, move || {
        let bed = Bed::new(Kind::Shm);
        let (mut server, raw) = Raw::client(&bed, 1, SMALL);
        body(&mut server, &raw);
        let (raw, mut client) = Raw::server(&bed, 2, SMALL);
        body(&mut client, &raw);
    });
}

#[track_caller]
fn is_lie<T>(result: Result<T, Error>) {
    assert!(matches!(result, Err(Error::BadIndex(_))), "{:?}", result.err());
}

#[test]
fn indices_that_cannot_be_true_are_lies() {
    both(|channel, raw| {
        for prod in [4097, 8192, u32::MAX, 1 << 31] {
            raw.poke(raw.own().prod, &prod.to_le_bytes());
            is_lie(channel.readable());
            is_lie(channel.arm(true, false));
            is_lie(channel.read(&mut [0; 10]));
        }
        raw.poke(raw.own().prod, &100_u32.to_le_bytes());
        assert_eq!(channel.readable().unwrap(), 100);
        raw.poke(raw.own().prod, &99_u32.to_le_bytes());
        is_lie(channel.readable());

        for cons in [1, 4096, u32::MAX, 1 << 31] {
            raw.poke(raw.own().cons, &u32::to_le_bytes(cons));
            is_lie(channel.writable());
            is_lie(channel.arm(false, true));
            is_lie(channel.write(b"x"));
        }
        raw.poke(raw.own().cons, &0_u32.to_le_bytes());
        channel.write(&[0; 10]).unwrap();
        raw.poke(raw.own().cons, &5_u32.to_le_bytes());
        assert_eq!(channel.writable().unwrap(), 4096 - 5);
        raw.poke(raw.own().cons, &4_u32.to_le_bytes());
        is_lie(channel.writable());
    });
}

#[test]
fn orders_in_the_page_are_never_read_again() {
    both(|channel, raw| {
        raw.poke(offset::LEFT_ORDER, &[20, 0, 20, 0]);
        raw.poke(offset::GRANTS, &[0xff; 64]);
        assert_eq!((channel.tx().size(), channel.rx().size()), (4096, 4096));
        assert_eq!(channel.writable().unwrap(), 4096);
        raw.poke(raw.own().prod, &5000_u32.to_le_bytes());
        is_lie(channel.readable());
    });
}

#[test]
fn who_has_closed_cannot_come_back() {
    both(|channel, raw| {
        for live in [1, 2, 3, 255] {
            raw.poke(raw.own().live, &[live]);
            assert!(channel.is_open(), "{live}");
        }
        raw.poke(raw.own().live, &[0]);
        assert!(!channel.is_open() && matches!(channel.write(b"x"), Err(Error::Closed)));
        raw.poke(raw.own().live, &[1]);
        assert!(!channel.is_open() && matches!(channel.write(b"x"), Err(Error::Closed)));
        assert!(channel.arm(true, true).unwrap() && channel.ended().unwrap());
    });
}

#[test]
fn holes_read_as_zeroes() {
    both(|channel, raw| {
        channel.write(&[7; 100]).unwrap();
        raw.poke(raw.own().prod, &50_u32.to_le_bytes());
        let mut bytes = [9; 10];
        channel.read(&mut bytes).unwrap();
        raw.punch();
        // The zero that is there now is smaller than the bytes that were taken already, and the live byte says
        // "closed".
        is_lie(channel.readable());
        assert!(!channel.is_open());
        raw.poke(raw.own().prod, &50_u32.to_le_bytes());
        assert_eq!(channel.read(&mut bytes).unwrap(), 10);
        assert_eq!(bytes, [0; 10]);
        channel.flush().unwrap();
    });
}

#[test]
fn a_flood_of_wake_ups_is_drunk_up() {
    both(|channel, raw| {
        for _ in 0..10 {
            let mut rung = 0;
            while raw.ring() {
                rung += 1;
            }
            assert!(rung > 0 && rung < 100_000, "the kernel bounds the queue");
            let mut wakes = 0;
            while sleep_for(channel, Duration::ZERO) {
                wakes += 1;
                assert!(wakes <= rung, "each wake-up takes at least one byte");
            }
        }
        assert!(channel.is_open() && channel.readable().unwrap() == 0);
        // Also with many bytes at once.
        while send_with(&raw.socket, &[0xa5; 60_000], &[]) {}
        while sleep_for(channel, Duration::ZERO) {}
        assert!(channel.is_open() && !channel.arm(true, false).unwrap());
    });
}

#[test]
fn a_doorbell_that_nobody_answers_blocks_nobody() {
    both(|channel, raw| {
        for _ in 0..5000 {
            raw.poke(raw.own().asks, &[0xff]);
            assert_eq!(channel.write(b"x").unwrap(), 1);
            channel.flush().unwrap();
            let prod =
                u32::from_le_bytes(raw.peek(if raw.client { offset::RIGHT_PROD } else { offset::LEFT_PROD }));
            raw.poke(raw.own().cons, &prod.to_le_bytes());
        }
        assert!(channel.is_open() && channel.counters().rings >= 5000);
    });
}

#[test]
fn descriptors_on_the_doorbell_are_dropped() {
    both(|channel, raw| {
        let (mut reader, writer) = std::io::pipe().unwrap();
        for _ in 0..20 {
            assert!(send_with(&raw.socket, b"!", &[writer.as_fd(), raw.memfd.as_fd()]));
        }
        drop(writer);
        while sleep_for(channel, Duration::ZERO) {}
        assert_eq!(reader.read(&mut [0]).unwrap(), 0, "somebody holds the pipe's other end");
        assert!(channel.is_open());
    });
}

/// Urgent bytes must not wake this side again and again, nor end the channel.
#[test]
fn urgent_bytes_are_wake_ups_like_others() {
    both(|channel, raw| {
        for _ in 0..10 {
            let _ = rustix::net::send(&raw.socket, b"!", rustix::net::SendFlags::OOB);
            raw.ring();
        }
        let mut wakes = 0;
        while sleep_for(channel, Duration::ZERO) {
            wakes += 1;
            assert!(wakes < 100);
        }
        assert!(channel.is_open());
    });
}

#[test]
fn half_a_doorbell_is_no_peer() {
    within(DEADLINE, || {
        let bed = Bed::new(Kind::Shm);
        for (port, how) in [(1, Shutdown::Read), (2, Shutdown::Write), (3, Shutdown::Both)] {
            let (mut server, raw) = Raw::client(&bed, port, SMALL);
            raw.poke(raw.own().prod, &10_u32.to_le_bytes());
            raw.socket.shutdown(how).unwrap();
            raw.poke(raw.own().asks, &[0xff]);
            server.write(b"x").unwrap();
            server.flush().unwrap();
            if server.is_open() {
                sleep(&mut server);
            }
            assert!(!server.is_open() && matches!(server.write(b"x"), Err(Error::Closed)));
            assert_eq!(server.readable().unwrap(), 10);
        }
    });
}

#[test]
fn death_in_the_middle_leaves_what_was_there() {
    within(DEADLINE, || {
        let bed = Bed::new(Kind::Shm);
        let (mut server, raw) = Raw::client(&bed, 1, SMALL);
        raw.poke(4096, b"half a mess");
        raw.poke(raw.own().prod, &11_u32.to_le_bytes());
        drop(raw);
        sleep(&mut server);
        assert!(!server.is_open());
        assert_eq!(receive_to_end(&mut server), b"half a mess");
    });
}

/// Another thread writes all over the page while this one transfers.
#[test]
fn pages_that_flicker_cause_lies_and_no_more() {
    within(DEADLINE, || {
        let bed = Bed::new(Kind::Shm);
        let mut lies = 0;
        for port in 0..20 {
            let (mut server, raw) = Raw::client(&bed, port, SMALL);
            let rounds = Arc::new(AtomicU32::new(0));
            let flicker = std::thread::spawn({
                let rounds = rounds.clone();
                move || {
                    let mut dice = Dice::new(u64::from(port));
                    while rounds.fetch_add(1, Ordering::Relaxed) < 500 {
                        // Values near the true ones, so that some of them are accepted.
                        let step = (dice.below(64) as u32).to_le_bytes();
                        raw.poke([raw.own().prod, raw.own().cons][dice.below(2)], &step);
                        raw.poke(raw.own().asks, &[dice.below(256) as u8]);
                        raw.poke(4096, &step);
                        if dice.below(50) == 0 {
                            raw.punch();
                            raw.poke(raw.own().live, &[1]);
                        }
                        if dice.below(3) == 0 {
                            raw.ring();
                        }
                    }
                }
            });
            // At least once after the last round: on a busy machine the other thread may have ended before.
            let mut over = false;
            while !over {
                over = rounds.load(Ordering::Relaxed) >= 500;
                lies += usize::from(use_channel(&mut server, 40).is_err());
            }
            flicker.join().unwrap();
        }
        assert!(lies > 0, "nothing was tested");
    });
}
