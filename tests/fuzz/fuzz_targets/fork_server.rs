//! What a fork server is told about a call: the pieces do not matter, and a request that was understood is
//! said again in the same bytes.
#![no_main]

use agent::fuzzing::fork_request;
use libfuzzer_sys::fuzz_target;
use wire::control::MAX_LOCAL_BODY;

fuzz_target!(|data: &[u8]| {
    let (by, data) = fuzz::split(data);
    let (seed, bytes) = fuzz::split(data);
    let bytes = fuzz::stretched(bytes, by);
    let whole = fork_request(std::iter::once(bytes.as_slice()));
    let in_pieces = fork_request(fuzz::pieces(&bytes, seed));
    assert_eq!(whole.is_ok(), in_pieces.is_ok());
    let Ok(Some(said)) = whole else { return };
    assert_eq!(said, bytes);
    assert_eq!(in_pieces, Ok(Some(said)));
    assert!(bytes.len() <= 16 + MAX_LOCAL_BODY && !bytes[16..bytes.len() - 1].contains(&0));
});
