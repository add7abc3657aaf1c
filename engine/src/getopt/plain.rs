//! Reading a command line without clap, which would make up a fifth of a small program and of the memory that it uses
//! at its start. clap's definition of the same command line exists too, for manual pages and completions; tests
//! compare the two.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

use super::cut::{Cut, Opt, Said, Style, Value, cut};
use crate::say;

/// A program whose command line is read here.
#[derive(Debug)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// Its options, without those that every program has: `--help`, `--version`, `--log-level`.
    pub options: &'static [Opt<'static>],
    /// What `--help` shows.
    pub help: &'static str,
    /// What `--version` shows after the name.
    pub version: &'static str,
}

/// The options of every program.
const COMMON: [Opt<'static>; 3] =
    [Opt::value("log-level", "LEVEL"), Opt::flag("help").short('h'), Opt::flag("version").short('V')];

/// The values of `--log-level`.
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// The exit status for a wrong command line.
const EXIT_USAGE: i32 = 2;

/// A command line that was read.
#[derive(Debug, Default)]
pub struct Line {
    /// The options, in order.
    options: Vec<(&'static str, Option<OsString>)>,
    /// The words that are no options.
    pub words: Vec<OsString>,
}

/// Why the program has nothing to do after reading its command line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Wrong {
    /// No error: help was asked for.
    #[error("help")]
    Help,
    /// No error: the version was asked for.
    #[error("version")]
    Version,
    /// A word looks like an option and is none.
    #[error("unexpected argument '{0}' found")]
    Unknown(String),
    /// A word too many.
    #[error("unexpected argument '{0}' found")]
    Word(String),
    /// An option without its value.
    #[error("a value is required for '--{0}' but none was supplied")]
    NoValue(&'static str),
    /// A value that the option does not accept.
    #[error("invalid value '{value}' for '--{option}': {why}")]
    Value {
        /// The option, with the word for its value in the help.
        option: String,
        /// The value.
        value: String,
        /// The reason.
        why: String,
    },
    /// Two options that exclude each other.
    #[error("the argument '--{0}' cannot be used with '--{1}'")]
    Both(&'static str, &'static str),
    /// Too few words.
    #[error("{0}")]
    Missing(&'static str),
}

impl Program {
    /// Reads the arguments, the program's own name first.
    ///
    /// # Errors
    /// Every case in which the program is to do nothing else, help and version included.
    pub fn read(&'static self, args: Vec<OsString>) -> Result<Line, Wrong> {
        // The style for a program without a C namesake.
        const USUAL: Style = Style { program: "", stops_at_a_word: false, theirs: &[] };
        let options: Vec<Opt<'static>> = self.options.iter().chain(&COMMON).copied().collect();
        let style = Style::of(self.name).unwrap_or(&USUAL);
        let Cut { options: said, words } = cut(&options, style, args.into_iter().skip(1));
        let mut line = Line { options: Vec::new(), words };
        for said in said {
            match said {
                Said::Strange(word) => return Err(Wrong::Unknown(shown(&word))),
                Said::Known(Opt { long: Some("help"), .. }, _) => return Err(Wrong::Help),
                Said::Known(Opt { long: Some("version"), .. }, _) => return Err(Wrong::Version),
                Said::Known(option, value) => {
                    let name = option.long.unwrap_or_default();
                    if matches!(option.value, Value::Needed(_)) && value.is_none() {
                        return Err(Wrong::NoValue(name));
                    }
                    let known = |level: &OsString| LEVELS.iter().any(|known| *known == level.as_os_str());
                    if let Some(level) = value.as_ref().filter(|level| name == "log-level" && !known(level)) {
                        return Err(self.refuses(name, level, format!("one of {}", LEVELS.join(", "))));
                    }
                    line.options.push((name, value));
                }
            }
        }
        Ok(line)
    }

    /// The level of `--log-level`, in a command line that was read.
    #[must_use]
    pub fn log_level(&'static self, args: &[OsString]) -> Option<String> {
        self.read(args.to_vec()).ok()?.text("log-level")
    }

    /// The value of an option, or of a variable, as a number or another type.
    ///
    /// # Errors
    /// The value is not of this type.
    pub fn parsed<T: FromStr<Err: Display>>(
        &self,
        line: &Line,
        option: &str,
        variable: Option<&str>,
    ) -> Result<Option<T>, Wrong> {
        let mut said = line.all(option);
        if said.is_empty() {
            said.extend(variable.and_then(std::env::var_os));
        }
        // The last value counts, but the others must be valid too.
        said.iter().try_fold(None, |_, said| {
            let value = said.to_str().ok_or_else(|| self.refuses(option, said, "no text"))?;
            value.parse().map(Some).map_err(|error| self.refuses(option, said, error))
        })
    }

    /// A path: from an option, else from a variable, else the given default.
    ///
    /// # Errors
    /// It is empty.
    pub fn path(
        &self,
        line: &Line,
        option: &'static str,
        variable: &str,
        otherwise: &str,
    ) -> Result<PathBuf, Wrong> {
        let mut said = line.all(option);
        if said.is_empty() {
            said.push(std::env::var_os(variable).unwrap_or_else(|| otherwise.into()));
        }
        let empty = said.iter().any(|path| path.is_empty());
        said.pop().filter(|_| !empty).map(PathBuf::from).ok_or(Wrong::NoValue(option))
    }

    /// The error for a value that an option does not accept.
    #[must_use]
    pub fn refuses(&self, option: &str, value: &OsStr, why: impl Display) -> Wrong {
        let known = self.options.iter().chain(&COMMON).find(|known| known.long == Some(option));
        let option = match known.map(|known| known.value) {
            Some(Value::Needed(name)) => format!("{option} <{name}>"),
            _ => option.to_owned(),
        };
        Wrong::Value { option, value: shown(value), why: why.to_string() }
    }

    /// Shows what there is to show. Returns the exit status for it.
    #[must_use]
    pub fn explain(&self, wrong: &Wrong) -> i32 {
        match wrong {
            Wrong::Help => say::output(self.help.trim_end()),
            Wrong::Version => say::output(format_args!("{} {}", self.name, self.version)),
            _ => {
                say::error(format_args!("{}: {wrong} (see {} --help)", self.name, self.name));
                return EXIT_USAGE;
            }
        }
        0
    }
}

impl Line {
    /// How often an option was given.
    #[must_use]
    pub fn count(&self, option: &str) -> usize {
        self.options.iter().filter(|(name, _)| *name == option).count()
    }

    /// Whether an option was given.
    #[must_use]
    pub fn is_set(&self, option: &str) -> bool {
        self.count(option) > 0
    }

    /// The last value of an option.
    #[must_use]
    pub fn last(&self, option: &str) -> Option<&OsStr> {
        let said = self.options.iter().rev().find(|(name, _)| *name == option)?;
        said.1.as_deref()
    }

    /// The last value of an option, if it is text.
    #[must_use]
    pub fn text(&self, option: &str) -> Option<String> {
        self.last(option)?.to_str().map(str::to_owned)
    }

    /// All values of an option.
    #[must_use]
    pub fn all(&self, option: &str) -> Vec<OsString> {
        let of_it = self.options.iter().filter(|(name, _)| *name == option);
        of_it.filter_map(|(_, value)| value.clone()).collect()
    }

    /// Which of two options that cancel each other was given last: `true` for the first.
    #[must_use]
    pub fn either(&self, on: &str, off: &str) -> Option<bool> {
        let last = self.options.iter().rev().find(|(name, _)| *name == on || *name == off);
        last.map(|(name, _)| *name == on)
    }
}

/// A word of the command line, made safe for an error message.
fn shown(word: &OsStr) -> String {
    String::from_utf8_lossy(word.as_bytes()).escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    static PROGRAM: Program = Program {
        name: "qrexec-client-vm",
        options: &[Opt::flag("splice"), Opt::value("number", "N").short('n'), Opt::optional("old")],
        help: "Help.\n",
        version: "1",
    };

    fn read(args: &[&str]) -> Result<Line, Wrong> {
        PROGRAM.read(std::iter::once(&"x").chain(args).map(OsString::from).collect())
    }

    #[test]
    fn options_and_words() {
        let line = read(&["--spl", "-n1", "-n", "2", "--old=x", "--old", "word", "--splice"]).unwrap();
        assert_eq!((line.count("splice"), line.count("number")), (1, 2));
        assert_eq!(PROGRAM.parsed(&line, "number", None), Ok(Some(2_u8)));
        assert_eq!((line.is_set("old"), line.last("old")), (true, None));
        assert_eq!(line.words, ["word", "--splice"]);
        assert_eq!((line.either("number", "splice"), line.either("log-level", "x")), (Some(true), None));
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        for (args, message) in [
            (&["--bogus"][..], "unexpected argument '--bogus' found"),
            (&["-\nz"], "unexpected argument '-\\nz' found"),
            (&["--number"], "a value is required for '--number' but none was supplied"),
            (&["--splice=1"], "unexpected argument '--splice=1' found"),
            (
                &["--log-level=loud"],
                "invalid value 'loud' for '--log-level <LEVEL>': one of error, warn, info, debug, trace",
            ),
            (&["--help", "--bogus"], "help"),
            (&["-V"], "version"),
        ] {
            assert_eq!(read(args).unwrap_err().to_string(), message);
        }
        let line = read(&["-nx"]).unwrap();
        let wrong = PROGRAM.parsed::<u8>(&line, "number", None).unwrap_err();
        assert_eq!(wrong.to_string(), "invalid value 'x' for '--number <N>': invalid digit found in string");
    }
}
