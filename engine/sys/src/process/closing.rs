//! Many descriptors closed with few system calls.
#![allow(unsafe_code)] // close_range has no safe equivalent.

use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

/// Closes all of these; those with consecutive numbers by one system call. Files that are opened one after the other
/// mostly have such numbers.
pub fn close_all(files: &mut Vec<OwnedFd>) {
    files.sort_unstable_by_key(OwnedFd::as_raw_fd);
    let mut run: Vec<OwnedFd> = Vec::with_capacity(files.len());
    for file in files.drain(..) {
        if run.last().is_some_and(|last| last.as_raw_fd().checked_add(1) != Some(file.as_raw_fd())) {
            close_run(std::mem::take(&mut run));
        }
        run.push(file);
    }
    close_run(run);
}

/// Closes descriptors with consecutive numbers.
fn close_run(run: Vec<OwnedFd>) {
    let (Some(first), Some(last)) = (run.first(), run.last()) else { return };
    if run.len() == 1 {
        return;
    }
    let (first, last) = (first.as_raw_fd(), last.as_raw_fd());
    let numbers: Vec<i32> = run.into_iter().map(IntoRawFd::into_raw_fd).collect();
    // SAFETY: the system call takes three numbers. Each descriptor from `first` to `last` was in `run`, whose numbers are
    // consecutive, and nobody owns one of them any more.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } == 0 {
        return;
    }
    for number in numbers {
        // SAFETY: it was owned by a value of `run`, which gave it up above, and it is still open: the call above fails
        // only if the kernel does not know it, and then it has closed nothing.
        drop(unsafe { OwnedFd::from_raw_fd(number) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// Whether the reader of a pipe has reached its end. If `true` is expected, waits until another test's new process
    /// has closed its copy.
    fn is_closed(reader: &mut std::io::PipeReader, expected: bool) -> bool {
        rustix::io::ioctl_fionbio(&*reader, !expected).unwrap();
        reader.read(&mut [0]).is_ok_and(|len| len == 0)
    }

    #[test]
    fn all_are_closed_and_nothing_between_them_is() {
        let pipes: Vec<_> = (0..40).map(|_| std::io::pipe().unwrap()).collect();
        let (mut readers, mut writers) = (Vec::new(), Vec::new());
        for (reader, writer) in pipes {
            readers.push(reader);
            writers.push(OwnedFd::from(writer));
        }
        // Copies get the lowest free numbers, so some of them are consecutive.
        let copies: Vec<OwnedFd> = writers.iter().map(|fd| fd.try_clone().unwrap()).collect();
        let (mut closed, kept): (Vec<_>, Vec<_>) =
            copies.into_iter().enumerate().partition(|(at, _)| at % 7 != 3);
        closed.reverse();
        close_all(&mut writers);
        assert!(writers.is_empty());
        assert!(readers.iter_mut().all(|reader| !is_closed(reader, false)), "the copies are open");
        close_all(&mut closed.drain(..).map(|(_, fd)| fd).collect());
        for (at, reader) in readers.iter_mut().enumerate() {
            let expected = at % 7 != 3;
            assert_eq!(is_closed(reader, expected), expected, "{at}");
        }
        drop(kept);
        assert!(readers.iter_mut().all(|reader| is_closed(reader, true)));
        close_all(&mut Vec::new());
    }
}
