//! What the other machine says to the people of this one, in the link's file `log`. It comes from outside, so it is bounded
//! and steers no terminal.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use cli::failure::Failure;
use wire::escape::filter_terminal;

use crate::beside::beside;
use crate::bytes;
use crate::link::Link;

/// What one session may say.
const PER_SESSION: usize = 16 << 10;
/// Where the log begins anew, with the old one beside it.
const MAX_LOG: u64 = 1 << 20;

/// Adds to the log. One that cannot be written costs no call.
pub(crate) fn add(link: &Link, text: &[u8]) {
    let path = link.file("log");
    if fs::metadata(&path).is_ok_and(|file| file.len() > MAX_LOG) {
        let _ = fs::rename(&path, link.file("log.old"));
    }
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    let _ = file.and_then(|mut file| file.write_all(text));
}

/// Writes into the log what comes from a far command's stderr, beside the call; what is too much is dropped. Fails without a
/// thread to read it: a session whose stderr nobody reads stands still in the end.
pub(crate) fn follow(link: &Link, stderr: OwnedFd) -> Result<(), Failure> {
    let link = link.clone();
    let reader = move || {
        let mut left = PER_SESSION;
        let mut buffer = [0; 4096];
        loop {
            let len = bytes::read(&stderr, &mut buffer).unwrap_or(0);
            if len == 0 {
                return;
            }
            let taken = len.min(left);
            left = left.saturating_sub(taken);
            if let Some(said) = buffer.get_mut(..taken).filter(|said| !said.is_empty()) {
                filter_terminal(said);
                add(&link, said);
            }
        }
    };
    beside(reader).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_bounded_and_steers_no_terminal() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("there")).unwrap();
        let link = Link::open(folder.path(), "there").unwrap();
        let (read, write) = bytes::pipe().unwrap();
        follow(&link, read).unwrap();
        for _ in 0..64 {
            bytes::write(&write, &[0x1b; 4096]).unwrap();
        }
        drop(write);
        let size = || fs::metadata(link.file("log")).map_or(0, |file| file.len());
        while size() < PER_SESSION as u64 {
            std::thread::yield_now();
        }
        assert_eq!(size(), PER_SESSION as u64);
        assert!(fs::read(link.file("log")).unwrap().iter().all(|byte| *byte == b'_'));
        fs::write(link.file("log"), vec![b'x'; (MAX_LOG + 1) as usize]).unwrap();
        add(&link, b"new\n");
        assert_eq!((size(), fs::metadata(link.file("log.old")).unwrap().len()), (4, MAX_LOG + 1));
    }
}
