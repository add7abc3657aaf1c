#![forbid(unsafe_code)]
//! Lines for the user who started a program. If a line cannot be written (a full disk, a closed pipe) that is ignored:
//! the program keeps its exit status, where `println!` and `eprintln!` would end it with another.

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

/// A question on standard error; the answer is typed after it.
pub fn question(text: impl Display) {
    let _ = io::stderr().write_all(text.to_string().as_bytes());
}
