//! Policy and system information as they are now: kept compiled, read anew when files change.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use policy::{Policy, SystemInfo};

use super::disk::{Disk, Footprint};

/// The policy of some folders. A change of any file replaces the whole policy at once; a policy with
/// an error denies everything until it is mended. A question never meets a policy that is older than
/// itself.
#[derive(Debug)]
pub struct PolicyStore {
    folders: Vec<PathBuf>,
    watching: bool,
    kept: Option<(Arc<Policy>, Footprint)>,
}

impl PolicyStore {
    /// The policy of these folders, the one that hides the others first. Whether it still holds is
    /// found by a look at each file and folder. Nothing is read yet.
    #[must_use]
    pub fn new(folders: Vec<PathBuf>) -> Self {
        Self { folders, watching: false, kept: None }
    }

    /// The same, but the kernel is asked to tell of changes. Where it cannot, because there are no
    /// inotify instances or watches left or links lead elsewhere, files are looked at.
    #[must_use]
    pub fn watching(folders: Vec<PathBuf>) -> Self {
        Self { watching: true, ..Self::new(folders) }
    }

    /// The policy of this moment.
    pub fn current(&mut self) -> &Arc<Policy> {
        let kept = self.kept.take().filter(|(_, footprint)| footprint.holds());
        let kept = kept.unwrap_or_else(|| self.read());
        &self.kept.insert(kept).0
    }

    /// Whether the kernel tells of changes to the policy that was read last.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.kept.as_ref().is_some_and(|(_, footprint)| footprint.is_watched())
    }

    fn read(&self) -> (Arc<Policy>, Footprint) {
        let disk = if self.watching { Disk::watched(&self.folders) } else { Disk::new(&self.folders) };
        let policy = Policy::compile_or_deny(&disk);
        match policy.error() {
            Some(error) => tracing::error!("every call is denied until the policy is mended: {error}"),
            None => tracing::debug!("policy read: {} rules", policy.rules().len()),
        }
        (Arc::new(policy), disk.into_footprint())
    }
}

/// The system information of a file.
#[derive(Debug)]
pub struct SystemFile {
    path: PathBuf,
    kept: Option<(Arc<SystemInfo>, Footprint)>,
}

impl SystemFile {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, kept: None }
    }

    /// The system of this moment.
    ///
    /// # Errors
    /// What is wrong with the file, with its path in front.
    pub fn current(&mut self) -> Result<Arc<SystemInfo>, String> {
        let kept = match self.kept.take().filter(|(_, footprint)| footprint.holds()) {
            Some(kept) => kept,
            None => read_system(&self.path)?,
        };
        Ok(self.kept.insert(kept).0.clone())
    }
}

fn read_system(path: &Path) -> Result<(Arc<SystemInfo>, Footprint), String> {
    let mut footprint = Footprint::default();
    footprint.note(path);
    let text = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let system = SystemInfo::from_json(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok((Arc::new(system), footprint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn verdict(store: &mut PolicyStore) -> String {
        match store.current().error() {
            Some(error) => error.to_string(),
            None => store.current().rules().iter().map(|rule| format!("{rule};")).collect(),
        }
    }

    #[test]
    fn a_watched_policy_is_replaced_at_once_and_a_bad_edit_names_its_line() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("30-user.policy");
        fs::create_dir(root.path().join("include")).unwrap();
        fs::write(&file, "a * b c allow\n").unwrap();
        let mut store = PolicyStore::watching(vec![root.path().to_owned()]);
        for _ in 0..20 {
            fs::write(&file, "a * b c allow\n").unwrap();
            assert_eq!(verdict(&mut store), "a * b c allow;");
            assert!(store.is_watched());
            let before = Arc::clone(store.current());
            assert!(Arc::ptr_eq(&before, store.current()), "nothing changed, nothing is read");
            fs::write(&file, "!include include/x\na * b c deny\n").unwrap();
            assert!(verdict(&mut store).contains("30-user.policy:1:10: "), "{}", verdict(&mut store));
            fs::write(root.path().join("include/x"), "a * b c ask\n").unwrap();
            assert_eq!(verdict(&mut store), "a * b c ask;a * b c deny;");
            fs::remove_file(root.path().join("include/x")).unwrap();
        }
    }

    #[test]
    fn a_link_is_looked_at_because_it_cannot_be_watched() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("policy.d");
        fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink(root.path().join("text"), folder.join("10-link.policy")).unwrap();
        let mut store = PolicyStore::watching(vec![folder]);
        assert_eq!(verdict(&mut store), "");
        for text in ["a * b c ask", "a * b c deny", "a * c b deny"] {
            fs::write(root.path().join("text"), text).unwrap();
            assert_eq!(verdict(&mut store), format!("{text};"));
            assert!(!store.is_watched());
        }
    }
}
