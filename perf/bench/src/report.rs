//! The lines in which a hidden role tells the benchmark what it has done.
//!
//! They go to standard error, which a call carries beside its data; every line begins with a word that nothing else
//! begins with. Times are nanoseconds of the monotonic clock, which is the same for all processes of a machine.

use std::collections::VecDeque;
use std::fmt;
use std::io::{BufRead, BufReader, Read};

use engine::say;

use cli::failure::Failure;

/// How much of what else was said is kept for an error message, in bytes.
const NOISE_LIMIT: usize = 4096;

/// One report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// The role runs and will do its work when it is told to.
    Ready,
    /// A source has written everything: when it began and ended, and how much that was.
    Source(Span),
    /// A sink has got everything: when the first and the last byte came, and how much that was.
    Sink(Span),
}

/// A piece of work on bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Nanoseconds of the monotonic clock.
    pub(super) start: u64,
    /// Nanoseconds of the monotonic clock.
    pub(super) end: u64,
    /// Bytes written or read.
    pub(super) bytes: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("bench-ready"),
            Self::Source(Span { start, end, bytes }) => write!(f, "bench-source {start} {end} {bytes}"),
            Self::Sink(Span { start, end, bytes }) => write!(f, "bench-sink {start} {end} {bytes}"),
        }
    }
}

impl Report {
    /// Says it, in one write so that the lines of two threads do not mix.
    pub(super) fn send(self) {
        say::error(self);
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let kind = words.next()?;
        let mut number = || words.next()?.parse().ok();
        let mut span = || Some(Span { start: number()?, end: number()?, bytes: number()? });
        match kind {
            "bench-ready" => Some(Self::Ready),
            "bench-source" => span().map(Self::Source),
            "bench-sink" => span().map(Self::Sink),
            _ => None,
        }
    }
}

/// Reads reports, and keeps what else is said.
pub(super) struct Reports<R> {
    input: BufReader<R>,
    waiting: VecDeque<Report>,
    noise: String,
}

impl<R: Read> Reports<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input: BufReader::new(input), waiting: VecDeque::new(), noise: String::new() }
    }

    pub(super) fn ready(&mut self) -> Result<(), Failure> {
        self.find(|report| (report == Report::Ready).then_some(()))
    }

    pub(super) fn source(&mut self) -> Result<Span, Failure> {
        self.find(|report| if let Report::Source(span) = report { Some(span) } else { None })
    }

    pub(super) fn sink(&mut self) -> Result<Span, Failure> {
        self.find(|report| if let Report::Sink(span) = report { Some(span) } else { None })
    }

    /// Everything until the end, as far as it is not a report.
    pub(super) fn rest(mut self) -> String {
        while let Ok(Some(_)) = self.next() {}
        self.noise
    }

    /// The first report that `wanted` takes; others stay for later.
    fn find<T>(&mut self, wanted: impl Fn(Report) -> Option<T>) -> Result<T, Failure> {
        let found = self.waiting.iter().enumerate().find_map(|(at, report)| Some((at, wanted(*report)?)));
        if let Some((at, value)) = found {
            self.waiting.remove(at);
            return Ok(value);
        }
        while let Some(report) = self.next()? {
            match wanted(report) {
                Some(value) => return Ok(value),
                None => self.waiting.push_back(report),
            }
        }
        let said = self.noise.trim();
        Err(Failure::trouble(format!(
            "a call ended too early{}{said}",
            if said.is_empty() { "" } else { ": " }
        )))
    }

    fn next(&mut self) -> Result<Option<Report>, Failure> {
        loop {
            let mut line = Vec::new();
            let read =
                self.input.read_until(b'\n', &mut line).map_err(Failure::during("reading a report"))?;
            if read == 0 {
                return Ok(None);
            }
            let line = String::from_utf8_lossy(&line);
            match Report::parse(&line) {
                Some(report) => return Ok(Some(report)),
                None if self.noise.len() < NOISE_LIMIT => self.noise.push_str(&line),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Span = Span { start: 1, end: 20, bytes: 300 };

    #[test]
    fn reports_are_found_in_any_order_between_other_lines() {
        let text = format!("hello\n{}\n{}\nbench-sink 1 x\n", Report::Sink(SPAN), Report::Ready);
        let mut reports = Reports::new(text.as_bytes());
        reports.ready().unwrap();
        assert_eq!(reports.sink().unwrap(), SPAN);
        let error = reports.source().unwrap_err().message;
        assert!(error.ends_with("hello\nbench-sink 1 x"), "{error}");
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        for report in [Report::Ready, Report::Source(SPAN), Report::Sink(SPAN)] {
            assert_eq!(Report::parse(&report.to_string()), Some(report));
        }
    }
}
