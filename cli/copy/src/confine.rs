//! What a sender may still use once it hears of the other side: what it sends, and for a move the folders that it is in.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use engine::confine::{Confinement, Files, May, Place};
use engine::direct::DirectClient;
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::sender::Links;
use crate::walk;

/// With more arguments than this they are not told from everything else.
const MANY: usize = 64;

/// Confines this process to its call and to files: those of `paths` can be read, and removed if it `moves`.
///
/// # Errors
/// It is not: nothing of the other side's must be read then.
pub(crate) fn confine(
    call: &mut DirectClient,
    paths: &[PathBuf],
    links: Links,
    moves: bool,
) -> io::Result<()> {
    let opened =
        if links == Links::Follow || paths.len() > MANY { everything(moves) } else { these(paths, moves) };
    let places: Vec<Place<'_>> = opened.iter().map(|(fd, may)| Place { at: fd.as_fd(), may: *may }).collect();
    let files = if moves { Files::Move } else { Files::Read };
    call.confine(Confinement::unless(false), files, &places)
}

/// Links lead anywhere.
fn everything(moves: bool) -> Vec<(OwnedFd, May)> {
    let all = [May::Read, May::Remove].into_iter().take(if moves { 2 } else { 1 });
    all.filter_map(|may| Some((open(b"/", b".")?, may))).collect()
}

/// What is missing is no place; the sender says so.
fn these(paths: &[PathBuf], moves: bool) -> Vec<(OwnedFd, May)> {
    let mut places = Vec::new();
    for path in paths {
        let Some((folder, name)) = walk::split_argument(path.as_os_str().as_bytes()) else { continue };
        places.extend(open(folder, name).map(|fd| (fd, May::Read)));
        if moves {
            places.extend(open(folder, b".").map(|fd| (fd, May::Remove)));
        }
    }
    places
}

fn open(folder: &[u8], name: &[u8]) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let folder = openat(CWD, folder, flags | OFlags::DIRECTORY, Mode::empty()).ok()?;
    openat(folder, name, flags | OFlags::NOFOLLOW, Mode::empty()).ok()
}
