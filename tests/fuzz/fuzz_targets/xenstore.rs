//! Xenstore's side of its protocol: the pieces do not matter, nothing longer than the protocol allows is
//! waited for, numbers and errors of any form are survived.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ring::fuzzing::xenstore;

fuzz_target!(|data: &[u8]| {
    let (seed, bytes) = fuzz::split(data);
    let whole = xenstore::messages(std::iter::once(bytes));
    let in_pieces = xenstore::messages(fuzz::pieces(bytes, seed));
    assert_eq!(whole, in_pieces);
    assert!(whole.held <= xenstore::MAX_MESSAGE);

    let text = xenstore::failure(bytes);
    assert!(text.len() < 256 && fuzz::is_plain(&text), "{text:?}");
    if let Some(number) = xenstore::number(bytes) {
        let written = number.to_string();
        assert!(number > 0 && bytes.trim_ascii_start().ends_with(written.as_bytes()));
    }
});
