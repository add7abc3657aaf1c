//! Numbers as C programs read them: `0x` is hexadecimal, a leading `0` octal, everything else decimal.

/// Why a text is not the number that was wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    /// No digits at the beginning, or something behind them.
    #[error("not a number")]
    NotANumber,
    /// More than the machine, or the thing it counts, can take.
    #[error("too large, at most {0} is possible")]
    TooLarge(u64),
}

/// Splits `text` behind its leading number, which is read as `strtoul` with base 0 does it; neither
/// sign nor blanks are taken. A number over 64 bits counts as `u64::MAX`.
fn leading(text: &str) -> Result<(u64, &str), NumberError> {
    let hex_digits = ["0x", "0X"].into_iter().find_map(|prefix| text.strip_prefix(prefix));
    let (radix, digits) = match hex_digits {
        Some(digits) if digits.starts_with(|c: char| c.is_ascii_hexdigit()) => (16, digits),
        _ if text.starts_with('0') => (8, text),
        _ => (10, text),
    };
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    let (number, rest) = digits.split_at_checked(end).ok_or(NumberError::NotANumber)?;
    if number.is_empty() {
        return Err(NumberError::NotANumber);
    }
    Ok((u64::from_str_radix(number, radix).unwrap_or(u64::MAX), rest))
}

/// Reads a whole text as a number.
///
/// # Errors
/// [`NumberError::NotANumber`] if it is none, [`NumberError::TooLarge`] if it is over `max`.
pub fn parse(text: &str, max: u64) -> Result<u64, NumberError> {
    match leading(text)? {
        (number, "") if number <= max => Ok(number),
        (_, "") => Err(NumberError::TooLarge(max)),
        _ => Err(NumberError::NotANumber),
    }
}

/// Reads a size in bytes; a `K`, `M` or `G` behind the number means KiB, MiB or GiB.
///
/// # Errors
/// As for [`parse`].
pub fn parse_size(text: &str, max: u64) -> Result<u64, NumberError> {
    let (number, suffix) = leading(text)?;
    let unit = match suffix {
        "" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        _ => return Err(NumberError::NotANumber),
    };
    number.checked_mul(unit).filter(|size| *size <= max).ok_or(NumberError::TooLarge(max))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn c_syntax() {
        let read = |text| parse(text, u64::MAX);
        assert_eq!(
            [read("0"), read("42"), read("0x1F"), read("0X1f"), read("010")],
            [0, 42, 31, 31, 8].map(Ok)
        );
        for bad in ["", " 1", "+1", "-1", "0x", "0xg", "08", "1a", "1 ", "a", "１"] {
            assert_eq!(read(bad), Err(NumberError::NotANumber), "{bad:?}");
        }
        assert_eq!(parse("99999999999999999999999", 9), Err(NumberError::TooLarge(9)));
        assert_eq!(parse("10", 9), Err(NumberError::TooLarge(9)));
    }

    #[test]
    fn sizes() {
        let read = |text| parse_size(text, MIB);
        assert_eq!(
            [read("65536"), read("64K"), read("1M"), read("0x10k")],
            [65_536, 65_536, MIB, 16_384].map(Ok)
        );
        for bad in ["", "K", "64KB", "1T", "1K ", "1.5M"] {
            assert_eq!(read(bad), Err(NumberError::NotANumber), "{bad:?}");
        }
        for large in ["1048577", "1025K", "2M", "1G", "99999999999999999999M"] {
            assert_eq!(read(large), Err(NumberError::TooLarge(MIB)), "{large}");
        }
    }
}
