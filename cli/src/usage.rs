//! Command lines: clap reads them, those of programs with a C namesake as `getopt_long` takes them, and whatever is
//! wrong with one is said in exactly one line.

use std::ffi::OsString;

use clap::builder::PossibleValuesParser;
use clap::error::ErrorKind;
use clap::{Arg, Command, CommandFactory, Parser};
use engine::say;
use wire::usbip::Rules;

use crate::failure::Failure;
use crate::{help, status};

/// The name under which the value of `--log-level` is found.
pub(crate) const LOG_LEVEL: &str = "log_level";

/// A command line with what every program takes: `--version` and `--log-level`.
pub(crate) fn complete(command: Command) -> Command {
    let command = match command.get_version() {
        Some(_) => command,
        None => command.version(env!("CARGO_PKG_VERSION")),
    };
    let said = command.get_after_long_help().is_some() || command.get_after_help().is_some();
    let command = match help::of(command.get_name()).filter(|_| !said) {
        Some(text) => command.after_long_help(text),
        None => command,
    };
    if command.get_arguments().any(|arg| arg.get_id() == LOG_LEVEL) {
        return command;
    }
    // It is read before everything else, by whoever sets up the log.
    let level = Arg::new(LOG_LEVEL)
        .long("log-level")
        .value_name("LEVEL")
        .help("What is logged; else QREXEC_LOG says so, else RUST_LOG")
        .value_parser(PossibleValuesParser::new(["error", "warn", "info", "debug", "trace"]));
    let everywhere = command.has_subcommands();
    command.arg(level.global(everywhere))
}

/// The rules behind `--filter`.
///
/// # Errors
/// A usage failure: a word is not known.
pub(crate) fn usbip_rules(words: &str) -> Result<Rules, Failure> {
    Rules::from_words(words).ok_or_else(|| {
        let words = words.escape_default();
        Failure::usage(format!("--filter: {words}: expected usbip, no-vendor-requests, one-configuration, no-firmware, classes=08,…"))
    })
}

/// The complete command line of a program.
pub fn of<T: CommandFactory>() -> Command {
    complete(T::command())
}

/// Reads the arguments of a program, the program's own name first.
///
/// # Errors
/// The exit status to end with when there is nothing to do: 0 after `--help`, 2 after the one line on
/// stderr that says what is wrong.
pub fn parse<T: Parser>(program: &str, args: Vec<OsString>) -> Result<T, i32> {
    parse_as(of::<T>(), program, args)
}

/// A command line with what every program takes.
pub fn completed(command: Command) -> Command {
    complete(command)
}

/// The same by a complete command line whose texts differ from those of `T`.
///
/// # Errors
/// As for [`parse`].
pub fn parse_as<T: Parser>(command: Command, program: &str, args: Vec<OsString>) -> Result<T, i32> {
    let matches = engine::getopt::matches(command, args);
    matches.and_then(|matches| T::from_arg_matches(&matches)).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A closed stdout is no reason to fail: nobody wants the text any more.
            let _ = error.print();
            0
        }
        _ => wrong(program, &one_line(&error)),
    })
}

/// The whole of a plain program: reads its arguments, runs it, reports its failure. Gives the exit status.
pub fn run<T: Parser>(
    program: &str,
    args: Vec<OsString>,
    body: impl FnOnce(&T) -> Result<(), Failure>,
) -> i32 {
    match parse::<T>(program, args) {
        Ok(args) => body(&args).map_or_else(|failure| failure.report(program), |()| 0),
        Err(status) => status,
    }
}

/// Says in one line what is wrong with a command line; the result is the exit status.
pub fn wrong(program: &str, what: &str) -> i32 {
    say::error(format_args!("{program}: {what} (see {program} --help)"));
    status::USAGE
}

/// The core of clap's message, without its usage text and hints.
fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let core = text.split("\n\n").next().unwrap_or_default();
    let core = core.strip_prefix("error: ").unwrap_or(core);
    core.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    struct SampleArgs {
        #[arg(long)]
        _number: Option<u32>,
        #[arg(required = true, value_name = "WORD")]
        _words: Vec<String>,
    }

    fn message(args: &[&str]) -> String {
        one_line(&SampleArgs::try_parse_from(args).expect_err("a wrong command line"))
    }

    #[test]
    fn messages_are_one_line_and_say_what_is_missing() {
        assert_eq!(message(&["x"]), "the following required arguments were not provided: <WORD>...");
        assert!(message(&["x", "--bogus", "a"]).contains("'--bogus'"));
        for args in [["x", "--bogus"], ["x", "--number=a\nb"]] {
            assert_eq!(message(&args).lines().count(), 1);
        }
    }
}
