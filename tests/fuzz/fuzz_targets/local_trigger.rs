//! What a `qrexec-client-vm` of any age writes to its agent: the pieces do not matter, and a request that was
//! understood is the same when it is written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::PeerError;
use wire::frame::LocalTriggerDecoder;
use wire::trigger::{BadTrigger, Trigger};

type Heard = Result<Option<Result<Trigger, BadTrigger>>, PeerError>;

/// What is made of the bytes, and of how many of them.
fn hear<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Heard, usize) {
    let mut decoder = LocalTriggerDecoder::new();
    let mut taken = 0;
    for piece in pieces {
        taken += piece.len();
        assert!(!piece.is_empty());
        let heard = decoder.feed(piece);
        assert!(decoder.has_begun());
        if !matches!(heard, Ok(None)) {
            return (heard, taken);
        }
    }
    (Ok(None), taken)
}

fuzz_target!(|data: &[u8]| {
    let (seed, bytes) = fuzz::split(data);
    let (in_pieces, taken) = hear(fuzz::pieces(bytes, seed));
    // The same bytes in one piece; a breach may be seen before the piece that completes it has come.
    let (whole, _) = hear(std::iter::once(&bytes[..taken]).filter(|bytes| !bytes.is_empty()));
    assert_eq!(in_pieces, whole);

    let Ok(Some(Ok(trigger))) = whole else { return };
    for version in fuzz::VERSIONS {
        let Ok(message) = trigger.encode(version) else { continue };
        let source = trigger.source.clone().filter(|_| version == wire::Version::V4);
        let again = Trigger { source, ..trigger.clone() };
        assert_eq!(hear(fuzz::pieces(&message, seed)).0, Ok(Some(Ok(again))));
    }
});
