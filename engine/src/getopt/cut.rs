//! Telling options from other words as `getopt_long` does.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// How the C program with a name reads its command line.
pub(super) struct Style {
    pub(super) program: &'static str,
    /// Options end at the first word that is no option.
    pub(super) stops_at_a_word: bool,
    /// The long options of the C program. An abbreviation that fits exactly one of these means that one, whatever
    /// other options this project's program has.
    pub(super) theirs: &'static [&'static str],
}

const STYLES: &[Style] = &[
    Style {
        program: "qrexec-agent",
        stops_at_a_word: false,
        theirs: &["help", "agent-socket", "fork-server-socket", "no-fork-server"],
    },
    Style {
        program: "qrexec-client",
        stops_at_a_word: false,
        theirs: &["help", "socket-dir", "no-exit-code", "prefix-data", "use-stdin-socket"],
    },
    Style {
        program: "qrexec-client-vm",
        stops_at_a_word: true,
        theirs: &[
            "buffer-size",
            "filter-escape-chars-stdout",
            "filter-escape-chars-stderr",
            "no-filter-escape-chars-stdout",
            "no-filter-escape-chars-stderr",
            "agent-socket",
            "prefix-data",
            "use-stdin-socket",
            "source-qube",
            "help",
        ],
    },
    Style {
        program: "qrexec-daemon",
        stops_at_a_word: false,
        theirs: &["help", "quiet", "socket-dir", "policy-program", "direct", "uuid"],
    },
    Style { program: "qrexec-fork-server", stops_at_a_word: false, theirs: &[] },
];

impl Style {
    pub(super) fn of(program: &str) -> Option<&'static Self> {
        STYLES.iter().find(|style| style.program == program)
    }
}

/// An option, as far as cutting a command line needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opt<'a> {
    pub(super) short: Option<char>,
    pub(super) long: Option<&'a str>,
    pub(super) value: Value<'a>,
}

/// Whether an option has a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Nothing,
    /// Always; this word stands for it in the usage text.
    Needed(&'a str),
    /// Only after a `=`.
    Optional,
}

impl<'a> Opt<'a> {
    /// An option without a value.
    #[must_use]
    pub const fn flag(long: &'a str) -> Self {
        Self { short: None, long: Some(long), value: Value::Nothing }
    }

    /// An option with a value.
    #[must_use]
    pub const fn value(long: &'a str, name: &'a str) -> Self {
        Self { short: None, long: Some(long), value: Value::Needed(name) }
    }

    /// An option whose value may be left out.
    #[must_use]
    pub const fn optional(long: &'a str) -> Self {
        Self { short: None, long: Some(long), value: Value::Optional }
    }

    /// The option with a letter as well.
    #[must_use]
    pub const fn short(self, letter: char) -> Self {
        Self { short: Some(letter), ..self }
    }

    /// The option as a word of a command line.
    pub(super) fn word(&self) -> OsString {
        match (self.long, self.short) {
            (Some(long), _) => format!("--{long}").into(),
            (None, Some(letter)) => format!("-{letter}").into(),
            (None, None) => OsString::new(),
        }
    }
}

/// A command line in pieces.
pub(super) struct Cut<'a> {
    pub(super) options: Vec<Said<'a>>,
    pub(super) words: Vec<OsString>,
}

/// One option of a command line.
pub(super) enum Said<'a> {
    /// An option of the program, with its value if it was given one.
    Known(Opt<'a>, Option<OsString>),
    /// No option of the program, or one without a value that was given one.
    Strange(OsString),
}

/// Splits a command line, without the program's name, into options and other words.
pub(super) fn cut<'a>(
    options: &[Opt<'a>],
    style: &Style,
    mut args: impl Iterator<Item = OsString>,
) -> Cut<'a> {
    let mut found = Cut { options: Vec::new(), words: Vec::new() };
    while let Some(arg) = args.next() {
        match arg.as_bytes() {
            b"--" => break,
            [b'-', b'-', name @ ..] => found.options.push(long(options, style, name, &mut args)),
            [b'-', cluster @ ..] if !cluster.is_empty() => {
                short(options, cluster, &mut args, &mut found.options);
            }
            _ => {
                found.words.push(arg);
                if style.stops_at_a_word {
                    break;
                }
            }
        }
    }
    found.words.extend(args);
    found
}

/// `name` or `name=value`, without the dashes.
fn long<'a>(
    options: &[Opt<'a>],
    style: &Style,
    said: &[u8],
    rest: &mut impl Iterator<Item = OsString>,
) -> Said<'a> {
    let mut parts = said.splitn(2, |&byte| byte == b'=');
    let (name, value) = (parts.next().unwrap_or_default(), parts.next().map(|value| word(&[value])));
    let strange = || Said::Strange(word(&[b"--", said]));
    let Some(option) = find(options, style, name) else { return strange() };
    match (option.value, value) {
        (Value::Nothing, Some(_)) => strange(),
        (Value::Needed(_), None) => Said::Known(option, rest.next()),
        (_, value) => Said::Known(option, value),
    }
}

/// The option that these letters abbreviate, if there is exactly one.
fn find<'a>(options: &[Opt<'a>], style: &Style, said: &[u8]) -> Option<Opt<'a>> {
    let named = || options.iter().filter_map(|option| Some((*option, option.long?)));
    if let Some((exact, _)) = named().find(|(_, name)| name.as_bytes() == said) {
        return Some(exact);
    }
    let begun: Vec<_> = named().filter(|(_, name)| name.as_bytes().starts_with(said)).collect();
    let theirs: Vec<_> = begun.iter().filter(|(_, name)| style.theirs.contains(name)).collect();
    match (theirs.as_slice(), begun.as_slice()) {
        ([(one, _)], _) | ([], [(one, _)]) => Some(*one),
        _ => None,
    }
}

/// Single letters, each an option, up to one that takes the rest as its value.
fn short<'a>(
    options: &[Opt<'a>],
    cluster: &[u8],
    rest: &mut impl Iterator<Item = OsString>,
    found: &mut Vec<Said<'a>>,
) {
    for (place, &letter) in cluster.iter().enumerate() {
        let value = cluster.get(place.saturating_add(1)..).unwrap_or_default();
        let known = options.iter().copied().find(|option| option.short == Some(char::from(letter)));
        let Some(option) = known.filter(|_| letter.is_ascii()) else {
            found.push(Said::Strange(word(&[b"-", cluster.get(place..).unwrap_or_default()])));
            break;
        };
        if option.value == Value::Nothing {
            found.push(Said::Known(option, None));
            continue;
        }
        let value = if value.is_empty() { rest.next() } else { Some(word(&[value])) };
        found.push(Said::Known(option, value));
        break;
    }
}

pub(super) fn word(parts: &[&[u8]]) -> OsString {
    OsString::from_vec(parts.concat())
}
