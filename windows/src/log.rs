//! The log: lines with a time, in a file of the agent's or on its stderr.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::OnceLock;

use crate::sys::local_time;

static LOG_FILE: OnceLock<File> = OnceLock::new();

/// From now on lines go to a file in this folder, named as in every release: `PROGRAM-YYYYMMDD-hhmmss-PID.log`.
pub(crate) fn to_folder(folder: &Path, program: &str) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let name = format!("{program}-{}-{}.log", local_time::stamp(), std::process::id());
    let file = File::options().create(true).append(true).open(folder.join(name))?;
    // It fails only if there is a log file already, and then that one is used.
    let _ = LOG_FILE.set(file);
    Ok(())
}

/// The stderr for a process that the agent starts: the same log.
pub(crate) fn for_child() -> Stdio {
    match LOG_FILE.get().and_then(|file| file.try_clone().ok()) {
        Some(file) => file.into(),
        None => Stdio::inherit(),
    }
}

/// Writes one line. If that fails, there is no place to report it.
pub(crate) fn line(text: impl std::fmt::Display) {
    // Written at once, because several processes write to this file.
    let line = format!("{} [{}] {text}\n", local_time::stamp(), std::process::id());
    let _ = match LOG_FILE.get() {
        Some(mut file) => file.write_all(line.as_bytes()),
        None => io::stderr().write_all(line.as_bytes()),
    };
}
