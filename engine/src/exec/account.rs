//! Users of this machine, as the system's user database knows them.
#![allow(unsafe_code)] // getpwnam_r, getpwuid_r and getgrouplist have no safe equivalent.

use std::ffi::{CStr, CString, OsStr};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::process::{Gid, Uid};

use super::ExecError;
use crate::Installation;

/// Longest entry of the user database that is read, in bytes.
const MAX_ENTRY: usize = 1 << 20;
/// Most groups that a user may be in (Linux's `NGROUPS_MAX`).
const MAX_GROUPS: usize = 65_536;

/// As whom calls run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Users {
    /// As this process's own user, who has this name; a call for any other user fails.
    Own(String),
    /// As this process's own user, whatever the command line says: services in dom0.
    Any,
    /// As this process's own user, in whose login session it runs; commands run under this shell.
    Session(PathBuf),
    /// As the user that the call names, with their login shell. Only root can do that.
    Login {
        /// Calls for this user, the process's own, run as they are and without a login: in a lab there is no session
        /// to open, and root's calls are like any other user's.
        direct: Option<String>,
    },
}

impl Users {
    /// Root gives every user a login, in a lab every user but itself; any other user runs its own calls only.
    #[must_use]
    pub fn by_privilege(installation: Installation) -> Self {
        match rustix::process::geteuid().is_root() {
            true => Self::Login { direct: installation.is_lab().then(own_name) },
            false => Self::Own(own_name()),
        }
    }

    /// As this process's user, in its login session and under its shell.
    #[must_use]
    pub fn session() -> Self {
        let shell = std::env::var_os("SHELL").map(PathBuf::from).filter(|shell| shell.is_absolute());
        Self::Session(shell.unwrap_or_else(|| "/bin/sh".into()))
    }

    /// The shell for commands that run as this process's user.
    #[must_use]
    pub fn shell(&self) -> &Path {
        match self {
            Self::Session(shell) => shell,
            _ => Path::new("/bin/sh"),
        }
    }

    /// The account to log in as; `None` to run as this process's user.
    ///
    /// # Errors
    /// A user who does not exist, or whom this process cannot become.
    pub fn account(&self, wanted: Option<&str>) -> Result<Option<Account>, ExecError> {
        let refuse = |reason| Err(ExecError::User { wanted: wanted.unwrap_or_default().to_owned(), reason });
        match self {
            Self::Any | Self::Session(_) => Ok(None),
            Self::Own(name) | Self::Login { direct: Some(name) } if wanted == Some(name) => Ok(None),
            Self::Own(_) => refuse("only root can start programs as somebody else"),
            Self::Login { .. } => match wanted.and_then(Account::by_name) {
                Some(account) => Ok(Some(account)),
                None => refuse("there is no such user"),
            },
        }
    }
}

/// The name of this process's user. A user without an entry is named by its number.
pub(super) fn own_name() -> String {
    let uid = rustix::process::geteuid();
    Account::by_uid(uid).map_or_else(|| uid.as_raw().to_string(), |account| account.name)
}

/// One user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: Uid,
    /// Primary group.
    pub gid: Gid,
    /// Home folder.
    pub home: PathBuf,
    /// Login shell, `/bin/sh` if the entry names none.
    pub shell: PathBuf,
}

impl Account {
    /// Looks a user up by name. No such user, no home and a database that cannot be read are all `None`.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        let name = CString::new(name).ok()?;
        lookup(|entry, buffer, found| {
            // SAFETY: `name` is NUL-terminated; the other pointers come from `lookup`, which says
            // how long they are valid.
            unsafe { libc::getpwnam_r(name.as_ptr(), entry, buffer.as_mut_ptr().cast(), buffer.len(), found) }
        })
    }

    /// Looks a user up by number.
    #[must_use]
    pub fn by_uid(uid: Uid) -> Option<Self> {
        lookup(|entry, buffer, found| {
            // SAFETY: the pointers come from `lookup`, which says how long they are valid.
            unsafe { libc::getpwuid_r(uid.as_raw(), entry, buffer.as_mut_ptr().cast(), buffer.len(), found) }
        })
    }

    /// Makes this process, which has one thread and is root, that user's for good.
    ///
    /// # Errors
    /// It could not; the process must then end at once, since it may have changed in part.
    pub fn become_it(&self) -> std::io::Result<()> {
        use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};
        let groups =
            self.groups().ok_or_else(|| std::io::Error::other("the user's groups cannot be read"))?;
        set_thread_groups(&groups)?;
        set_thread_gid(self.gid)?;
        set_thread_uid(self.uid)?;
        Ok(())
    }

    /// All groups of the user, the primary one included; `None` if the database cannot be read.
    #[must_use]
    pub fn groups(&self) -> Option<Vec<Gid>> {
        let name = CString::new(self.name.as_str()).ok()?;
        let mut groups: Vec<libc::gid_t> = vec![0; 64];
        loop {
            let mut count = libc::c_int::try_from(groups.len()).ok()?;
            // SAFETY: `name` is NUL-terminated and `groups` has room for `count` entries.
            let result = unsafe {
                libc::getgrouplist(name.as_ptr(), self.gid.as_raw(), groups.as_mut_ptr(), &raw mut count)
            };
            let count = usize::try_from(count).ok()?;
            if result >= 0 {
                groups.truncate(count);
                return Some(groups.into_iter().map(Gid::from_raw).collect());
            }
            if groups.len() >= MAX_GROUPS {
                return None;
            }
            groups.resize(groups.len().saturating_mul(2).max(count).min(MAX_GROUPS), 0);
        }
    }
}

/// Calls a `getpw*_r` function with a buffer that is large enough.
///
/// The function gets a place for the entry, a buffer for its strings and a place for the pointer
/// that says whether there is one; all of them are valid for the call.
fn lookup(
    call: impl Fn(*mut libc::passwd, &mut [u8], *mut *mut libc::passwd) -> libc::c_int,
) -> Option<Account> {
    let mut buffer = vec![0_u8; 1024];
    loop {
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        let mut found = std::ptr::null_mut();
        match call(entry.as_mut_ptr(), &mut buffer, &raw mut found) {
            0 if found.is_null() => return None,
            // SAFETY: the call succeeded and pointed `found` to `entry`, so the entry is filled in
            // and its strings are in `buffer`, which lives until the account has been copied.
            0 => return account(unsafe { entry.assume_init_ref() }),
            libc::ERANGE if buffer.len() < MAX_ENTRY => buffer.resize(buffer.len().saturating_mul(4), 0),
            libc::EINTR => {}
            _ => return None,
        }
    }
}

/// Copies an entry whose strings are valid.
fn account(entry: &libc::passwd) -> Option<Account> {
    let text = |pointer: *const libc::c_char| {
        // SAFETY: a pointer of an entry that a successful call filled in is null or a string.
        (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_bytes())
    };
    let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
    let home = text(entry.pw_dir).filter(|home| !home.is_empty())?;
    let shell = text(entry.pw_shell).filter(|shell| !shell.is_empty()).unwrap_or(b"/bin/sh");
    Some(Account {
        name: String::from_utf8(text(entry.pw_name)?.to_vec()).ok()?,
        uid: Uid::from_raw(entry.pw_uid),
        gid: Gid::from_raw(entry.pw_gid),
        home: path(home),
        shell: path(shell),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_root() {
        let root = Account::by_name("root").expect("every system has one");
        assert!(root.uid.is_root());
        assert_eq!(Account::by_uid(root.uid).expect("the same"), root);
        assert!(root.groups().expect("groups").contains(&root.gid));
        assert_eq!(Account::by_name("no-such-user-here"), None);
    }

    #[test]
    fn without_a_login_only_our_own_user_runs() {
        let users = Users::Own("joan".to_owned());
        assert_eq!(users.account(Some("joan")).expect("us"), None);
        assert_eq!(users.account(Some("root")).expect_err("somebody else").code(), 125);
        assert_eq!(users.account(None).expect_err("nobody").code(), 125);
        assert_eq!(Users::Any.account(Some("anybody")).expect("us"), None);
        assert_eq!(Users::session().account(None).expect("us"), None);
        let login = Users::Login { direct: Some("root".to_owned()) };
        assert_eq!(login.account(Some("no-such-user-here")).expect_err("unknown").code(), 125);
        assert_eq!(login.account(Some("root")).expect("direct"), None);
        let login = Users::Login { direct: None };
        assert_eq!(
            login.account(Some("root")).expect("known").map(|root| root.name).as_deref(),
            Some("root")
        );
    }
}
