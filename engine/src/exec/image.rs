//! What kind of file it is that the kernel did not execute, or might not execute: judged by its first bytes.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// How many bytes are looked at: as many as shells look at.
const HEAD: usize = 80;

/// What every ELF file begins with.
const ELF: &[u8] = b"\x7fELF";

/// Fails for a file that is no text: a shell would execute the bytes of a program, for another machine for example, as
/// commands.
///
/// # Errors
/// `ENOEXEC`, or the file cannot be read.
pub(super) fn check_text(path: &Path) -> io::Result<()> {
    if is_binary(&head(path)?) { Err(Errno::NOEXEC.into()) } else { Ok(()) }
}

/// Whether the kernel must decide about this file, and no shell: it is no text, and no program that this machine
/// certainly executes.
pub(super) fn is_odd(path: &Path) -> bool {
    // If this process may not read the file, the user's shell cannot read it for commands either.
    head(path).is_ok_and(|bytes| is_binary(&bytes) && !is_native(path, &bytes))
}

/// Whether there is a NUL in the first line, or ELF's magic number.
fn is_binary(head: &[u8]) -> bool {
    head.starts_with(ELF) || head.split(|byte| *byte == b'\n').next().is_some_and(|line| line.contains(&0))
}

/// The first bytes of a file.
fn head(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let mut bytes = Vec::with_capacity(HEAD);
    file.take(HEAD as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The interpreter or loader of a file that exists. If the kernel says that a file is missing, it means this one.
pub(super) fn interpreter(path: &Path) -> Option<String> {
    let head = head(path).ok()?;
    let Some(line) = head.strip_prefix(b"#!") else {
        return head
            .starts_with(ELF)
            .then(|| "(the loader of the libraries that it is linked with)".to_owned());
    };
    let line = line.split(|byte| *byte == b'\n').next()?.trim_ascii();
    let word = line.split(u8::is_ascii_whitespace).next()?;
    Some(wire::escape::Escaped::new(word).to_string())
}

/// Whether these are the first bytes of a complete ELF program for this program's kind of machine.
fn is_native(path: &Path, head: &[u8]) -> bool {
    let Ok(own) = self::head(Path::new("/proc/self/exe")) else { return false };
    // The class and byte order, and the machine.
    let same = [4..6, 18..20].iter().all(|place| head.get(place.clone()) == own.get(place.clone()));
    let Some(half) = head.get(16..18) else { return false };
    let is_program = matches!(half, [2 | 3, 0] | [0, 2 | 3]);
    same && is_program && is_whole(path, head)
}

/// Whether the table of segments is inside the file.
fn is_whole(path: &Path, head: &[u8]) -> bool {
    let word = |at: usize| head.get(at..at + 2).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
    let (table, sizes) = match head.get(4) {
        Some(2) => (head.get(32..40).and_then(|b| b.try_into().ok()).map(u64::from_ne_bytes), 54),
        _ => (head.get(28..32).and_then(|b| b.try_into().ok()).map(|b| u32::from_ne_bytes(b).into()), 42),
    };
    let (Some(table), Some(size), Some(count)) = (table, word(sizes), word(sizes + 2)) else { return false };
    let end = table.checked_add(u64::from(size) * u64::from(count));
    let last = end.and_then(|end| end.checked_sub(1));
    // Only the table must be complete: if the segments are not, the kernel and the program have to deal with it.
    count > 0 && last.is_some_and(|last| has_byte(path, last))
}

fn has_byte(path: &Path, at: u64) -> bool {
    File::open(path).and_then(|file| file.read_at(&mut [0], at)).is_ok_and(|count| count == 1)
}

/// The arguments that run `path` as a text for the shell.
pub(super) fn by_shell(path: &Path) -> io::Result<Vec<CString>> {
    check_text(path)?;
    Ok(vec![super::argv::SHELL.to_owned(), super::argv::c_path(path)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), bytes).expect("write");
        file
    }

    #[test]
    fn what_a_shell_may_be_given() {
        let far = [&[b'x'; HEAD][..], b"\0"].concat();
        for text in [&b"echo hello\n"[..], b"", b"one line\nand a \0 behind it", b"#!/bin/sh\n\0", &far] {
            assert!(check_text(file(text).path()).is_ok(), "{text:?}");
        }
        let near = [&[b'x'; HEAD - 1][..], b"\0\n"].concat();
        for binary in [&b"\0"[..], b"\x7fELF\n", b"a\0b\n", &near] {
            let error = check_text(file(binary).path()).expect_err("no text");
            assert_eq!(error.raw_os_error(), Some(Errno::NOEXEC.raw_os_error()), "{binary:?}");
        }
        assert!(check_text(Path::new("/no/such/file")).is_err());
    }

    #[test]
    fn what_starts_a_file_is_in_its_first_line() {
        let named = |text: &[u8]| interpreter(file(text).path());
        assert_eq!(named(b"#! /no/such -x\necho\n").as_deref(), Some("/no/such"));
        assert_eq!(named(b"#!/no/\x1bsuch").as_deref(), Some("/no/\\x1bsuch"));
        assert!(named(b"\x7fELF").is_some_and(|what| what.contains("loader")));
        assert_eq!(named(b"echo\n"), None);
        assert_eq!(interpreter(Path::new("/no/such/file")), None);
    }

    #[test]
    fn programs_of_this_machine_are_nothing_odd() {
        let own = std::fs::read("/proc/self/exe").expect("this program");
        assert!(!is_odd(Path::new("/proc/self/exe")) && !is_odd(Path::new("/bin/sh")));
        assert!(!is_odd(file(b"#!/bin/sh\n").path()) && !is_odd(file(b"text\n").path()));
        let changed = |at: usize, to: u8| {
            let mut bytes = own.get(..4096).expect("more than a page").to_vec();
            *bytes.get_mut(at).expect("inside") = to;
            file(&bytes)
        };
        assert!(!is_odd(changed(0, 0x7f).path()), "its first page has the table");
        assert!(is_odd(changed(18, 0xfe).path()), "another machine");
        assert!(is_odd(changed(4, 9).path()), "another class");
        assert!(is_odd(changed(16, 4).path()), "a core dump");
        assert!(is_odd(file(own.get(..100).expect("bytes")).path()), "cut short");
        assert!(is_odd(file(b"MZ\0\0").path()));
    }
}
