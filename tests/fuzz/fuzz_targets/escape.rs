//! Bytes of a peer where a person looks: only harmless ones reach a terminal, and a log line is one line from
//! which the bytes can be told.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::escape::{Escaped, LOG_LIMIT, filter_terminal, is_terminal_safe};

fuzz_target!(|data: &[u8]| {
    let mut shown = data.to_vec();
    filter_terminal(&mut shown);
    assert_eq!(shown.len(), data.len());
    for (before, after) in data.iter().zip(&shown) {
        assert!(is_terminal_safe(*after) && (before == after || *after == b'_'));
        assert!(*after != 0x1b && *after < 0x7f);
    }

    let line = Escaped::new(data).to_string();
    let (line, cut) = match line.strip_suffix('…') {
        Some(line) => (line, true),
        None => (line.as_str(), false),
    };
    assert!(fuzz::is_plain(line) && line.len() <= 4 * LOG_LIMIT);
    assert_eq!(cut, data.len() > LOG_LIMIT);
    assert_eq!(unescape(line.as_bytes()), data[..data.len().min(LOG_LIMIT)]);
});

fn unescape(mut line: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let [first, rest @ ..] = line {
        (line, bytes) = match (first, rest) {
            (b'\\', [b'\\', rest @ ..]) => (rest, [bytes, vec![b'\\']].concat()),
            (b'\\', [b'x', high, low, rest @ ..]) => {
                let digits = [*high, *low];
                let text = std::str::from_utf8(&digits).expect("two digits");
                (rest, [bytes, vec![u8::from_str_radix(text, 16).expect("hexadecimal")]].concat())
            }
            (b'\\', _) => panic!("half an escape"),
            (plain, rest) => (rest, [bytes, vec![*plain]].concat()),
        };
    }
    bytes
}
