//! A bound on what a program that runs for months writes to its log, whatever others make it say.
//!
//! Each source has a bucket of its own ([`Buckets`]), which it shares with nobody: a flood of calls costs a short burst
//! of lines, then a trickle that says how many are missing, and takes no line of anybody else's. Lines for those who
//! search (`debug` and below) are not counted: somebody asked for them. A file has a largest size besides.

use std::io::{self, Write};
use std::time::Instant;

use tracing::Level;

use super::buckets::{Buckets, Verdict};

/// The size from which on nothing more is written to a file. Whoever rotates logs does it long before.
const LARGEST: u64 = 64 << 20;

/// Writes lines to stderr, no more than the buckets allow.
#[derive(Debug)]
pub(super) struct Limited {
    start: Instant,
    buckets: Buckets,
    /// Whether lines begin with the journal's priority.
    journal: bool,
}

impl Limited {
    pub(super) fn new(journal: bool) -> Self {
        Self { start: Instant::now(), buckets: Buckets::new(), journal }
    }

    /// Writes a line of this level in one piece, unless there were too many.
    pub(super) fn write(&self, level: Level, line: &str) -> io::Result<()> {
        let size = super::stderr_file();
        if size.is_some_and(|size| size >= LARGEST) {
            return Ok(());
        }
        let verdict = if level > Level::INFO { Verdict::Write } else { self.verdict() };
        let before = match verdict {
            Verdict::Write => String::new(),
            Verdict::WriteAfter(dropped) => self.notice(&missing(dropped)),
            Verdict::Drop => return Ok(()),
        };
        let mut text = format!("{before}{line}");
        if size.is_some_and(|size| size.saturating_add(text.len() as u64) >= LARGEST) {
            text.push_str(&self.notice("this log is full: nothing more is written until it is rotated"));
        }
        io::stderr().write_all(text.as_bytes())
    }

    fn verdict(&self) -> Verdict {
        engine::log_source::source(|source| self.buckets.line(source, self.start.elapsed()))
    }

    fn notice(&self, text: &str) -> String {
        format!("{}{text}\n", super::beginning(&Level::WARN, self.journal, true))
    }
}

fn missing(dropped: u64) -> String {
    engine::log_source::source(|source| match source {
        "" => format!("{dropped} log lines were suppressed: there were too many"),
        source => {
            let source = wire::escape::Escaped::new(source);
            format!("{dropped} log lines about {source} were suppressed: there were too many")
        }
    })
}
