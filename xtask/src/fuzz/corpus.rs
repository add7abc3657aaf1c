//! The committed corpus: inputs with names in folders, and what fuzzing found in one archive.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Target, folder};
use crate::steps::{Failure, step};

/// Most files of one target in the archive, and most bytes of them together.
const MAX_FILES: usize = 150;
const MAX_BYTES: u64 = 80 << 10;

/// Files that people wrote begin with this; what follows says what they show.
const SEED: &str = "seed-";

/// Where the archive is unpacked, a folder for each target.
pub(super) fn unpacked() -> PathBuf {
    folder().join("target/archive")
}

fn archive() -> PathBuf {
    folder().join("corpus/found.tar.gz")
}

/// Unpacks the archive anew.
pub(super) fn unpack() -> Result<(), Failure> {
    let place = unpacked();
    // Of an earlier run, or not there.
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(&place).map_err(|error| format!("{}: {error}", place.display()))?;
    step("corpus", Command::new("tar").arg("-xzf").arg(archive()).arg("-C").arg(place))
}

/// Packs it again, the same bytes for the same files.
pub(super) fn pack() -> Result<(), Failure> {
    let mut command = Command::new("tar");
    command.args([
        "--sort=name",
        "--mtime=@0",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--mode=go=rX,u+rw",
    ]);
    command
        .args(["--format=ustar", "-I", "gzip -9n", "-cf"])
        .arg(archive())
        .arg("-C")
        .arg(unpacked())
        .arg(".");
    step("corpus", &mut command)
}

/// Committed files whose name says nothing.
pub(crate) fn nameless() -> Result<Vec<String>, Failure> {
    let corpus = folder().join("corpus");
    let failed = |error: std::io::Error| format!("{}: {error}", corpus.display());
    let mut complaints = Vec::new();
    for (_, path) in files(&corpus).map_err(failed)? {
        let inputs = if path.is_dir() { files(&path).map_err(failed)? } else { Vec::new() };
        let wrong = inputs.into_iter().filter(|(_, path)| !is_seed(path));
        complaints.extend(wrong.map(|(_, path)| {
            format!("{} is no {SEED}… with a name that says what it shows", path.display())
        }));
    }
    Ok(complaints)
}

impl Target<'_> {
    /// Takes what was found into the archive's folder: what covers most with least, and no seed once more.
    pub(super) fn minimize(&self) -> Result<String, Failure> {
        let (seeds, kept, found) = (self.committed(), self.unpacked(), self.found());
        let chosen = found.with_extension("chosen");
        // Left over from a run that was stopped.
        let _ = fs::remove_dir_all(&chosen);
        for path in [&seeds, &kept, &found, &chosen] {
            fs::create_dir_all(path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let done = self.program().arg("-set_cover_merge=1").args([&chosen, &seeds, &kept, &found]).output();
        let done = done.map_err(|error| format!("{}: {error}", self.name))?;
        if !done.status.success() {
            let text = String::from_utf8_lossy(&done.stderr).into_owned();
            return Err(format!("{}: {}\n{}", self.name, done.status, super::report::tail(&text)));
        }
        let count =
            replace(&kept, &chosen, &seeds).map_err(|error| format!("{}: {error}", kept.display()))?;
        Ok(format!("{:16} {count:>6} inputs kept beside the seeds", self.name))
    }
}

/// Puts the shortest of the chosen files, without the seeds, into the place of what was kept; how many there are then.
fn replace(kept: &Path, chosen: &Path, seeds: &Path) -> std::io::Result<usize> {
    for (_, path) in files(kept)? {
        fs::remove_file(path)?;
    }
    let written: Vec<Vec<u8>> =
        files(seeds)?.iter().map(|(_, path)| fs::read(path)).collect::<Result<_, _>>()?;
    let (mut count, mut bytes) = (0, 0);
    for (len, path) in files(chosen)? {
        let text = fs::read(&path)?;
        if count == MAX_FILES || bytes + len > MAX_BYTES || written.contains(&text) {
            continue;
        }
        (count, bytes) = (count + 1, bytes + len);
        fs::write(kept.join(path.file_name().unwrap_or_default()), text)?;
    }
    Ok(count)
}

fn is_seed(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(SEED))
}

/// The files of a folder with their lengths, the shortest first.
fn files(folder: &Path) -> std::io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        files.push((entry.metadata()?.len(), entry.path()));
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_committed_input_has_a_name() {
        assert_eq!(nameless().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_is_kept_is_short_and_no_seed() {
        let place = tempfile::tempdir().unwrap();
        let [kept, chosen, seeds] = ["kept", "chosen", "seeds"].map(|name| place.path().join(name));
        for folder in [&kept, &chosen, &seeds] {
            fs::create_dir(folder).unwrap();
        }
        for (path, text) in
            [("kept/old", "x"), ("chosen/a", "seed"), ("chosen/b", "new"), ("seeds/seed-a", "seed")]
        {
            fs::write(place.path().join(path), text).unwrap();
        }
        assert_eq!(replace(&kept, &chosen, &seeds).unwrap(), 1);
        assert_eq!(files(&kept).unwrap(), [(3, kept.join("b"))]);
    }
}
