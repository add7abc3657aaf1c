//! Being told by the kernel that files or folders have changed: a thin inotify.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

/// What changes the content of a file or folder, or makes its path lead elsewhere. Reading does not.
const CHANGES: WatchFlags = WatchFlags::ATTRIB
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::MOVE)
    .union(LEAVES);
/// What makes the paths below a folder lead elsewhere.
const LEAVES: WatchFlags = WatchFlags::DELETE_SELF.union(WatchFlags::MOVE_SELF);

/// A set of watched paths.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: OwnedFd,
}

impl Watch {
    /// Watches nothing yet. `None` if the user has no inotify instance left, or the system has none.
    pub(super) fn new() -> Option<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
        Some(Self { inotify })
    }

    /// Watches a file or folder and all folders above it. `false`: a change could go unseen, because
    /// there is nothing there, a link leads on, or the user has no watches left.
    pub(super) fn add(&self, path: &Path) -> bool {
        let real = path.canonicalize().is_ok_and(|real| real == path);
        let add =
            |path: &Path, what| inotify::add_watch(&self.inotify, path, what | WatchFlags::MASK_ADD).is_ok();
        real && add(path, CHANGES) && path.ancestors().skip(1).all(|folder| add(folder, LEAVES))
    }

    /// Whether nothing has changed so far. Once it has, this stays so only until the next call: a new
    /// watch is needed then.
    pub(super) fn is_quiet(&self) -> bool {
        let mut events = [0_u8; 4096];
        let read = rustix::io::retry_on_intr(|| rustix::io::read(&self.inotify, &mut events));
        read == Err(Errno::AGAIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn every_kind_of_change_is_told_and_reading_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let (inner, file) = (root.join("inner"), root.join("inner/file"));
        fs::create_dir(&inner).unwrap();
        fs::write(&file, "x").unwrap();
        let seen = |change: &dyn Fn()| {
            let watch = Watch::new().unwrap();
            assert!(watch.add(&inner) && watch.add(&file) && watch.is_quiet());
            change();
            !watch.is_quiet()
        };
        assert!(!seen(&|| drop(fs::read(&file).unwrap())));
        assert!(!seen(&|| fs::write(root.join("elsewhere"), "").unwrap()));
        assert!(seen(&|| fs::write(&file, "y").unwrap()));
        assert!(seen(&|| fs::write(inner.join("new"), "y").unwrap()));
        assert!(seen(&|| fs::rename(inner.join("new"), &file).unwrap()));
        assert!(seen(&|| {
            fs::rename(&inner, root.join("other")).unwrap();
            fs::rename(root.join("other"), &inner).unwrap();
        }));
        assert!(seen(&|| fs::remove_file(&file).unwrap()));
    }

    #[test]
    fn what_cannot_be_watched_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::os::unix::fs::symlink("file", root.join("link")).unwrap();
        let watch = Watch::new().unwrap();
        assert!(!watch.add(&root.join("link")) && !watch.add(&root.join("file")));
        fs::write(root.join("file"), "").unwrap();
        assert!(!watch.add(&root.join("link")) && watch.add(&root.join("file")));
    }
}
