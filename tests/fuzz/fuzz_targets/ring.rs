//! The shared page. A hostile peer writes what it likes into it at any time: the other end reads and writes
//! only its own ring memory and gets errors that blame the peer. Between two honest ends no byte is lost,
//! changed or out of order, and whoever went to sleep is woken.
#![no_main]

use std::collections::VecDeque;
use std::os::fd::AsFd;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ring::{Channel, Error, Orders, Spans, fuzzing};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

#[derive(Arbitrary, Debug)]
enum Deed<'a> {
    /// Bytes anywhere.
    Poke {
        at: u16,
        bytes: &'a [u8],
    },
    /// One of the four indices becomes this.
    Index {
        which: u8,
        value: u32,
    },
    /// One of them moves by this.
    Step {
        which: u8,
        by: u16,
    },
    /// The bytes for liveness and notices.
    Flags([u8; 4]),
    Ring,
    Use(Use),
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Use {
    Read(u16),
    Write(u16),
    InPlace { take: u16, put: u16 },
    Flush,
    Arm { data: Option<u16>, room: u16 },
    OnReady,
    Ended,
}

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Hostile { orders: (u8, u8), is_client: bool, deeds: Vec<Deed<'a>> },
    Honest { orders: (u8, u8), turns: Vec<(bool, Use)> },
}

fuzz_target!(|input: Input<'_>| match input {
    Input::Hostile { orders, is_client, deeds } => hostile(sizes(orders), is_client, deeds),
    Input::Honest { orders, turns } => honest(sizes(orders), turns),
});

/// A pair of small rings, so that they are full and empty often.
fn sizes((left, right): (u8, u8)) -> Orders {
    let order = |by| 10 + u16::from(by % 4);
    Orders::validate(order(left), order(right)).unwrap_or(Orders::validate(10, 11).expect("a good pair"))
}

fn hostile(orders: Orders, is_client: bool, deeds: Vec<Deed<'_>>) {
    let (mut channel, mut peer) = fuzzing::alone(orders, is_client).expect("memory");
    for deed in deeds.into_iter().take(200) {
        match deed {
            Deed::Poke { at, bytes } => peer.poke(at.into(), bytes),
            Deed::Index { which, value } => peer.poke(4 * usize::from(which % 4), &value.to_le_bytes()),
            Deed::Step { which, by } => {
                let at = 4 * usize::from(which % 4);
                peer.poke(at, &peer.index(at).wrapping_add(by.into()).to_le_bytes());
            }
            Deed::Flags(flags) => peer.poke(20, &flags),
            Deed::Ring => peer.ring(),
            Deed::Use(deed) => match use_channel(&mut channel, deed, &mut |_| {}) {
                Ok(_) | Err(Error::BadIndex(_) | Error::Closed) => {}
                Err(other) => panic!("not the peer's fault: {other}"),
            },
        }
        assert!(channel.tx().known_room() <= channel.tx().size());
        assert!(channel.rx().known_ready() <= channel.rx().size());
    }
}

/// What one use of a channel did.
enum Did {
    Wrote(Vec<u8>),
    Slept { data: bool, room: usize },
    Other,
}

/// Does one thing that users do; `got` sees what was read.
fn use_channel(channel: &mut Channel, deed: Use, got: &mut dyn FnMut(&[u8])) -> Result<Did, Error> {
    match deed {
        Use::Read(len) => {
            let mut buffer = vec![0; len.into()];
            let count = channel.read(&mut buffer)?;
            got(&buffer[..count]);
        }
        Use::Write(len) => {
            let mut bytes = pattern(len.into());
            let count = channel.write(&bytes)?;
            bytes.truncate(count);
            return Ok(Did::Wrote(bytes));
        }
        Use::InPlace { take, put } => {
            let ready = channel.readable()?.min(take.into());
            let mut bytes = vec![0; ready];
            channel.rx().get(0, &mut bytes);
            got(&bytes);
            let mut spans = Spans::new();
            assert!(channel.rx().spans(0, ready, &mut spans) && spans.bytes() == ready);
            channel.release(ready);
            let room = channel.writable()?.min(put.into());
            let bytes = pattern(room);
            channel.tx().put(0, &bytes);
            let mut spans = Spans::new();
            assert!(channel.tx().spans(0, room, &mut spans) && spans.bytes() == room);
            channel.commit(room);
            return Ok(Did::Wrote(bytes));
        }
        Use::Flush => channel.flush()?,
        Use::Arm { data, room } => {
            if !channel.arm_for(data.map(usize::from), room.into())? {
                return Ok(Did::Slept { data: data == Some(0), room: room.into() });
            }
        }
        Use::OnReady => channel.on_ready()?,
        Use::Ended => {
            channel.ended()?;
        }
    }
    Ok(Did::Other)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + len) as u8).collect()
}

fn honest(orders: Orders, turns: Vec<(bool, Use)>) {
    let (client, server) = fuzzing::pair(orders).expect("memory");
    let mut ends = [client, server];
    // What is on its way to each end, and whether that end sleeps until something comes.
    let mut queues = [VecDeque::new(), VecDeque::new()];
    let mut asleep = [false; 2];
    for (who, deed) in turns.into_iter().take(200) {
        let (own, other) = (usize::from(who), usize::from(!who));
        asleep[own] = false;
        let queue = &mut queues[own];
        let mut got = |bytes: &[u8]| {
            let sent: Vec<u8> = queue.drain(..bytes.len()).collect();
            assert!(sent == bytes, "bytes came changed");
        };
        match use_channel(&mut ends[own], deed, &mut got).expect("an honest peer") {
            Did::Wrote(bytes) => {
                queues[other].extend(&bytes);
                ends[own].flush().expect("an honest peer");
                assert!(
                    bytes.is_empty() || !asleep[other] || is_ready(&ends[other]),
                    "nobody woke the sleeper"
                );
            }
            Did::Slept { data, room } => {
                assert!(!data || queues[own].is_empty());
                assert!(room == 0 || ends[own].tx().known_room() < room.min(ends[own].tx().size()));
                asleep[own] = data;
            }
            Did::Other => {}
        }
    }
    for (end, mut queue) in ends.iter_mut().zip(queues) {
        let mut rest = vec![0; queue.len() + 1];
        assert_eq!(end.read(&mut rest).expect("an honest peer"), queue.len());
        assert!(rest.starts_with(queue.make_contiguous()));
    }
}

fn is_ready(channel: &Channel) -> bool {
    let fd = channel.as_fd();
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&Timespec::default())).expect("poll") == 1
}
