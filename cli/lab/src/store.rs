//! Where labs live, which of them are alive, and how the dead are buried.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, getuid, pidfd_open, pidfd_send_signal};

use super::keeper::read_plan;
use super::plan::Layout;
use super::{Error, sweep};

/// A folder without a lock belongs to a lab that is being born, unless it is older than this.
const BIRTH: Duration = Duration::from_secs(60);

/// The private folder in which this user's labs live: below `XDG_RUNTIME_DIR`, else below the temporary folder.
pub(super) fn folder() -> Result<PathBuf, Error> {
    let uid = getuid().as_raw();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_dir());
    let path = match runtime {
        Some(runtime) => runtime.join("qrexec-lab"),
        None => std::env::temp_dir().join(format!("qrexec-lab-{uid}")),
    };
    private(&path, uid).map_err(|error| Error::io(format!("cannot use {}", path.display()), error))?;
    Ok(path)
}

/// Makes the folder, or makes sure that an existing one is ours and closed to others.
fn private(path: &Path, uid: u32) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let meta = fs::symlink_metadata(path)?;
    if meta.is_dir() && meta.uid() == uid && meta.mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(io::Error::other("it is not a private folder of this user"))
}

/// A lab found in the folder.
#[derive(Debug)]
pub(super) enum Found {
    /// Its keeper lives, under this number.
    Alive(Pid),
    /// Its keeper is dead.
    Stale,
    /// It is being made, or already gone.
    Unborn,
}

/// Looks at one lab's folder.
pub(super) fn look(layout: &Layout) -> Found {
    let Ok(lock) = File::open(layout.lock()) else {
        let made = fs::metadata(layout.root()).and_then(|meta| meta.modified());
        let age = made.ok().and_then(|made| SystemTime::now().duration_since(made).ok());
        return if age.is_some_and(|age| age > BIRTH) { Found::Stale } else { Found::Unborn };
    };
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Found::Stale,
        Err(_) => {
            let number = fs::read_to_string(layout.lock()).ok().and_then(|text| text.trim().parse().ok());
            number.and_then(Pid::from_raw).map_or(Found::Unborn, Found::Alive)
        }
    }
}

/// Ends what a dead keeper left behind and removes its folder.
pub(super) fn bury(layout: &Layout) {
    if let Ok(plan) = read_plan(layout) {
        sweep::kill_marked(&plan.token);
    }
    let _ = fs::remove_dir_all(layout.root());
}

/// Buries every dead lab of this user; returns the living ones, sorted by name.
pub(super) fn clean() -> Result<Vec<Layout>, Error> {
    let folder = folder()?;
    let entries = fs::read_dir(&folder).map_err(|error| Error::io("cannot list the labs", error))?;
    let mut alive = Vec::new();
    for entry in entries.filter_map(Result::ok) {
        let layout = Layout::new(&entry.path());
        match look(&layout) {
            Found::Alive(_) => alive.push(layout),
            Found::Stale => bury(&layout),
            Found::Unborn => {}
        }
    }
    alive.sort_by(|a, b| a.root().cmp(b.root()));
    Ok(alive)
}

/// Ends a lab and waits until it is gone.
pub(super) fn end(layout: &Layout) -> Result<(), Error> {
    match look(layout) {
        Found::Stale => bury(layout),
        Found::Unborn => return Err(Error::new("there is no such lab")),
        Found::Alive(keeper) => {
            let ended = pidfd_open(keeper, PidfdFlags::empty()).and_then(|handle| {
                pidfd_send_signal(&handle, Signal::TERM)?;
                let mut fds = [PollFd::new(&handle, PollFlags::IN)];
                rustix::io::retry_on_intr(|| poll(&mut fds, None))
            });
            match ended {
                Ok(_) | Err(Errno::SRCH) => {}
                Err(error) => return Err(Error::io("cannot end the lab", error)),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn lab() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        (dir, layout)
    }

    #[test]
    fn a_lock_tells_the_living_from_the_dead() {
        let (_dir, layout) = lab();
        assert!(matches!(look(&layout), Found::Unborn));
        fs::write(layout.lock(), "77\n").unwrap();
        assert!(matches!(look(&layout), Found::Stale));
        let held = File::open(layout.lock()).unwrap();
        flock(&held, FlockOperation::LockExclusive).unwrap();
        assert!(matches!(look(&layout), Found::Alive(pid) if pid.as_raw_nonzero().get() == 77));
        drop(held);
        assert!(matches!(look(&layout), Found::Stale));
    }

    #[test]
    fn burying_removes_the_folder() {
        let (dir, layout) = lab();
        fs::write(layout.lock(), "77\n").unwrap();
        bury(&layout);
        assert!(!dir.path().exists());
    }

    #[test]
    fn a_folder_open_to_others_is_refused() {
        let (dir, _) = lab();
        let uid = getuid().as_raw();
        let mode = |mode| fs::set_permissions(dir.path(), PermissionsExt::from_mode(mode)).unwrap();
        mode(0o700);
        private(dir.path(), uid).unwrap();
        mode(0o755);
        assert!(private(dir.path(), uid).is_err());
    }
}
