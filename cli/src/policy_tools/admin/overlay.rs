//! A policy folder as it would be with one file changed.

use std::path::{Path, PathBuf};

use daemon::policy_source::Disk;
use policy::{Source, SourceError};

/// The folder, and what is different: a path, and its new bytes or that it is gone.
pub(in crate::policy_tools) struct Overlay<'a> {
    disk: Disk<'a>,
    change: Option<(&'a Path, Option<&'a [u8]>)>,
}

impl<'a> Overlay<'a> {
    pub(in crate::policy_tools) fn new(
        folders: &'a [PathBuf],
        old: &'a Path,
        change: Option<(&'a Path, Option<&'a [u8]>)>,
    ) -> Self {
        Self { disk: Disk::new(folders).with_old_folder(old), change }
    }

    /// The new bytes of a path, if it is the changed one.
    fn changed(&self, path: &Path) -> Option<Option<&'a [u8]>> {
        let (changed, bytes) = self.change?;
        (clean(path) == clean(changed)).then_some(bytes)
    }
}

/// A path with the links of its folder resolved; the file itself need not be there.
fn clean(path: &Path) -> PathBuf {
    let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
    match (folder, path.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}

impl Source for Overlay<'_> {
    fn folders(&self) -> Vec<String> {
        self.disk.folders()
    }

    fn old_folder(&self) -> String {
        self.disk.old_folder()
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, SourceError> {
        let mut names = self.disk.list(folder)?;
        if let Some((path, bytes)) = self.change
            && let (Some(parent), Some(name)) =
                (path.parent(), path.file_name().and_then(|name| name.to_str()))
            && clean(&parent.join("x")) == clean(&Path::new(folder).join("x"))
        {
            names.retain(|own| own != name);
            names.extend(bytes.map(|_| name.to_owned()));
        }
        Ok(names)
    }

    fn resolve_file(&self, base: &str, path: &str) -> Result<String, SourceError> {
        let full = Path::new(base).join(path);
        match self.changed(&full) {
            Some(Some(_)) => Ok(clean(&full).to_string_lossy().into_owned()),
            Some(None) => {
                Err(SourceError(format!("including a file that will be removed: {}", full.display())))
            }
            None => self.disk.resolve_file(base, path),
        }
    }

    fn resolve_folder(&self, base: &str, path: &str) -> Result<String, SourceError> {
        self.disk.resolve_folder(base, path)
    }

    fn read(&self, path: &str, most: usize) -> Result<Vec<u8>, SourceError> {
        match self.changed(Path::new(path)) {
            Some(Some(bytes)) => Ok(bytes.to_vec()),
            Some(None) => Err(SourceError(format!("{path} will be removed"))),
            None => self.disk.read(path, most),
        }
    }
}
