//! The committed corpus: small, and kept so.

use std::fs;
use std::path::{Path, PathBuf};

use super::Target;
use crate::steps::Failure;

/// Most files of one target beside its seeds, and most bytes of them together.
const MAX_FILES: usize = 150;
const MAX_BYTES: u64 = 80 << 10;

/// Files that people wrote begin with this and stay.
const SEED: &str = "seed";

impl Target<'_> {
    /// Takes what was found into the committed corpus: what covers most with least, seeds always.
    pub(super) fn minimize(&self) -> Result<String, Failure> {
        let (committed, found) = (self.committed(), self.found());
        let chosen = found.with_extension("chosen");
        // Left over from a run that was stopped.
        let _ = fs::remove_dir_all(&chosen);
        for path in [&committed, &found, &chosen] {
            fs::create_dir_all(path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let done = self.program().arg("-set_cover_merge=1").args([&chosen, &committed, &found]).output();
        let done = done.map_err(|error| format!("{}: {error}", self.name))?;
        if !done.status.success() {
            let text = String::from_utf8_lossy(&done.stderr).into_owned();
            return Err(format!("{}: {}\n{}", self.name, done.status, super::report::tail(&text)));
        }
        let kept =
            replace(&committed, &chosen).map_err(|error| format!("{}: {error}", committed.display()))?;
        Ok(format!("{:16} {kept:>6} inputs kept", self.name))
    }
}

/// Puts the shortest of the chosen files into the place of all but the seeds; how many there are then.
fn replace(committed: &Path, chosen: &Path) -> std::io::Result<usize> {
    let is_seed = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(SEED));
    let seeds: Vec<PathBuf> =
        files(committed)?.into_iter().map(|(_, path)| path).filter(|path| is_seed(path)).collect();
    for (_, path) in files(committed)?.iter().filter(|(_, path)| !is_seed(path)) {
        fs::remove_file(path)?;
    }
    let written: Vec<Vec<u8>> = seeds.iter().map(fs::read).collect::<Result<_, _>>()?;
    let (mut count, mut bytes) = (0, 0);
    for (len, path) in files(chosen)? {
        let text = fs::read(&path)?;
        if count == MAX_FILES || bytes + len > MAX_BYTES || written.contains(&text) {
            continue;
        }
        (count, bytes) = (count + 1, bytes + len);
        fs::write(committed.join(path.file_name().unwrap_or_default()), text)?;
    }
    Ok(count + seeds.len())
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
