//! `qubes.VMExec`: the words of a command in the argument of a service, and the program that runs them without a shell.
//!
//! Words are joined by `+`. Letters, digits, `_` and `.` stand for themselves, `-` is `--`, every other byte `-HH`.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

use cli::status;
use engine::say;
use wire::escape::Escaped;

/// What the status is for an argument that is none.
const WRONG: i32 = 1;

/// Why an argument is no command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A `-` that begins nothing.
    #[error("'-' can be used only in '-HH' or '--'")]
    Dash,
    /// A byte that has to be written as `-HH`.
    #[error("only letters, digits, '_', '.', '-' and '+' can be used")]
    Byte,
    /// No word of a command can have it.
    #[error("a word cannot contain a NUL ('-00')")]
    Nul,
}

/// The argument that stands for these words.
pub fn encode<S: AsRef<OsStr>>(words: &[S]) -> String {
    let mut text = String::new();
    for (index, word) in words.iter().enumerate() {
        if index > 0 {
            text.push('+');
        }
        for &byte in word.as_ref().as_bytes() {
            match byte {
                b'-' => text.push_str("--"),
                _ if is_plain(byte) => text.push(char::from(byte)),
                _ => drop(write!(text, "-{byte:02X}")),
            }
        }
    }
    text
}

/// The words that an argument stands for.
///
/// # Errors
/// It stands for none.
pub fn decode(argument: &[u8]) -> Result<Vec<OsString>, DecodeError> {
    argument.split(|&byte| byte == b'+').map(word).collect()
}

fn word(part: &[u8]) -> Result<OsString, DecodeError> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.iter().copied();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'-' => match rest.next() {
                Some(b'-') => b'-',
                Some(high) => hex(high, rest.next())?,
                None => return Err(DecodeError::Dash),
            },
            _ if is_plain(byte) => byte,
            _ => return Err(DecodeError::Byte),
        });
    }
    Ok(OsString::from_vec(bytes))
}

const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.')
}

/// Two digits, the letters among them large.
fn hex(high: u8, low: Option<u8>) -> Result<u8, DecodeError> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    let value = digit(high).zip(low.and_then(digit)).map(|(high, low)| high << 4 | low);
    match value {
        Some(0) => Err(DecodeError::Nul),
        Some(value) => Ok(value),
        None => Err(DecodeError::Dash),
    }
}

/// The service: becomes the program that its argument names.
pub fn main(args: Vec<OsString>) -> i32 {
    let argument = match args.as_slice() {
        [_, argument] if !argument.is_empty() => argument,
        _ => {
            say::error("This service requires exactly one argument");
            return WRONG;
        }
    };
    let words = match decode(argument.as_bytes()) {
        Ok(words) => words,
        Err(error) => {
            say::error(format_args!("Decode error: {error}"));
            return WRONG;
        }
    };
    let Some((program, words)) = words.split_first() else { return WRONG };
    let error = status::not_started(program, Command::new(program).args(words).exec());
    say::error(format_args!("qubes.VMExec: {}: {error}", Escaped::new(program.as_bytes())));
    status::of_start(&error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(text: &str) -> Result<Vec<OsString>, DecodeError> {
        decode(text.as_bytes())
    }

    #[test]
    fn words_become_an_argument() {
        for (words, text) in [
            (&["ls", "-la"][..], "ls+--la"),
            (&["echo", "a b"], "echo+a-20b"),
            (&["a", ""], "a+"),
            (&[""], ""),
            (&["sh", "-c", "echo \"a  b\"; exit 4"], "sh+--c+echo-20-22a-20-20b-22-3B-20exit-204"),
            (&["--", "é\n"], "----+-C3-A9-0A"),
        ] {
            assert_eq!(encode(words), text);
        }
    }

    #[test]
    fn an_argument_becomes_words() {
        for (text, words) in [
            ("ls+--la", &["ls", "-la"][..]),
            ("-2Fbin-2Fls", &["/bin/ls"]),
            ("a-0Ab", &["a\nb"]),
            ("-C3-A9", &["é"]),
            ("a++", &["a", "", ""]),
        ] {
            assert_eq!(decoded(text).unwrap(), words, "{text}");
        }
    }

    #[test]
    fn what_is_no_command_is_refused() {
        for bad in ["illegal-single", "incomplete-A", "smalletters-0a-0d", "ls+---threeslashes", "-"] {
            assert_eq!(decoded(bad), Err(DecodeError::Dash), "{bad}");
        }
        assert_eq!(decoded("a-00"), Err(DecodeError::Nul));
        for bad in ["a b", "a\n", "a/b", "é"] {
            assert_eq!(decoded(bad), Err(DecodeError::Byte), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_comes_back(
            words in proptest::collection::vec(proptest::collection::vec(1u8.., 0..40), 1..8)
        ) {
            let words: Vec<OsString> = words.into_iter().map(OsString::from_vec).collect();
            prop_assert_eq!(decode(encode(&words).as_bytes()), Ok(words));
        }

        #[test]
        fn any_bytes_are_words_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(words) = decode(&bytes) {
                prop_assert_eq!(encode(&words).into_bytes(), bytes);
            }
        }
    }
}
