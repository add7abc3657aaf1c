//! Policy and system information as they are now: kept compiled, read anew when files change.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use policy::{Policy, SystemInfo};

use super::disk::{Disk, Footprint, read_file};

/// Largest description of a system, in bytes: tens of thousands of qubes.
const MAX_SYSTEM: usize = 64 << 20;

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

/// Why there is no system information: every call is denied then.
#[derive(Debug, thiserror::Error)]
pub enum NoSystem {
    /// No file is named.
    #[error("no system information is configured")]
    NotConfigured,
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The file describes no system.
    #[error("{}: {error}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        error: policy::SystemError,
    },
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
    pub fn current(&mut self) -> Result<Arc<SystemInfo>, NoSystem> {
        let kept = match self.kept.take().filter(|(_, footprint)| footprint.holds()) {
            Some(kept) => kept,
            None => read_system(&self.path)?,
        };
        Ok(self.kept.insert(kept).0.clone())
    }
}

fn read_system(path: &Path) -> Result<(Arc<SystemInfo>, Footprint), NoSystem> {
    let mut footprint = Footprint::default();
    footprint.note(path);
    let text =
        read_file(path, MAX_SYSTEM).map_err(|error| NoSystem::Unreadable { path: path.to_owned(), error })?;
    let system =
        SystemInfo::from_json(&text).map_err(|error| NoSystem::Wrong { path: path.to_owned(), error })?;
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

    /// A deployment may lay a whole new folder in the place of the old one, in one step.
    #[test]
    fn a_folder_that_is_replaced_as_a_whole_counts_at_once_and_is_watched_from_then_on() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let [folder, next] = ["policy.d", "next"].map(|name| root.join(name));
        let make = |folder: &Path, verb: &str| {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("30-user.policy"), format!("a * b c {verb}\n")).unwrap();
        };
        make(&folder, "allow");
        let mut store = PolicyStore::watching(vec![folder.clone()]);
        for turn in 0..10 {
            assert_eq!(verdict(&mut store), "a * b c allow;");
            make(&next, "deny");
            let exchange = rustix::fs::RenameFlags::EXCHANGE;
            rustix::fs::renameat_with(rustix::fs::CWD, &next, rustix::fs::CWD, &folder, exchange).unwrap();
            assert_eq!(verdict(&mut store), "a * b c deny;", "{turn}");
            assert!(store.is_watched());
            let kept = Arc::clone(store.current());
            fs::write(next.join("30-user.policy"), "nonsense\n").unwrap();
            assert!(Arc::ptr_eq(&kept, store.current()), "the old folder is nobody's any more");
            fs::write(folder.join("30-user.policy"), "a * b c ask\n").unwrap();
            assert_eq!(verdict(&mut store), "a * b c ask;");
            fs::remove_dir_all(&next).unwrap();
            // In two steps, with no folder in between.
            make(&next, "allow");
            fs::rename(&folder, root.join("old")).unwrap();
            assert!(verdict(&mut store).contains("cannot be read"), "{}", verdict(&mut store));
            fs::rename(&next, &folder).unwrap();
            assert_eq!(verdict(&mut store), "a * b c allow;");
            fs::remove_dir_all(root.join("old")).unwrap();
        }
    }

    fn fifo(path: &Path) {
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR);
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
    }

    #[test]
    fn what_is_no_file_or_has_no_end_is_an_error_with_its_line_and_is_not_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::write(path("30-user.policy"), "a * b c allow\n\n!include what\n").unwrap();
        let mut store = PolicyStore::new(vec![root.path().to_owned()]);
        let mut says = |what: &str| {
            let said = verdict(&mut store);
            assert!(said.contains("30-user.policy:3:") && said.contains(what), "{said}");
        };
        says("No such file");
        fs::create_dir(path("what")).unwrap();
        says("not a regular file");
        fs::remove_dir(path("what")).unwrap();
        fifo(&path("what"));
        says("not a regular file");
        fs::remove_file(path("what")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("what")).unwrap();
        says("not a regular file");
        fs::remove_file(path("what")).unwrap();
        // 8 TiB of holes: nobody waits for that, and it finds no place in memory.
        fs::File::create(path("what")).unwrap().set_len(8 << 40).unwrap();
        says("more than ");
        fs::remove_file(path("what")).unwrap();
        fs::write(path("what"), "a * b c deny\n").unwrap();
        assert_eq!(verdict(&mut store), "a * b c allow;a * b c deny;");
    }

    /// As it would be between the look at a file and its opening.
    #[test]
    fn a_pipe_in_the_place_of_a_file_holds_nobody_up() {
        let root = tempfile::tempdir().unwrap();
        let pipe = root.path().join("pipe");
        fifo(&pipe);
        let error = read_file(&pipe, 100).unwrap_err();
        assert_eq!(error.to_string(), "not a regular file");
        let mut system = SystemFile::new(pipe.clone());
        assert!(system.current().unwrap_err().to_string().contains("not a regular file"));
        fs::remove_file(&pipe).unwrap();
        fs::write(&pipe, "12345").unwrap();
        assert_eq!(read_file(&pipe, 5).unwrap(), b"12345");
        assert_eq!(read_file(&pipe, 4).unwrap_err().kind(), std::io::ErrorKind::FileTooLarge);
    }

    /// Somebody has a lease on it: an opening would wait until that is given back, or 45 s.
    #[test]
    #[allow(clippy::print_stdout)] // it says what was not tried
    fn a_file_that_blocks_is_an_error_with_its_line() {
        use std::io::{BufRead, BufReader};
        use std::process::{Command, Stdio};
        let root = tempfile::tempdir().unwrap();
        let leased = root.path().join("leased");
        fs::write(&leased, "a * b c allow\n").unwrap();
        fs::write(root.path().join("30-user.policy"), "\n!include leased\n").unwrap();
        // F_SETLEASE, F_WRLCK; no language of tests here can ask for it without unsafe code.
        let script = "$SIG{IO} = 'IGNORE'; open(F, '<', $ARGV[0]) or exit 1; fcntl(F, 1024, 1) or exit 1; $| = 1; \
                      print \"held\\n\"; <STDIN>";
        let mut perl = Command::new("perl");
        perl.args(["-e", script]).arg(&leased).stdin(Stdio::piped()).stdout(Stdio::piped());
        let Ok(mut holder) = perl.spawn() else { return println!("skipped: there is no perl") };
        let mut said = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let mut store = PolicyStore::new(vec![root.path().to_owned()]);
        let begun = std::time::Instant::now();
        if said == "held\n" {
            let said = verdict(&mut store);
            assert!(said.contains("30-user.policy:2:") && said.contains("cannot be read"), "{said}");
            assert!(begun.elapsed().as_secs() < 20);
        } else {
            println!("skipped: no lease can be had here");
        }
        drop(holder.stdin.take());
        holder.wait().unwrap();
        assert_eq!(verdict(&mut store), "a * b c allow;");
    }
}
