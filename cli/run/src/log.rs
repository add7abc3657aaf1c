//! `qubes.Log`: lines of another qube for this one's log. Each is answered when it has been handed over, so nobody takes a
//! line for kept that is not.

use std::ffi::OsString;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::net::UnixDatagram;

use engine::say;
use wire::escape::Escaped;

const PROGRAM: &str = "qubes.Log";

/// Names the socket of the log where it is another.
const SOCKET_VARIABLE: &str = "QUBES_SYSLOG";
const SOCKET: &str = "/dev/log";

/// Longest line that is kept whole, in bytes.
const LINE: usize = 4096;

/// What stands for the end of a longer one.
const CUT: &str = "...";

/// The priority of a line that names none: information.
const INFO: u8 = 6;

/// The facility of programs of users, in its place.
const FACILITY: u8 = 1 << 3;

/// What answers a line.
const OK: &[u8] = b"OK\n";

/// The service.
pub fn main(_: Vec<OsString>) -> i32 {
    let source = std::env::var_os("QREXEC_REMOTE_DOMAIN").unwrap_or_default();
    let source = source.to_string_lossy();
    match take_lines(io::stdin().lock(), io::stdout(), |priority, text| hand_over(priority, &source, text)) {
        Ok(()) => 0,
        Err(error) => {
            say::error(format_args!("{PROGRAM}: {error}"));
            1
        }
    }
}

fn hand_over(priority: u8, source: &str, text: &str) -> io::Result<()> {
    let path = std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty());
    let socket = UnixDatagram::unbound()?;
    let message = format!("<{}>{PROGRAM}({}): {text}", FACILITY | priority, Escaped::new(source));
    socket.send_to(message.as_bytes(), path.unwrap_or_else(|| SOCKET.into())).map(drop)
}

/// Takes lines up to the end, and answers each that `keep` has taken.
fn take_lines(
    mut from: impl BufRead,
    mut to: impl Write,
    keep: impl Fn(u8, &str) -> io::Result<()>,
) -> io::Result<()> {
    to.write_all(OK)?;
    to.flush()?;
    while let Some(line) = next_line(&mut from)? {
        if line.is_empty() {
            continue;
        }
        let (priority, text) = priority(&line);
        keep(priority, &printable(text))?;
        to.write_all(OK)?;
        to.flush()?;
    }
    Ok(())
}

/// The next line without its end, and no more than one byte too long.
fn next_line(from: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    if from.take(LINE as u64 + 1).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() > LINE {
        skip_line(from)?;
    }
    Ok(Some(line))
}

fn skip_line(from: &mut impl BufRead) -> io::Result<()> {
    loop {
        let have = from.fill_buf()?;
        let end = have.iter().position(|byte| *byte == b'\n');
        let (len, done) = (end.map_or(have.len(), |end| end + 1), end.is_some() || have.is_empty());
        from.consume(len);
        if done {
            return Ok(());
        }
    }
}

/// `<N>` in front of a line is its priority, of which there are eight.
fn priority(line: &[u8]) -> (u8, &[u8]) {
    let named = || {
        let end = line.iter().take(5).position(|byte| *byte == b'>')?;
        let digits = std::str::from_utf8(line.get(1..end)?).ok()?;
        let number: u16 = digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
        Some((u8::try_from(number % 8).ok()?, line.get(end + 1..)?))
    };
    match line.first() {
        Some(b'<') => named().unwrap_or((INFO, line)),
        _ => (INFO, line),
    }
}

fn printable(text: &[u8]) -> String {
    let cut = text.len() > LINE;
    let text = text.get(..LINE).unwrap_or(text);
    let show = |byte: &u8| if matches!(byte, 0x20..=0x7e) { char::from(*byte) } else { '_' };
    let mut shown: String = text.iter().map(show).collect();
    if cut {
        shown.push_str(CUT);
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn served(input: &[u8]) -> (Vec<(u8, String)>, String) {
        let (kept, mut answers) = (RefCell::new(Vec::new()), Vec::new());
        let keep = |priority, text: &str| {
            kept.borrow_mut().push((priority, text.to_owned()));
            Ok(())
        };
        take_lines(io::BufReader::with_capacity(7, input), &mut answers, keep).unwrap();
        (kept.into_inner(), String::from_utf8(answers).unwrap())
    }

    #[test]
    fn each_line_is_answered_and_empty_ones_are_not() {
        let (kept, answers) = served(b"one\n\n<3>two\n<13>three\nlast");
        let wanted =
            [(6, "one"), (3, "two"), (5, "three"), (6, "last")].map(|(p, text)| (p, text.to_owned()));
        assert_eq!((kept.as_slice(), answers.as_str()), (&wanted[..], "OK\nOK\nOK\nOK\nOK\n"));
    }

    #[test]
    fn lines_are_bounded_and_harmless() {
        let long = [&vec![b'x'; 10_000][..], b"\n\x1b[2J\xff\n<x>\n<\n"].concat();
        let (kept, answers) = served(&long);
        let texts: Vec<&str> = kept.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts[0], format!("{}...", "x".repeat(4096)));
        assert_eq!(texts[1..], ["_[2J_", "<x>", "<"]);
        assert_eq!(answers.len(), 15);
        assert_eq!(served(&vec![b'y'; 4096]).0[0].1.len(), 4096);
    }

    #[test]
    fn what_cannot_be_kept_is_not_answered() {
        let mut answers = Vec::new();
        let failed = take_lines(&b"one\ntwo\n"[..], &mut answers, |_, _| Err(io::ErrorKind::NotFound.into()));
        assert!(failed.is_err() && answers == OK);
    }
}
