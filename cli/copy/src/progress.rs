//! How far a copy is, for whoever watches.

use std::fs::File;
use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use engine::say;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Upstream's senders tell after so many bytes.
const STEP: u64 = 15_000_000;
/// Lines in a log or a file come at most so often.
const SELDOM: Duration = Duration::from_secs(10);

/// The variable that says who watches.
pub(crate) const KIND: &str = "PROGRESS_TYPE";
/// What it is for a `qvm-copy` whose parent shows a dialog: lines `SENT TOTAL` on stdout.
pub(crate) const DIALOG: &str = "dialog";
/// The line for it that all is sent.
pub(crate) const ALL_SENT: &str = "sent";
/// Such lines come at most so often.
const OFTEN: Duration = Duration::from_millis(100);

/// Who watches.
#[derive(Debug)]
enum Watcher {
    Nobody,
    /// A person at a terminal.
    Bar(ProgressBar),
    /// A file or a log on stderr.
    Lines(Instant),
    /// A program that reads the number of bytes.
    Program(File),
    /// One that shows a dialog, and when it was told.
    Dialog(Instant),
}

/// Tells a watcher how far it is.
#[derive(Debug)]
pub struct Progress {
    watcher: Watcher,
    total: u64,
    sent: u64,
    told: u64,
}

impl Progress {
    /// As the environment says: `PROGRESS_TYPE` `console` or `gui`, `FILECOPY_TOTAL_BYTES`, `SAVED_FD_1`.
    pub fn from_environment() -> Self {
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let total =
            number("FILECOPY_TOTAL_BYTES").or_else(|| number("FILECOPY_TOTAL_SIZE")?.checked_mul(1024));
        let watcher = match std::env::var(KIND).as_deref() {
            Ok("console") => total.map_or(Watcher::Nobody, Self::person),
            Ok("gui") => {
                let path = number("SAVED_FD_1").map(|fd| format!("/proc/self/fd/{fd}"));
                let file = path.and_then(|path| File::options().write(true).open(path).ok());
                file.map_or(Watcher::Nobody, Watcher::Program)
            }
            _ => Watcher::Nobody,
        };
        Self { watcher, total: total.unwrap_or(0), sent: 0, told: 0 }
    }

    /// Tells nobody.
    pub const fn silent() -> Self {
        Self { watcher: Watcher::Nobody, total: 0, sent: 0, told: 0 }
    }

    /// For a person who waits for so many bytes.
    pub fn console(total: u64) -> Self {
        Self { watcher: Self::person(total), total, sent: 0, told: 0 }
    }

    /// For a person before a terminal or a dialog, as the environment says.
    pub fn of_command(total: u64) -> Self {
        if std::env::var(KIND).as_deref() != Ok(DIALOG) {
            return Self::console(total);
        }
        say::output(format_args!("0 {total}"));
        Self { watcher: Watcher::Dialog(Instant::now()), total, sent: 0, told: 0 }
    }

    /// Whether what went well needs no words: a dialog closes then.
    pub const fn is_dialog(&self) -> bool {
        matches!(self.watcher, Watcher::Dialog(_))
    }

    fn person(total: u64) -> Watcher {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        if dumb || !stderr().is_terminal() {
            return Watcher::Lines(Instant::now());
        }
        // At most ten times a second: a bar is for people.
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
        let form = "{wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(form) {
            bar.set_style(style);
        }
        Watcher::Bar(bar)
    }

    /// So many more bytes of files are on their way. Whether to go on.
    pub fn sent(&mut self, bytes: u64) -> bool {
        self.sent = self.sent.saturating_add(bytes);
        let due = self.sent.saturating_sub(self.told) >= STEP;
        match &mut self.watcher {
            Watcher::Nobody => true,
            Watcher::Bar(bar) => {
                bar.set_position(self.sent);
                true
            }
            Watcher::Lines(last) if due => {
                self.told = self.sent;
                if last.elapsed() >= SELDOM {
                    *last = Instant::now();
                    say::error(format_args!("sent {}/{} KB", kib(self.sent), kib(self.total)));
                }
                true
            }
            Watcher::Program(file) if due => {
                self.told = self.sent;
                writeln!(file, "{}", self.sent).is_ok()
            }
            Watcher::Dialog(last) if last.elapsed() >= OFTEN => {
                *last = Instant::now();
                say::output(format_args!("{} {}", self.sent, self.total));
                true
            }
            Watcher::Lines(_) | Watcher::Program(_) | Watcher::Dialog(_) => true,
        }
    }

    /// Everything is on its way, but nothing is confirmed.
    pub fn all_sent(&mut self) {
        match &mut self.watcher {
            Watcher::Nobody => {}
            Watcher::Bar(bar) => bar.set_position(self.sent),
            Watcher::Lines(_) => say::error(format_args!("sent {}/{} KB", kib(self.sent), kib(self.total))),
            Watcher::Program(file) => drop(writeln!(file, "{}", self.sent)),
            Watcher::Dialog(_) => say::output(ALL_SENT),
        }
    }

    /// A line for the person, beside the bar.
    pub fn say(&self, line: &str) {
        match &self.watcher {
            Watcher::Bar(bar) if !bar.is_hidden() => bar.suspend(|| say::error(line)),
            _ => say::error(line),
        }
    }

    /// Takes the bar away.
    pub fn done(&mut self) {
        if let Watcher::Bar(bar) = &self.watcher {
            bar.finish_and_clear();
        }
    }

    /// Whether a person watches.
    pub const fn is_watched(&self) -> bool {
        matches!(self.watcher, Watcher::Bar(_) | Watcher::Lines(_) | Watcher::Dialog(_))
    }
}

const fn kib(bytes: u64) -> u64 {
    bytes.div_ceil(1024)
}
