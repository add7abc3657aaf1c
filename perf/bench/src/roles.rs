//! The programs at both ends of a measured call, played by this executable so that no foreign one is needed.
//!
//! A role is asked for as the first argument, `__source 1048576`, or, since a service has only one, with its own
//! arguments behind plus signs: `__source+1048576`. A role that has moved its bytes says so and then waits for the end
//! of its input: until then the processes in between stay, and what they have used can be read.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::thread;

use engine::say;
use engine::step::now;
use usb_sim::{Kind, Machine, Medium, hand_over, pattern, run_controller};

use super::report::{Report, Span};

/// Begins the name of every role.
const PREFIX: &str = "__";

/// Bytes of one write of a source.
const PIECE: usize = 128 << 10;

/// Bytes of a checked source's block: a prime, so that a displacement by a whole number of pages or rings shows.
const CHECKED_PIECE: usize = 131_071;

/// Bytes that a sink takes at once, at most.
const GULP: usize = 256 << 10;

/// USB devices that are there to be used.
pub(super) const DEVICES: [&str; 2] = ["stick", "camera"];

/// The size of a stick.
const STICK: usize = 16 << 20;

/// Bytes that a relay passes on at once, at most.
const RELAYED: usize = 64 << 10;

/// What a role is asked to do with its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    /// How many there are.
    pub(super) bytes: u64,
    /// Whether the sink compares each of them: slower, so such a run is not a measurement.
    pub(super) checked: bool,
}

impl Load {
    /// As the arguments of a role, or as a part of the argument of a service.
    fn words(self) -> [String; 2] {
        [self.bytes.to_string(), if self.checked { "checked" } else { "plain" }.to_owned()]
    }

    fn parse(words: &[String]) -> Option<Self> {
        let [bytes, mode] = words else { return None };
        let checked = match mode.as_str() {
            "checked" => true,
            "plain" => false,
            _ => return None,
        };
        Some(Self { bytes: bytes.parse().ok()?, checked })
    }

    /// Writes all of it.
    pub(super) fn write_to(self, out: &mut impl Write) -> io::Result<()> {
        self.write_blocks(&self.block(), out)
    }

    fn write_blocks(self, block: &[u8], out: &mut impl Write) -> io::Result<()> {
        let mut left = self.bytes;
        while left > 0 {
            let piece = block.get(..usize::try_from(left).unwrap_or(usize::MAX)).unwrap_or(block);
            out.write_all(piece)?;
            left -= piece.len() as u64;
        }
        Ok(())
    }

    /// The bytes that repeat from the beginning to the end.
    fn block(self) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let length = if self.checked { CHECKED_PIECE } else { PIECE };
        let words = std::iter::from_fn(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            Some(state.to_le_bytes())
        });
        words.flatten().take(length).collect()
    }
}

/// A hidden role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Waits for one byte on stdin, writes its load to stdout, waits for the end of stdin.
    Source(Load),
    /// Reads its load from stdin, then waits for its end.
    Sink(Load),
    /// A sink whose first byte starts a source beside it.
    Duplex(Load),
    /// Returns what comes, at once.
    Echo,
    /// A USB device of this kind, one of [`DEVICES`].
    Device(&'static str),
    /// Copies both ways between the sockets that are its stdin and its stdout.
    Relay,
    /// Ends with code 0.
    True,
}

impl Role {
    /// The words that ask for this role, its name first.
    pub(super) fn words(self) -> Vec<String> {
        let (name, load) = match self {
            Self::Source(load) => ("source", Some(load)),
            Self::Sink(load) => ("sink", Some(load)),
            Self::Duplex(load) => ("duplex", Some(load)),
            Self::Echo => ("echo", None),
            Self::Device(kind) => return vec![format!("{PREFIX}device"), kind.to_owned()],
            Self::Relay => ("relay", None),
            Self::True => ("true", None),
        };
        let name = format!("{PREFIX}{name}");
        std::iter::once(name).chain(load.into_iter().flat_map(Load::words)).collect()
    }

    /// The role that these arguments (without the program's name) ask for. `None`: they are a person's arguments.
    /// `Some(None)`: they ask for a role, but for none that there is.
    pub(super) fn asked(args: &[OsString]) -> Option<Option<Self>> {
        let first = args.first()?.to_str()?;
        if !first.starts_with(PREFIX) {
            return None;
        }
        let words = args.iter().filter_map(|arg| arg.to_str()).flat_map(|arg| arg.split('+'));
        let words: Vec<String> = words.map(str::to_owned).collect();
        let (name, rest) = words.split_first()?;
        Some(match name.strip_prefix(PREFIX) {
            Some("source") => Load::parse(rest).map(Self::Source),
            Some("sink") => Load::parse(rest).map(Self::Sink),
            Some("duplex") => Load::parse(rest).map(Self::Duplex),
            Some("echo") => Some(Self::Echo),
            Some("device") => device_of(rest).map(Self::Device),
            Some("relay") => Some(Self::Relay),
            Some("true") => Some(Self::True),
            _ => None,
        })
    }

    /// Plays the role on standard input, output and error; the exit status.
    pub(super) fn play(self) -> i32 {
        let done = match self {
            Self::Source(load) => source(load),
            Self::Sink(load) => sink(load, || ()),
            Self::Duplex(load) => duplex(load),
            Self::Echo => echo(),
            Self::Device(kind) => device(kind),
            Self::Relay => relay(),
            Self::True => Ok(()),
        };
        match done {
            Ok(()) => 0,
            Err(error) => {
                say::error(format_args!("qrexec-bench: {error}"));
                1
            }
        }
    }
}

fn source(load: Load) -> io::Result<()> {
    let block = load.block();
    Report::Ready.send();
    let mut go = [0];
    unbuffered_stdin()?.read_exact(&mut go)?;
    pour(load, &block)?;
    end_of_input()
}

/// Writes a load to stdout and reports it.
fn pour(load: Load, block: &[u8]) -> io::Result<()> {
    let mut stdout = unbuffered_stdout()?;
    let start = now();
    load.write_blocks(block, &mut stdout)?;
    Report::Source(Span { start, end: now(), bytes: load.bytes }).send();
    Ok(())
}

/// Reads a load from stdin and reports it; calls `at_first` when the first byte is there.
fn sink(load: Load, at_first: impl FnOnce()) -> io::Result<()> {
    let mut stdin = unbuffered_stdin()?;
    let mut buffer = vec![0; GULP];
    let mut check = load.checked.then(|| Check::new(load));
    let mut at_first = Some(at_first);
    let (mut start, mut bytes) = (0, 0);
    Report::Ready.send();
    while bytes < load.bytes {
        let got = stdin.read(&mut buffer)?;
        let Some(piece) = buffer.get(..got).filter(|piece| !piece.is_empty()) else {
            return Err(io::Error::other(format!("only {bytes} bytes of {} came", load.bytes)));
        };
        if let Some(first) = at_first.take() {
            start = now();
            first();
        }
        if let Some(check) = &mut check {
            check.compare(piece)?;
        }
        bytes += got as u64;
    }
    Report::Sink(Span { start, end: now(), bytes }).send();
    end_of_input()
}

fn duplex(load: Load) -> io::Result<()> {
    let block = load.block();
    thread::scope(|scope| {
        let mut poured = None;
        sink(load, || poured = Some(scope.spawn(|| pour(load, &block))))?;
        poured.map_or(Ok(()), |thread| thread.join().unwrap_or_else(|_| Err(io::Error::other("panic"))))
    })
}

fn echo() -> io::Result<()> {
    let (mut stdin, mut stdout) = (unbuffered_stdin()?, unbuffered_stdout()?);
    let mut buffer = [0; 4096];
    Report::Ready.send();
    loop {
        let got = stdin.read(&mut buffer)?;
        match buffer.get(..got) {
            Some(piece) if !piece.is_empty() => stdout.write_all(piece)?,
            _ => return Ok(()),
        }
    }
}

fn device_of(words: &[String]) -> Option<&'static str> {
    DEVICES.into_iter().find(|kind| words.first().is_some_and(|word| word == kind))
}

fn device(kind: &str) -> io::Result<()> {
    let kind = if kind == "camera" { Kind::Camera } else { Kind::Stick(Medium::Memory(pattern(STICK))) };
    hand_over().map_err(io::Error::other)?;
    run_controller(&mut Machine::new(kind, None), unbuffered_stdin()?).map_err(io::Error::other)
}

fn relay() -> io::Result<()> {
    let (here, there) = (unbuffered_stdin()?, unbuffered_stdout()?);
    let (back, forth) = ((there.try_clone()?, here.try_clone()?), (here, there));
    // Either end's end is the end of both, and the process's end closes both.
    let other = thread::spawn(move || pass_on(back));
    let (own, _) = (pass_on(forth), drop(other));
    own
}

fn pass_on((mut from, mut to): (std::fs::File, std::fs::File)) -> io::Result<()> {
    let mut buffer = vec![0; RELAYED];
    loop {
        let got = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error),
        };
        to.write_all(buffer.get(..got).unwrap_or_default())?;
    }
}

/// Waits for the end of stdin; a byte before it is one too many.
fn end_of_input() -> io::Result<()> {
    match unbuffered_stdin()?.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(io::Error::other("more bytes came than were sent")),
    }
}

fn unbuffered_stdin() -> io::Result<std::fs::File> {
    Ok(rustix::io::dup(rustix::stdio::stdin())?.into())
}

fn unbuffered_stdout() -> io::Result<std::fs::File> {
    Ok(rustix::io::dup(rustix::stdio::stdout())?.into())
}

/// Compares what comes with what was sent.
struct Check {
    block: Vec<u8>,
    at: usize,
    seen: u64,
}

impl Check {
    fn new(load: Load) -> Self {
        Self { block: load.block(), at: 0, seen: 0 }
    }

    fn compare(&mut self, mut piece: &[u8]) -> io::Result<()> {
        while !piece.is_empty() {
            let expected = self.block.get(self.at..).unwrap_or_default();
            let length = expected.len().min(piece.len());
            let (head, tail) = piece.split_at(length);
            if !expected.starts_with(head) {
                let (seen, end) = (self.seen, self.seen + length as u64);
                return Err(io::Error::other(format!("a wrong byte between {seen} and {end}")));
            }
            self.seen += length as u64;
            self.at = (self.at + length) % self.block.len();
            piece = tail;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Load = Load { bytes: 300_000, checked: true };

    fn asked(words: &[&str]) -> Option<Option<Role>> {
        Role::asked(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn roles_are_asked_for_in_one_word_or_several() {
        let loaded = [Role::Source(LOAD), Role::Sink(LOAD), Role::Duplex(LOAD)];
        let others = [Role::Echo, Role::True, Role::Relay, Role::Device("stick"), Role::Device("camera")];
        for role in loaded.into_iter().chain(others) {
            let words = role.words();
            assert_eq!(asked(&words.iter().map(String::as_str).collect::<Vec<_>>()), Some(Some(role)));
            assert_eq!(asked(&[&words.join("+")]), Some(Some(role)));
        }
        assert_eq!(asked(&["--help"]), None);
        assert_eq!(asked(&[]), None);
        assert_eq!(asked(&["__source"]), Some(None));
        assert_eq!(asked(&["__nothing"]), Some(None));
    }

    #[test]
    fn a_check_sees_what_is_wrong_lost_or_displaced() {
        let block = LOAD.block();
        let sent: Vec<u8> = block.iter().copied().cycle().take(300_000).collect();
        let compare = |bytes: &[u8]| {
            let mut check = Check::new(LOAD);
            bytes.chunks(4099).try_for_each(|piece| check.compare(piece))
        };
        compare(&sent).unwrap();
        let mut flipped = sent.clone();
        flipped[200_000] ^= 1;
        assert!(compare(&flipped).is_err());
        let lost = [&sent[..4096], &sent[4096 + 65_536..]].concat();
        assert!(compare(&lost).is_err());
    }
}
