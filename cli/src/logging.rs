//! Log lines on stderr: for people with their level in words, for systemd's journal with its priority.
//!
//! Each line is one `write`, so the lines of processes that share a log do not mix. There are no spans: a line says all
//! that is to be said. Small on purpose: every call starts a program that begins here.

mod buckets;
mod limit;

use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::time::SystemTime;

use clap::Command;
use rustix::fs::FileType;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::usage;

/// Names the environment variable that chooses what is logged: `LEVEL` or `TARGET=LEVEL`, several with commas between
/// them; of several targets that fit the longest holds. Where it is not set, `RUST_LOG` counts.
pub const VARIABLE: &str = "QREXEC_LOG";

/// Programs that run on their own: their log says what happens, that of others what went wrong.
const RESIDENTS: [&str; 5] =
    ["qrexec-agent", "qrexec-daemon", "qrexec-fork-server", "qrexec-policy-agent", "qrexec-policy-daemon"];

/// Lets log lines go to stderr: from daemons what happens, from what people type only what went wrong.
/// `asked` is the level behind `--log-level`. Called twice, the first call holds.
pub fn init(program: &str, asked: Option<String>) {
    let resident = RESIDENTS.contains(&program);
    let default = if resident { LevelFilter::INFO } else { LevelFilter::WARN };
    let filter = match asked {
        Some(level) => Filter::parse(&level),
        None => [VARIABLE, "RUST_LOG"].iter().find_map(|name| Filter::parse(&std::env::var(name).ok()?)),
    };
    let filter = filter.unwrap_or_else(|| Filter::only(default));
    let journal = engine::exec::stderr_is_journal();
    let limit = resident.then(|| limit::Limited::new(journal));
    // Not being able to log is no reason not to work.
    let _ = tracing::subscriber::set_global_default(Log { filter, journal, limit });
}

/// What `--log-level` says, in a command line that makes sense to clap; the program itself reads the rest.
pub fn level_of(args: &[OsString], command: impl FnOnce() -> Option<Command>) -> Option<String> {
    if !may_have_a_level(args) {
        return None;
    }
    let matches = engine::getopt::matches(command()?, args.to_vec()).ok()?;
    matches.try_get_one::<String>(usage::LOG_LEVEL).ok().flatten().cloned()
}

/// Most command lines have no `--log-level`, and need not be read twice.
pub(crate) fn may_have_a_level(args: &[OsString]) -> bool {
    args.iter().any(|arg| arg.as_encoded_bytes().starts_with(b"--l"))
}

/// Which lines are written.
#[derive(Debug, PartialEq, Eq)]
struct Filter {
    /// Where no target fits.
    default: LevelFilter,
    /// The longest first.
    targets: Vec<(String, LevelFilter)>,
}

impl Filter {
    fn only(default: LevelFilter) -> Self {
        Self { default, targets: Vec::new() }
    }

    /// `None` if there is nothing in the text, or something that is no filter.
    fn parse(text: &str) -> Option<Self> {
        let mut filter = Self::only(LevelFilter::ERROR);
        let mut found = false;
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            found = true;
            match part.split_once('=') {
                Some((target, level)) => filter.targets.push((target.to_owned(), level.parse().ok()?)),
                None => filter.default = part.parse().ok()?,
            }
        }
        filter.targets.sort_by_key(|(target, _)| std::cmp::Reverse(target.len()));
        found.then_some(filter)
    }

    fn level(&self, target: &str) -> LevelFilter {
        let fits = |name: &str| {
            target.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        self.targets.iter().find(|(name, _)| fits(name)).map_or(self.default, |(_, level)| *level)
    }

    fn most(&self) -> LevelFilter {
        self.targets.iter().map(|(_, level)| *level).fold(self.default, Ord::max)
    }
}

/// Writes events, line by line.
struct Log {
    filter: Filter,
    journal: bool,
    /// For programs that run for months.
    limit: Option<limit::Limited>,
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.filter.level(metadata.target())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.filter.most())
    }

    fn event(&self, event: &Event<'_>) {
        let level = event.metadata().level();
        let mut line = beginning(level, self.journal, self.limit.is_some());
        event.record(&mut Words(&mut line));
        line.push('\n');
        let _ = match &self.limit {
            Some(limit) => limit.write(*level, &line),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// An event in words: what it says, then its values as `name=value`.
struct Words<'a>(&'a mut String);

impl Visit for Words<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

/// What stands in front of a line of this level.
fn beginning(level: &Level, journal: bool, resident: bool) -> String {
    match (journal, resident) {
        (true, _) => format!("<{}>", priority(level)),
        // Nobody but us says when it was.
        (false, true) if stderr_file().is_some() => format!("{} {level:>5} ", now()),
        (false, _) => format!("{level:>5} "),
    }
}

/// The size of the file that stderr is, if it is one. A daemon becomes one with a log file while it runs, and the file
/// grows, so this is asked for each line.
fn stderr_file() -> Option<u64> {
    let stat = rustix::fs::fstat(rustix::stdio::stderr()).ok()?;
    let is_file = FileType::from_raw_mode(stat.st_mode).is_file();
    is_file.then(|| u64::try_from(stat.st_size).unwrap_or_default())
}

/// The time of a line, the same in every time zone: calls are followed from one machine's log to another's.
fn now() -> impl fmt::Display {
    humantime::format_rfc3339_millis(SystemTime::now())
}

/// Syslog's numbers.
fn priority(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::multicall::command_line;
    use crate::usage;

    #[test]
    fn the_level_is_an_option_with_a_value() {
        let level = |args: &[&str]| {
            let words: Vec<OsString> = args.iter().map(OsString::from).collect();
            level_of(&words, || command_line(args[0]))
        };
        assert_eq!(level(&["qrexec-agent", "--log-level", "debug"]).as_deref(), Some("debug"));
        assert_eq!(level(&["qrexec-agent", "-S", "--log-level=warn"]).as_deref(), Some("warn"));
        assert_eq!(level(&["qrexec-agent", "--", "--log-level=warn"]), None);
        assert_eq!(level(&["qrexec-agent", "--log-levels"]), None);
        assert_eq!(level(&["qrexec_client_vm", "--log-level=info", "a", "b"]).as_deref(), Some("info"));
        assert_eq!(level(&["qrexec-client-vm", "a", "b", "/c", "--log-level=warn"]), None);
        assert_eq!(level(&["qrexec-client-vm", "-p", "--log-level=warn", "a", "b"]), None);
        let words = ["lab", "status", "--log-level=warn"].map(OsString::from);
        let command = || usage::complete(Command::new("lab").subcommand(Command::new("status")));
        assert_eq!(level_of(&words, || Some(command())).as_deref(), Some("warn"));
        assert_eq!(level(&["policy.List", "--log-level=warn"]), None);
    }

    #[test]
    fn the_longest_target_holds() {
        let filter = Filter::parse("warn, engine=info,engine::pump=debug,daemon=off").unwrap();
        let levels = ["ring", "engine::link", "engine::pump::turn", "engine::pumps", "daemon"];
        assert_eq!(
            levels.map(|target| filter.level(target)),
            [LevelFilter::WARN, LevelFilter::INFO, LevelFilter::DEBUG, LevelFilter::INFO, LevelFilter::OFF]
        );
        assert_eq!(filter.most(), LevelFilter::DEBUG);
        for nonsense in ["", " ,", "loud", "engine=loud"] {
            assert_eq!(Filter::parse(nonsense), None, "{nonsense:?}");
        }
    }
}
