//! Which file for PAM's service `qrexec` fits a system: sessions are in Debian's `common-session`, or, as on Fedora, in
//! `system-auth` and `postlogin`.

use std::path::Path;

/// The name in `dist` of the file for Debian.
pub(crate) const DEBIANS: &str = "pam.d/qrexec";

/// The name in `dist` of the other.
const OTHERS: &str = "pam.d/qrexec.system-auth";

/// Where a system has its sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logins {
    /// `common-session`
    Debian,
    /// `system-auth`, and on Fedora `postlogin`
    SystemAuth { postlogin: bool },
}

impl Logins {
    /// That of the system in a folder, or, if it says nothing about sessions, as the root of a package does, of the one
    /// that runs.
    pub(crate) fn of(system: &Path) -> Self {
        Self::in_folder(&system.join("etc/pam.d"))
            .or_else(|| Self::in_folder(Path::new("/etc/pam.d")))
            .unwrap_or(Self::Debian)
    }

    fn in_folder(folder: &Path) -> Option<Self> {
        let has = |name: &str| folder.join(name).exists();
        match (has("common-session"), has("system-auth")) {
            (true, _) => Some(Self::Debian),
            (false, true) => Some(Self::SystemAuth { postlogin: has("postlogin") }),
            (false, false) => None,
        }
    }

    /// The name of the file in `dist`.
    pub(crate) fn file(self) -> &'static str {
        if self == Self::Debian { DEBIANS } else { OTHERS }
    }

    /// The file without what the system does not have: PAM refuses every session if a file that is included is missing.
    pub(crate) fn fit(self, text: &str) -> String {
        let is_missing =
            |line: &&str| self == Self::SystemAuth { postlogin: false } && line.ends_with(" postlogin");
        text.lines().filter(|line| !is_missing(line)).map(|line| format!("{line}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_that_says_nothing_is_the_one_that_runs() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Logins::of(dir.path()), Logins::of(Path::new("/")));
        assert_eq!(Logins::in_folder(dir.path()), None);
    }
}
