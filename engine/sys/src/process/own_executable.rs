#![forbid(unsafe_code)]
//! The file of this program, for starting it again in another role.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Leads to the file of this program, in this process and in its children until they execute another program.
const SELF: &str = "/proc/self/exe";

/// A path under which a child of this process can execute this program again: that of the file, as long as it is still
/// this program. After an upgrade another program, or none, has that path, and the file of this one has no name.
#[must_use]
pub fn own_executable() -> PathBuf {
    let identity = |path: &Path| std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    match std::env::current_exe() {
        Ok(path) if identity(&path) == identity(Path::new(SELF)) => path,
        _ => PathBuf::from(SELF),
    }
}
