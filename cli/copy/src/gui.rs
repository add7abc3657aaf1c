//! What file managers run: `qvm-copy-to-vm.gnome`, `qvm-move-to-vm.gnome`, and the same with `.kde`. The copy is a process of its
//! own, `qvm-copy` or `qvm-move`, confined as always; this one shows how far it is, ends it when the person says so, and
//! shows what it had to say.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use engine::process::{begin_unblocked, own_executable};
use engine::say;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use crate::dialog::{Bar, Desktop, complain};
use crate::progress::{ALL_SENT, DIALOG, KIND};

/// The exit status of a copy that the person has ended.
const CANCELLED: i32 = 32;
/// Most of what the copy says that is kept.
const MOST: usize = 64 << 10;
/// A dialog is told at most so often.
const SELDOM: Duration = Duration::from_millis(200);

/// The program; its own name decides which.
pub fn main(args: Vec<OsString>) -> i32 {
    let mut words = args.into_iter();
    let called = words.next().unwrap_or_default();
    let name = Path::new(&called).file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let (moves, desktop) = match name.as_str() {
        "qvm-move-to-vm.gnome" => (true, Desktop::Gnome),
        "qvm-move-to-vm.kde" => (true, Desktop::Kde),
        "qvm-copy-to-vm.kde" => (false, Desktop::Kde),
        _ => (false, Desktop::Gnome),
    };
    let copied =
        Copying::start(if moves { "qvm-move" } else { "qvm-copy" }, words).and_then(|mut copying| {
            let text = if moves { "Moving files..." } else { "Copying files..." };
            let ended = copying.watch(desktop, text);
            copying.bar.close();
            ended.map(|status| (status, copying.said))
        });
    match copied {
        Ok((Some(status), said)) => {
            let status = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            if status != 0 {
                complain(desktop, &told(moves, &said));
            }
            status
        }
        Ok((None, _)) => CANCELLED,
        Err(error) => {
            say::error(format_args!("{name}: {error}"));
            complain(desktop, &told(moves, error.to_string().as_bytes()));
            1
        }
    }
}

fn told(moves: bool, said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let what = if moves { "Moving" } else { "Copying" };
    match text.trim() {
        "" => format!("{what} files to the other qube failed."),
        text => format!("{what} files to the other qube failed:\n\n{text}"),
    }
}

/// A copy under way.
struct Copying {
    child: Child,
    bar: Bar,
    /// What it has said on stderr, and what it wrote on stdout that is not about its progress.
    said: Vec<u8>,
    /// A line of its stdout that is not complete.
    line: Vec<u8>,
    told: Option<Instant>,
}

impl Copying {
    fn start(command: &str, files: impl Iterator<Item = OsString>) -> io::Result<Self> {
        let mut child = Command::new(own_executable());
        child.arg0(command).args(files).env(KIND, DIALOG);
        child.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        begin_unblocked(&mut child);
        let child = child.spawn()?;
        Ok(Self { child, bar: Bar::Nobody, said: Vec::new(), line: Vec::new(), told: None })
    }

    /// Shows what it says until it ends: its status. `None`: the person has ended it.
    fn watch(&mut self, desktop: Desktop, text: &str) -> io::Result<Option<ExitStatus>> {
        let (mut progress, mut errors) = (self.child.stdout.take(), self.child.stderr.take());
        let mut bytes = [0; 4096];
        while progress.is_some() || errors.is_some() {
            let [progressed, complained, ended] = wait([
                progress.as_ref().map(AsFd::as_fd),
                errors.as_ref().map(AsFd::as_fd),
                self.bar.watched(),
            ])?;
            if complained && let Some(from) = &mut errors {
                let len = from.read(&mut bytes)?;
                if len == 0 {
                    errors = None;
                }
                self.complained(bytes.get(..len).unwrap_or_default());
            }
            let mut goes_on = !ended;
            if progressed && let Some(from) = &mut progress {
                let len = from.read(&mut bytes)?;
                if len == 0 {
                    progress = None;
                }
                goes_on &= self.progressed(bytes.get(..len).unwrap_or_default(), desktop, text);
            }
            if !goes_on {
                self.cancel()?;
                return Ok(None);
            }
        }
        self.child.wait().map(Some)
    }

    /// Ends it where it stands. What was confirmed before is there, and what was not is nowhere removed.
    fn cancel(&mut self) -> io::Result<()> {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It is not waited for before, so nobody else has its number.
            kill_process(pid, Signal::TERM)?;
        }
        self.child.wait().map(drop)
    }

    fn complained(&mut self, bytes: &[u8]) {
        let _ = rustix::io::write(rustix::stdio::stderr(), bytes);
        let room = MOST.saturating_sub(self.said.len()).min(bytes.len());
        self.said.extend_from_slice(bytes.get(..room).unwrap_or_default());
    }

    /// Takes lines about the progress; whether to go on.
    fn progressed(&mut self, bytes: &[u8], desktop: Desktop, text: &str) -> bool {
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            match Progressed::read(&line) {
                Some(how) if !self.show(how, desktop, text) => return false,
                Some(_) => {}
                None => self.complained(&[&line[..], b"\n"].concat()),
            }
        }
        true
    }

    fn show(&mut self, how: Progressed, desktop: Desktop, text: &str) -> bool {
        let percent = match how {
            Progressed::Sent(percent) => percent,
            Progressed::All => {
                self.bar.say("Waiting until the other qube has written it to its disk...");
                return true;
            }
        };
        let Some(told) = self.told else {
            self.bar = Bar::open(desktop, text);
            self.told = Some(Instant::now());
            return true;
        };
        if told.elapsed() < SELDOM {
            return true;
        }
        self.told = Some(Instant::now());
        self.bar.show(percent)
    }
}

/// Waits until one of these can be read, or has an error; which of them.
fn wait<const N: usize>(streams: [Option<BorrowedFd<'_>>; N]) -> io::Result<[bool; N]> {
    let of = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
    let mut fds: Vec<PollFd<'_>> = streams.iter().flatten().copied().map(of).collect();
    match poll(&mut fds, None) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let mut came = fds.iter().map(|fd| !fd.revents().is_empty());
    Ok(streams.map(|stream| stream.is_some() && came.next().unwrap_or(false)))
}

/// What the copy says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progressed {
    /// So many hundredths are sent.
    Sent(u64),
    /// All is sent, and nothing is confirmed.
    All,
}

impl Progressed {
    fn read(line: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?;
        if line == ALL_SENT {
            return Some(Self::All);
        }
        let (sent, total) = line.split_once(' ')?;
        let (sent, total) = (sent.parse::<u64>().ok()?, total.parse::<u64>().ok()?);
        let hundredths = u128::from(sent) * 100 / u128::from(total.max(1));
        Some(Self::Sent(u64::try_from(hundredths).unwrap_or(100).min(100)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_of_its_form_are_progress() {
        assert_eq!(Progressed::read(b"0 0"), Some(Progressed::Sent(0)));
        assert_eq!(Progressed::read(b"1 3"), Some(Progressed::Sent(33)));
        assert_eq!(Progressed::read(b"18446744073709551615 1"), Some(Progressed::Sent(100)));
        assert_eq!(Progressed::read(ALL_SENT.as_bytes()), Some(Progressed::All));
        for other in [&b""[..], b"usage: qvm-copy", b"1", b"-1 3", b"1 2 3", b"\xff 1"] {
            assert_eq!(Progressed::read(other), None);
        }
    }
}
