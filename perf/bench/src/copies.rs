//! What a lab needs so that files can be copied in it, by us and by others.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::upstream::quoted;
use cli::failure::Failure;

/// A service that unpacks what `tar` packed into this folder.
pub(super) fn untar(folder: &Path) -> String {
    format!("#!/bin/sh\nexec tar -xC {}\n", quoted(folder))
}

/// A service that is the receiver in `programs`, with its whole command line.
pub(super) fn unpack(programs: &Path, folder: &Path) -> String {
    let user = rustix::process::getuid().as_raw();
    let program = programs.join("qfile-unpacker");
    format!("#!/bin/sh\nexec {} {user} {}\n", quoted(&program), quoted(folder))
}

/// Lets what arrives in this home go to another folder: labs live where there is little room.
pub(super) fn redirect(home: &Path, folder: &Path) -> Result<(), Failure> {
    let incoming = home.join("QubesIncoming");
    let done = match fs::remove_dir(&incoming) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => symlink(folder, &incoming),
    };
    done.map_err(Failure::during(format_args!("making {}", incoming.display())))
}
