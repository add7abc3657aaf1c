//! From bytes to lines and words, each with its place.

use crate::error::LineError;

/// One word of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word<'a> {
    pub(crate) text: &'a str,
    /// Of the first character, from 1, counted in characters.
    pub(crate) column: u32,
}

/// Blanks between words: Unicode white space and the four ASCII separators U+001C to U+001F,
/// which upstream's engine takes as blanks too.
pub(crate) fn is_blank(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// The text of a file, or the line and the problem if it is not UTF-8.
pub(crate) fn decode(bytes: &[u8]) -> Result<&str, (u32, LineError)> {
    std::str::from_utf8(bytes).map_err(|error| {
        let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
        // What comes before the bad byte is valid, so nothing is lost here.
        let good = String::from_utf8_lossy(good);
        let (line, start) = lines(&good).last().unwrap_or((1, ""));
        let (line, start) =
            if good.ends_with(['\n', '\r']) { (line.saturating_add(1), "") } else { (line, start) };
        let column = count(start).saturating_add(1);
        (line, LineError::new(column, "this byte is not UTF-8", "save the file as UTF-8"))
    })
}

/// Lines with their numbers from 1; `\n`, `\r\n` and a lone `\r` end one.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = (u32, &str)> {
    let mut rest = Some(text).filter(|text| !text.is_empty());
    let mut number = 0u32;
    std::iter::from_fn(move || {
        let text = rest?;
        number = number.saturating_add(1);
        let Some(end) = text.find(['\n', '\r']) else {
            rest = None;
            return Some((number, text));
        };
        let (line, after) = text.split_at(end);
        let after = after.strip_prefix("\r\n").or_else(|| after.get(1..)).unwrap_or_default();
        rest = Some(after).filter(|after| !after.is_empty());
        Some((number, line))
    })
}

/// The words of a line.
pub(crate) fn words(line: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut column = 1u32;
    let mut rest = line;
    loop {
        let text = rest.trim_start_matches(is_blank);
        column = column.saturating_add(count(rest.strip_suffix(text).unwrap_or_default()));
        if text.is_empty() {
            return words;
        }
        let end = text.find(is_blank).unwrap_or(text.len());
        let (word, after) = text.split_at(end);
        words.push(Word { text: word, column });
        column = column.saturating_add(count(word));
        rest = after;
    }
}

/// The column after the last word, where a missing one belongs.
pub(crate) fn end_column(words: &[Word<'_>]) -> u32 {
    words.last().map_or(1, |word| word.column.saturating_add(count(word.text)))
}

fn count(text: &str) -> u32 {
    u32::try_from(text.chars().count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line_end_counts_once() {
        let got: Vec<_> = lines("a\nb\r\nc\rd\n\ne").collect();
        assert_eq!(got, [(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, ""), (6, "e")]);
        assert_eq!(lines("a\n").collect::<Vec<_>>(), [(1, "a")]);
        assert_eq!(lines("").count(), 0);
    }

    #[test]
    fn words_know_their_columns() {
        let got: Vec<_> = words("  ab\u{1f}\u{a0}é f ").iter().map(|w| (w.text, w.column)).collect();
        assert_eq!(got, [("ab", 3), ("é", 7), ("f", 9)]);
        assert_eq!(end_column(&words(" ab ")), 4);
    }

    #[test]
    fn a_bad_byte_has_a_place() {
        let (line, error) = decode(b"a\nb\xff").unwrap_err();
        assert_eq!((line, error.column), (2, 2));
        let (line, error) = decode(b"a\n\xff").unwrap_err();
        assert_eq!((line, error.column), (2, 1));
        let (line, error) = decode(b"\xff").unwrap_err();
        assert_eq!((line, error.column), (1, 1));
    }
}
