//! Log lines on stderr: for people with their level in words, for systemd's journal with its priority.

mod limit;

use std::ffi::OsString;
use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::{definitions, usage};

/// Names the environment variable that chooses what is logged, in `tracing`'s own syntax. Where it is not
/// set, `RUST_LOG` counts.
pub const VARIABLE: &str = "QREXEC_LOG";

/// Programs that run on their own: their log says what happens, that of others what went wrong.
const RESIDENTS: [&str; 5] =
    ["qrexec-agent", "qrexec-daemon", "qrexec-fork-server", "qrexec-policy-agent", "qrexec-policy-daemon"];

/// Lets log lines go to stderr: from daemons what happens, from what people type only what went wrong.
/// `args` are the program's, its name first. Called twice, the first call holds.
pub fn init(program: &str, args: &[OsString]) {
    let resident = RESIDENTS.contains(&program);
    let default = if resident { "info" } else { "warn" };
    let asked = level_of(program, args);
    let filter = match asked {
        Some(level) => EnvFilter::try_new(level).ok(),
        None => EnvFilter::try_from_env(VARIABLE).or_else(|_| EnvFilter::try_from_default_env()).ok(),
    };
    let journal = goes_to_journal();
    let writer = if resident {
        BoxMakeWriter::new(limit::Limited::new(journal))
    } else {
        BoxMakeWriter::new(std::io::stderr)
    };
    // A log that is read by a person or goes to a journal has a clock of its own.
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|| EnvFilter::new(default)))
        .with_writer(writer)
        .with_ansi(false)
        .with_target(false)
        .without_time();
    // Not being able to log is no reason not to work.
    let _ = if journal { log.event_format(Journal).try_init() } else { log.try_init() };
}

/// What `--log-level` says, in a command line that makes sense; the program itself reads the rest.
fn level_of(program: &str, args: &[OsString]) -> Option<String> {
    // Most command lines do not have it, and need not be read twice.
    if !args.iter().any(|arg| arg.as_encoded_bytes().starts_with(b"--l")) {
        return None;
    }
    let command = definitions::of(program)?.command;
    let matches = command.try_get_matches_from(args).ok()?;
    matches.try_get_one::<String>(usage::LOG_LEVEL).ok().flatten().cloned()
}

/// Whether our stderr is the stream that systemd has connected to its journal.
fn goes_to_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(rustix::stdio::stderr())
        .is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// `<priority>text`, as the journal takes it from a stream.
struct Journal;

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(event.metadata().level()))?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
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

    #[test]
    fn the_level_is_an_option_with_a_value() {
        let level = |args: &[&str]| {
            let words: Vec<OsString> = args.iter().map(OsString::from).collect();
            level_of(args[0], &words)
        };
        assert_eq!(level(&["qrexec-agent", "--log-level", "debug"]).as_deref(), Some("debug"));
        assert_eq!(level(&["qrexec-agent", "-S", "--log-level=warn"]).as_deref(), Some("warn"));
        assert_eq!(level(&["qrexec-agent", "--", "--log-level=warn"]), None);
        assert_eq!(level(&["qrexec-agent", "--log-levels"]), None);
        assert_eq!(level(&["qrexec_client_vm", "--log-level=info", "a", "b"]).as_deref(), Some("info"));
        assert_eq!(level(&["qrexec-client-vm", "a", "b", "/c", "--log-level=warn"]), None);
        assert_eq!(level(&["qrexec-client-vm", "-p", "--log-level=warn", "a", "b"]), None);
        assert_eq!(level(&["qrexec-lab", "status", "--log-level=warn"]).as_deref(), Some("warn"));
        assert_eq!(level(&["policy.List", "--log-level=warn"]), None);
    }
}
