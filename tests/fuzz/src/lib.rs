//! What the fuzz targets share: cutting an input into its parts.
#![forbid(unsafe_code)]

use policy::Files;
use wire::frame::{Decoder, Frame};
use wire::version::Version;

/// The versions that are spoken.
pub const VERSIONS: [Version; 3] = [Version::V2, Version::V3, Version::V4];

/// The first byte and the rest; an empty input has a zero in front.
pub fn split(data: &[u8]) -> (u8, &[u8]) {
    data.split_first().map_or((0, data), |(first, rest)| (*first, rest))
}

/// One of several, chosen by a byte.
pub fn pick<T: Copy, const N: usize>(from: [T; N], by: u8) -> T {
    from[usize::from(by) % N]
}

/// The bytes as a stream socket might bring them: whole for `seed` 0, else in pieces of 1 to 64 bytes that
/// only `seed` decides.
pub fn pieces(mut bytes: &[u8], seed: u8) -> impl Iterator<Item = &[u8]> {
    let mut state = u32::from(seed);
    std::iter::from_fn(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let len = if seed == 0 { bytes.len() } else { 1 + (state >> 26) as usize };
        let (piece, rest) = bytes.split_at(len.min(bytes.len()));
        bytes = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The bytes as they are, or for the last values of `by` over and over, up to 25,000, 50,000 or 75,000 in all: for
/// limits that no input of a few kilobytes reaches.
pub fn stretched(bytes: &[u8], by: u8) -> Vec<u8> {
    match usize::from(by.saturating_sub(252)) {
        0 => bytes.to_vec(),
        times => bytes.iter().copied().cycle().take(25_000 * times).collect(),
    }
}

/// The one message in `bytes`.
///
/// # Panics
/// They are not exactly one message.
pub fn unframe(bytes: &[u8]) -> Frame {
    let mut decoder = Decoder::new(wire::control::MAX_LOCAL_BODY);
    decoder.push(bytes);
    let frame = decoder.next().expect("a message of ours keeps the limits").expect("it is whole");
    assert!(!decoder.is_mid_message(), "it is alone");
    frame
}

/// Text that stays on its line: printable ASCII.
pub fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| (0x20..0x7f).contains(&byte))
}

/// Policy files from one text, which begins as the file `name` of this kind; a line `=== KIND NAME` begins
/// another.
pub fn bundle(kind: &str, name: &str, data: &[u8]) -> Files {
    let (mut kind, mut name) = (kind.to_owned(), name.to_owned());
    let (mut files, mut text) = (Files::new(), Vec::new());
    for line in data.split_inclusive(|byte| *byte == b'\n') {
        let heading = line.strip_prefix(b"=== ").and_then(|line| std::str::from_utf8(line).ok());
        match heading.and_then(|line| line.trim_end().split_once(' ')) {
            Some((next_kind, next_name)) => {
                files = add(files, &kind, &name, std::mem::take(&mut text));
                (kind, name) = (next_kind.to_owned(), next_name.to_owned());
            }
            None => text.extend_from_slice(line),
        }
    }
    add(files, &kind, &name, text)
}

fn add(files: Files, kind: &str, name: &str, text: Vec<u8>) -> Files {
    match kind {
        "include" => files.include(name, text),
        "compat" => files.compat(name, text),
        _ => files.policy(name, text),
    }
}
