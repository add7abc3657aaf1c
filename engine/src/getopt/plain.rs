//! Reading a command line without clap, which is a fifth of a small program and of the memory that it touches at its start.
//! clap's definition of the same command line stays, for manual pages and completions; tests hold the two together.

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
    /// What `--version` shows behind the name.
    pub version: &'static str,
}

/// What every program takes.
const COMMON: [Opt<'static>; 3] =
    [Opt::value("log-level", "LEVEL"), Opt::flag("help").short('h'), Opt::flag("version").short('V')];

/// What may stand behind `--log-level`.
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// Exit status for a command line without sense.
const EXIT_USAGE: i32 = 2;

/// What a command line says.
#[derive(Debug, Default)]
pub struct Line {
    /// In the order in which they came.
    options: Vec<(&'static str, Option<OsString>)>,
    /// What is no option.
    pub words: Vec<OsString>,
}

/// Why a command line leaves nothing to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Wrong {
    /// No reason to complain: it asks for help.
    #[error("help")]
    Help,
    /// No reason to complain: it asks for the version.
    #[error("version")]
    Version,
    /// What looks like an option is none.
    #[error("unexpected argument '{0}' found")]
    Unknown(String),
    /// The same of a word.
    #[error("unexpected argument '{0}' found")]
    Word(String),
    /// An option without its value.
    #[error("a value is required for '--{0}' but none was supplied")]
    NoValue(&'static str),
    /// A value that the option does not take.
    #[error("invalid value '{value}' for '--{option}': {why}")]
    Value {
        /// The option, and what stands for its value in the help.
        option: String,
        /// What was given.
        value: String,
        /// What is wrong with it.
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
    /// Whatever leaves nothing to do, help and version included.
    pub fn read(&'static self, args: Vec<OsString>) -> Result<Line, Wrong> {
        // A program that getopt_long does not know is read in its usual way.
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

    /// The level behind `--log-level`, in a command line that makes sense.
    #[must_use]
    pub fn log_level(&'static self, args: &[OsString]) -> Option<String> {
        self.read(args.to_vec()).ok()?.text("log-level")
    }

    /// The value of an option, or of a variable, that has to be a number or the like.
    ///
    /// # Errors
    /// It is none.
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
        // The last one holds, and the others have to make sense.
        said.iter().try_fold(None, |_, said| {
            let value = said.to_str().ok_or_else(|| self.refuses(option, said, "no text"))?;
            value.parse().map(Some).map_err(|error| self.refuses(option, said, error))
        })
    }

    /// A path: of an option, else of a variable, else this one.
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

    /// That an option does not take a value.
    #[must_use]
    pub fn refuses(&self, option: &str, value: &OsStr, why: impl Display) -> Wrong {
        let known = self.options.iter().chain(&COMMON).find(|known| known.long == Some(option));
        let option = match known.map(|known| known.value) {
            Some(Value::Needed(name)) => format!("{option} <{name}>"),
            _ => option.to_owned(),
        };
        Wrong::Value { option, value: shown(value), why: why.to_string() }
    }

    /// Says what there is to say; gives the exit status that goes with it.
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
    /// How often an option was said.
    #[must_use]
    pub fn count(&self, option: &str) -> usize {
        self.options.iter().filter(|(name, _)| *name == option).count()
    }

    /// Whether an option was said.
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

    /// The last value of an option that was checked to be text.
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

    /// Which of two options that undo each other was said last: `true` for the first.
    #[must_use]
    pub fn either(&self, on: &str, off: &str) -> Option<bool> {
        let last = self.options.iter().rev().find(|(name, _)| *name == on || *name == off);
        last.map(|(name, _)| *name == on)
    }
}

/// A word of a command line within a line of ours.
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
