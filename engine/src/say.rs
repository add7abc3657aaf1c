#![forbid(unsafe_code)]
//! Lines for whoever started a program. What cannot be written any more (a full disk, a closed pipe) wants nobody's
//! attention: a program ends with the status that it has, where `println!` and `eprintln!` would end it with another.

use std::fmt::Display;
use std::io::{self, Write};

/// One line on standard error, in one piece.
pub fn error(line: impl Display) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// One line on standard output.
pub fn output(line: impl Display) {
    let _ = io::stdout().write_all(format!("{line}\n").as_bytes());
}

/// A question on standard error, behind which the answer is typed.
pub fn question(text: impl Display) {
    let _ = io::stderr().write_all(text.to_string().as_bytes());
}
