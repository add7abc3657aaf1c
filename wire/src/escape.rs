//! Bytes of a peer, made safe to look at.

use core::fmt::{self, Write};

/// Whether a byte may reach a terminal: printable ASCII, and the white space and bell that upstream's filter lets
/// through.
pub const fn is_terminal_safe(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e | b'\t' | b'\n' | b'\r' | 0x07 | 0x08)
}

/// Replaces every byte that could control a terminal by `_`, in place; the length stays the same.
pub fn filter_terminal(bytes: &mut [u8]) {
    for byte in bytes {
        if !is_terminal_safe(*byte) {
            *byte = b'_';
        }
    }
}

/// How many bytes of one value a log line shows.
pub const LOG_LIMIT: usize = 256;

/// Shows bytes of a peer in a log line: printable ASCII as it is, all else as `\xNN`, a backslash
/// doubled, so that the text is unambiguous and cannot break out of its line. At most
/// [`LOG_LIMIT`] bytes are shown, then `…`.
#[derive(Clone, Copy)]
pub struct Escaped<'a>(&'a [u8]);

impl<'a> Escaped<'a> {
    /// Wraps bytes for display.
    pub fn new<B: AsRef<[u8]> + ?Sized>(bytes: &'a B) -> Self {
        Self(bytes.as_ref())
    }
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0.iter().take(LOG_LIMIT) {
            match byte {
                b'\\' => f.write_str("\\\\")?,
                0x20..=0x7e => f.write_char(char::from(byte))?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }
        if self.0.len() > LOG_LIMIT { f.write_str("…") } else { Ok(()) }
    }
}

impl fmt::Debug for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn terminal_filter_keeps_text_and_length() {
        let mut bytes = *b"a~ \t\n\r\x07\x08\x1b[31m\x00\x7f\x80\xff";
        filter_terminal(&mut bytes);
        assert_eq!(&bytes, b"a~ \t\n\r\x07\x08_[31m____");
    }

    #[test]
    fn log_text_stays_on_its_line() {
        assert_eq!(Escaped::new(b"a\\b\n\x1b\xff").to_string(), "a\\\\b\\x0a\\x1b\\xff");
        let long = [b'x'; LOG_LIMIT + 1];
        let shown = Escaped::new(&long).to_string();
        assert_eq!(shown.chars().count(), LOG_LIMIT + 1);
        assert!(shown.ends_with('…'));
    }
}
