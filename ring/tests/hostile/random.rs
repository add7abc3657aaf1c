//! Hostile at random: many violations, and between them everything that a user does with a channel.

use std::os::fd::OwnedFd;
use std::time::Duration;

use proptest::prelude::*;
use ring::{Channel, Error, Kind, Sizes};

use crate::common::*;
use crate::meeting::{honest_memfd, refused};
use crate::raw::Raw;

/// Everything that a user does with a channel, once. Errors must be the peer's fault.
pub(crate) fn use_channel(channel: &mut Channel, len: usize) -> Result<(), Error> {
    let mut turn = || -> Result<(), Error> {
        let mut buffer = [0; 128];
        channel.read(&mut buffer[..len.min(128)])?;
        channel.write(&[0x55; 128][..len.min(128)])?;
        channel.flush_room()?;
        let room = channel.writable()?;
        let mut spans = ring::Spans::new();
        channel.tx().spans(0, room.min(len), &mut spans);
        channel.commit(room.min(len));
        let ready = channel.readable()?;
        let mut spans = ring::Spans::new();
        channel.rx().spans(0, ready, &mut spans);
        channel.release(ready);
        channel.arm_for(Some(len / 2), len)?;
        sleep_for(channel, Duration::ZERO);
        channel.ended()?;
        Ok(())
    };
    match turn() {
        Err(error @ (Error::BadIndex(_) | Error::Closed)) => Err(error),
        Err(other) => panic!("not the peer's fault: {other}"),
        Ok(()) => Ok(()),
    }
}

#[derive(Clone, Debug)]
enum Evil {
    Poke {
        at: usize,
        bytes: Vec<u8>,
    },
    Index {
        which: usize,
        value: u32,
    },
    /// Moves an index from where it is.
    Step {
        which: usize,
        by: u32,
    },
    Ring,
    Punch,
    Use {
        len: usize,
    },
}

fn evil() -> impl Strategy<Value = Evil> {
    let bytes = prop::collection::vec(any::<u8>(), 1..16);
    prop_oneof![
        (0_usize..4080, bytes).prop_map(|(at, bytes)| Evil::Poke { at, bytes }),
        (0_usize..4, any::<u32>()).prop_map(|(which, value)| Evil::Index { which, value }),
        (0_usize..4, 0_u32..3000).prop_map(|(which, by)| Evil::Step { which, by }),
        Just(Evil::Ring),
        Just(Evil::Punch),
        (0_usize..5000).prop_map(|len| Evil::Use { len }),
        (0_usize..200).prop_map(|len| Evil::Use { len }),
    ]
}

fn suffer(channel: &mut Channel, raw: &Raw, deeds: &[Evil]) {
    for deed in deeds {
        match deed {
            Evil::Poke { at, bytes } => raw.poke(*at, bytes),
            Evil::Index { which, value } => raw.poke(4 * which, &value.to_le_bytes()),
            Evil::Step { which, by } => {
                let now = u32::from_le_bytes(raw.peek(4 * which));
                raw.poke(4 * which, &now.wrapping_add(*by).to_le_bytes());
            }
            Evil::Ring => {
                raw.ring();
            }
            Evil::Punch => raw.punch(),
            Evil::Use { len } => {
                let _ = use_channel(channel, *len);
            }
        }
        assert!(channel.tx().known_room() <= channel.tx().size());
        assert!(channel.rx().known_ready() <= channel.rx().size());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_page_writes_yield_errors_only(
        deeds in prop::collection::vec(evil(), 1..60),
        left in 0_usize..20_000,
        right in 0_usize..20_000,
    ) {
        let bed = Bed::new(Kind::Shm);
        let (mut server, raw) = Raw::client(&bed, 1, Sizes { left, right });
        suffer(&mut server, &raw, &deeds);
        let (raw, mut client) = Raw::server(&bed, 2, Sizes { left, right });
        suffer(&mut client, &raw, &deeds);
    }

    #[test]
    fn random_offers_are_refused_in_peace(bytes in prop::collection::vec(any::<u8>(), 1..40), fds in 0_usize..3) {
        let fds: Vec<OwnedFd> = (0..fds).map(|_| honest_memfd()).collect();
        refused(&bytes, &fds);
    }
}
