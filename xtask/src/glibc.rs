//! Which release of glibc executables need: the highest version that the dynamic linker will ask it for.
//!
//! The versions are strings of the executables themselves, each between two NULs in the table of dynamic strings, so
//! that no tool has to be there to read them.

use std::fs;
use std::path::Path;

use crate::steps::Failure;

/// How the names of the versions begin.
const PREFIX: &[u8] = b"\0GLIBC_";

/// The release that everything below a folder needs.
pub(crate) fn wanted_by(folder: &Path) -> Result<String, Failure> {
    let highest =
        highest_below(folder)?.ok_or_else(|| format!("{}: nothing needs glibc", folder.display()))?;
    Ok(highest.iter().map(u32::to_string).collect::<Vec<_>>().join("."))
}

fn highest_below(folder: &Path) -> Result<Option<Vec<u32>>, Failure> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut highest = None;
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        let found = if kind.is_dir() {
            highest_below(&entry.path())?
        } else if kind.is_file() {
            highest_in(&fs::read(entry.path()).map_err(failed)?)
        } else {
            None
        };
        highest = highest.max(found);
    }
    Ok(highest)
}

/// The highest version that an executable names.
fn highest_in(bytes: &[u8]) -> Option<Vec<u32>> {
    if !bytes.starts_with(b"\x7fELF") {
        return None;
    }
    let places = bytes.windows(PREFIX.len()).enumerate().filter(|(_, window)| *window == PREFIX);
    places.filter_map(|(place, _)| version(bytes.get(place + PREFIX.len()..)?)).max()
}

/// The numbers up to a NUL; `PRIVATE` is none.
fn version(bytes: &[u8]) -> Option<Vec<u32>> {
    let text = bytes.split(|byte| *byte == 0).next()?;
    str::from_utf8(text).ok()?.split('.').map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_version_counts() {
        let bytes = b"\x7fELF\0GLIBC_2.9\0GLIBC_2.34\0GLIBC_PRIVATE\0GLIBC_2.2.5\0in GLIBC_9.9\0GLIBC_3x\0";
        assert_eq!(highest_in(bytes), Some(vec![2, 34]));
        assert_eq!(highest_in(&bytes[1..]), None);
        assert_eq!(highest_in(b"\x7fELF"), None);
    }

    #[test]
    fn every_program_of_this_system_can_run_here() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        if cfg!(target_env = "gnu") {
            assert!(highest_in(&own) >= Some(vec![2, 17]));
        }
    }
}
