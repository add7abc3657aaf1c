//! Command lines that clap reads, and what is said of wrong ones.

use std::ffi::OsString;

use clap::Parser;
use clap::error::ErrorKind;

/// Exit status for a wrong command line.
pub(crate) const EXIT_USAGE: i32 = 2;

/// Reads the arguments as the C program does.
pub(crate) fn read<T: Parser>(args: Vec<OsString>) -> Result<T, clap::Error> {
    engine::getopt::matches(T::command(), args).and_then(|matches| T::from_arg_matches(&matches))
}

/// Prints clap's message. Returns the exit status for it.
pub(crate) fn explain(error: &clap::Error) -> i32 {
    // A closed stream does not change the status.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => 0,
        _ => EXIT_USAGE,
    }
}
