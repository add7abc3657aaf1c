#![forbid(unsafe_code)]
//! This executable, to be started again in another role.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Leads to our own file, in this process and in its children until they execute another.
const SELF: &str = "/proc/self/exe";

/// A path under which a child of this process can execute this program again: the file's own, as long as it is still
/// this program. An upgrade has put another one there, or none; ours lives on without a name then.
#[must_use]
pub fn own_executable() -> PathBuf {
    let identity = |path: &Path| std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    match std::env::current_exe() {
        Ok(path) if identity(&path) == identity(Path::new(SELF)) => path,
        _ => PathBuf::from(SELF),
    }
}
