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
use super::{Error, role, sweep};

/// A folder without a lock belongs to a lab that is being born, unless it is older than this.
const BIRTH: Duration = Duration::from_secs(60);

/// The private folder in which this user's labs live: below `XDG_RUNTIME_DIR`, else below the temporary folder.
pub(super) fn folder() -> Result<PathBuf, Error> {
    let uid = getuid().as_raw();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_dir());
    let path = match runtime {
        Some(runtime) => {
            owned(&runtime, uid)?;
            runtime.join("qrexec-lab")
        }
        None => std::env::temp_dir().join(format!("qrexec-lab-{uid}")),
    };
    private(&path, uid).map_err(|error| Error::io(format!("cannot use {}", path.display()), error))?;
    Ok(path)
}

/// Whoever owns the folder around a lab could put another in the lab's place.
fn owned(runtime: &Path, uid: u32) -> Result<(), Error> {
    let owner = fs::metadata(runtime).map(|meta| meta.uid());
    let owner = owner.map_err(|error| Error::io(format!("cannot use {}", runtime.display()), error))?;
    if owner == uid {
        return Ok(());
    }
    Err(Error::new(format!(
        "XDG_RUNTIME_DIR={} belongs to user {owner}, and this is user {uid}: unset it, or name a folder of this user",
        runtime.display()
    )))
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

/// A lab that stays and is not below [`folder`], since it was started with another `XDG_RUNTIME_DIR`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Elsewhere {
    pub(super) root: PathBuf,
    keeper: i32,
}

impl Elsewhere {
    /// All of this user's, known by their keepers.
    pub(super) fn all() -> Vec<Self> {
        let here = folder().unwrap_or_default();
        let mut found: Vec<Self> = sweep::arguments_of_all(getuid().as_raw())
            .into_iter()
            .filter_map(|(keeper, args)| match args.as_slice() {
                [_, role, root] if role == role::KEEPER => Some(Self { root: root.into(), keeper }),
                _ => None,
            })
            .filter(|lab| lab.root.parent() != Some(&here) && lab.stays())
            .collect();
        found.sort_by(|a, b| a.root.cmp(&b.root));
        found
    }

    /// Labs of one command are nobody else's business. One whose folder is gone can only be one that stays.
    fn stays(&self) -> bool {
        read_plan(&Layout::new(&self.root)).map_or(!self.root.exists(), |plan| plan.stay)
    }

    pub(super) fn is_named(&self, name: &str) -> bool {
        self.root.file_name().is_some_and(|own| own == name)
    }
}

impl std::fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.root.file_name().unwrap_or_default().display();
        if !self.root.exists() {
            return write!(f, "a lab {name} runs whose folder is gone: end it with \"kill {}\"", self.keeper);
        }
        write!(f, "a lab {name} runs in {}", self.root.display())?;
        match self.root.parent().filter(|folder| folder.ends_with("qrexec-lab")).and_then(Path::parent) {
            Some(runtime) => write!(f, ": XDG_RUNTIME_DIR={} finds it", runtime.display()),
            None => write!(f, ": without XDG_RUNTIME_DIR it is found"),
        }
    }
}

/// That there is no such lab; and where one of that name is, if there is one elsewhere.
pub(super) fn missing(name: &str) -> Error {
    let elsewhere = Elsewhere::all().into_iter().filter(|lab| lab.is_named(name));
    let hints: String = elsewhere.map(|lab| format!("; {lab}")).collect();
    match folder() {
        Ok(folder) => Error::new(format!("there is no lab {name:?} in {}{hints}", folder.display())),
        Err(error) => error,
    }
}

/// Ends a lab and waits until it is gone.
pub(super) fn end(layout: &Layout) -> Result<(), Error> {
    match look(layout) {
        Found::Stale => bury(layout),
        Found::Unborn => {
            let name = layout.root().file_name().unwrap_or_default();
            return Err(missing(&name.to_string_lossy()));
        }
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
