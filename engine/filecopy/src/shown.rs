//! Names and sizes as people read them.

use std::fmt::{self, Display, Write};

/// Most characters of one name in a message.
const MOST: usize = 300;

/// A name in double quotes: readable characters unchanged, all others escaped so that the name stays unambiguous and
/// cannot control a terminal.
#[derive(Clone, Copy)]
pub struct Name<'a>(pub &'a [u8]);

impl Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        let mut shown = 0_usize;
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                shown = shown.saturating_add(1);
                if shown > MOST {
                    return f.write_str("…\"");
                }
                match character {
                    '\n' => f.write_str("\\n")?,
                    '\t' => f.write_str("\\t")?,
                    '"' | '\\' => write!(f, "\\{character}")?,
                    ' ' => f.write_char(' ')?,
                    _ if wire::filecopy::is_allowed(character) => f.write_char(character)?,
                    _ => write!(f, "\\u{{{:X}}}", u32::from(character))?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\{byte:03o}")?;
            }
        }
        f.write_char('"')
    }
}

/// A number of bytes with a unit.
#[derive(Clone, Copy)]
pub struct Size(pub u64);

impl Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return write!(f, "{} bytes", self.0);
        }
        let (mut value, mut unit) = (self.0 as f64 / 1024.0, 0);
        while value >= 1023.95 && unit + 1 < units.len() {
            (value, unit) = (value / 1024.0, unit + 1);
        }
        write!(f, "{value:.1} {}", units.get(unit).unwrap_or(&""))
    }
}

/// "1 file", "2 files".
pub fn count(number: u64, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

/// The system's text for an error number, without the number.
pub fn errno(errno: rustix::io::Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_readable_and_steer_nothing() {
        let shown = |name: &[u8]| Name(name).to_string();
        assert_eq!(shown("é x".as_bytes()), "\"é x\"");
        assert_eq!(shown(b"a\x1b[31m\n\"\\\xff"), "\"a\\u{1B}[31m\\n\\\"\\\\\\377\"");
        assert_eq!(shown("\u{1f600}\u{202e}".as_bytes()), "\"\\u{1F600}\\u{202E}\"");
        assert!(shown(&[b'x'; 20_000]).len() < 310);
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(Size(1023).to_string(), "1023 bytes");
        assert_eq!(Size(1536).to_string(), "1.5 KiB");
        assert_eq!(Size(u64::MAX).to_string(), "16.0 EiB");
    }
}
