//! HELLO: the pieces do not matter, the agreed version is the lower one, nothing behind the HELLO is lost.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::control::PeerInfo;
use wire::handshake::{HELLO_LEN, Handshake};
use wire::header::HEADER_LEN;
use wire::version::Version;

fuzz_target!(|data: &[u8]| {
    let (versions, data) = fuzz::split(data);
    let (seed, bytes) = fuzz::split(data);
    let ours = fuzz::pick(fuzz::VERSIONS, versions);
    let least = fuzz::pick(fuzz::VERSIONS, versions / 3).min(ours);

    let mut whole = Handshake::with_least(ours, least);
    let at_once = whole.feed(bytes);
    let mut side = Handshake::with_least(ours, least);
    let mut agreed = Ok(None);
    let mut fed = 0;
    for piece in fuzz::pieces(bytes, seed) {
        assert_eq!(side.wanted(), HELLO_LEN.saturating_sub(fed));
        agreed = side.feed(piece);
        fed += piece.len();
        if agreed.is_err() {
            break;
        }
    }
    assert_eq!(agreed, at_once);
    match agreed {
        Ok(Some(version)) => {
            assert!((least..=ours).contains(&version));
            assert_eq!(side.surplus(), &bytes[HELLO_LEN..]);
            let theirs = PeerInfo::decode(&bytes[HEADER_LEN..HELLO_LEN]).expect("a HELLO").version;
            assert_eq!(version.number(), theirs.min(ours.number()).min(Version::OURS.number()));
        }
        Ok(None) => assert!(bytes.len() < HELLO_LEN && side.surplus().is_empty()),
        Err(_) => assert!(fed >= HEADER_LEN),
    }
});
