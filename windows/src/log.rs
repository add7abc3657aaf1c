//! The log: lines with a time, to a file of the agent's or to its error output.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::OnceLock;

use crate::sys::local_time;

static LOG_FILE: OnceLock<File> = OnceLock::new();

/// From now on lines go to a file of this folder, named as in every release: `PROGRAM-YYYYMMDD-hhmmss-PID.log`.
pub(crate) fn to_folder(folder: &Path, program: &str) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let name = format!("{program}-{}-{}.log", local_time::stamp(), std::process::id());
    let file = File::options().create(true).append(true).open(folder.join(name))?;
    // The second one would be the first one again.
    let _ = LOG_FILE.set(file);
    Ok(())
}

/// Where a process of ours writes its lines: the same place.
pub(crate) fn for_child() -> Stdio {
    match LOG_FILE.get().and_then(|file| file.try_clone().ok()) {
        Some(file) => file.into(),
        None => Stdio::inherit(),
    }
}

/// Writes one line. Nobody can be told that it was not written.
pub(crate) fn line(text: impl std::fmt::Display) {
    // In one piece: several processes write here.
    let line = format!("{} [{}] {text}\n", local_time::stamp(), std::process::id());
    let _ = match LOG_FILE.get() {
        Some(mut file) => file.write_all(line.as_bytes()),
        None => io::stderr().write_all(line.as_bytes()),
    };
}
