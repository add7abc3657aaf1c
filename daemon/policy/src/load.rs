//! Where the texts of a policy come from: a trait for the caller's loader, and one in memory.
//!
//! A loader only lists, resolves and reads. Which names count, what hides what, and the order are
//! decided by [`Policy::compile`](crate::Policy::compile).

use std::collections::BTreeMap;

use crate::error::SourceError;

/// Folder of the new format that an administrator edits.
pub const POLICY_FOLDER: &str = "/etc/qubes/policy.d";
/// Folder of the new format that is gone after a restart; its names hide those of
/// [`POLICY_FOLDER`].
pub const RUNTIME_POLICY_FOLDER: &str = "/run/qubes/policy.d";
/// Folder of the old format.
pub const OLD_POLICY_FOLDER: &str = "/etc/qubes-rpc/policy";

/// A place that policies are read from. Paths are texts; what they mean is the loader's business.
pub trait Source {
    /// The policy folders, the one that hides the others first.
    fn folders(&self) -> Vec<String>;

    /// The folder of the old format.
    fn old_folder(&self) -> String {
        OLD_POLICY_FOLDER.to_owned()
    }

    /// The names of the regular files of a folder, in any order. Links to regular files count,
    /// dangling links and everything else do not.
    ///
    /// # Errors
    ///
    /// The folder is missing or cannot be read: every call is denied then.
    fn list(&self, folder: &str) -> Result<Vec<String>, SourceError>;

    /// The path of the file that a directive names, relative to `base` or absolute, links
    /// resolved: two directives that reach one file must get one path.
    ///
    /// # Errors
    ///
    /// There is no regular file.
    fn resolve_file(&self, base: &str, path: &str) -> Result<String, SourceError>;

    /// The path of the folder that `!include-dir` names, likewise.
    ///
    /// # Errors
    ///
    /// There is no folder.
    fn resolve_folder(&self, base: &str, path: &str) -> Result<String, SourceError>;

    /// The bytes of a file: a path of [`resolve_file`](Self::resolve_file), or a listed name in
    /// its folder, joined by `/`. One that is longer than `most` need not be read any further; it is an error of
    /// the policy.
    ///
    /// # Errors
    ///
    /// It cannot be read, not at once, or it is no regular file.
    fn read(&self, path: &str, most: usize) -> Result<Vec<u8>, SourceError>;
}

/// `folder/name`, or `name` where it is absolute or the folder is empty.
pub(crate) fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() || name.starts_with('/') {
        name.to_owned()
    } else {
        format!("{}/{name}", folder.trim_end_matches('/'))
    }
}

/// Files in memory, for tests, labs and questions about a policy that is not installed.
///
/// Top-level files are named without folder, and so shown in errors and decisions. Included files
/// are named as the directive names them; a relative name is taken from the policy's folder and,
/// if it has no `/`, found below `include/` too. Old files have names of their own.
#[derive(Clone, Debug, Default)]
pub struct Files {
    policy: BTreeMap<String, Vec<u8>>,
    include: BTreeMap<String, Vec<u8>>,
    compat: BTreeMap<String, Vec<u8>>,
}

/// How [`Files`] names its old folder inside paths.
const MEMORY_OLD: &str = "compat";

impl Files {
    /// No files at all; every call is denied.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file of the policy folder.
    #[must_use]
    pub fn policy(mut self, name: impl Into<String>, text: impl Into<Vec<u8>>) -> Self {
        self.policy.insert(name.into(), text.into());
        self
    }

    /// Adds a file for `!include`, `!include-dir` and `!include-service`.
    #[must_use]
    pub fn include(mut self, path: impl AsRef<str>, text: impl Into<Vec<u8>>) -> Self {
        self.include.insert(clean("", path.as_ref()), text.into());
        self
    }

    /// Adds a file of the old format, named `SERVICE` or `SERVICE+ARGUMENT`, for `!compat-4.0`.
    #[must_use]
    pub fn compat(mut self, name: impl Into<String>, text: impl Into<Vec<u8>>) -> Self {
        self.compat.insert(name.into(), text.into());
        self
    }

    fn find(&self, path: &str) -> Option<&Vec<u8>> {
        if let Some(name) = path.strip_prefix(MEMORY_OLD).and_then(|rest| rest.strip_prefix('/')) {
            return self.compat.get(name).or_else(|| self.include.get(name));
        }
        self.policy.get(path).or_else(|| self.include.get(path)).or_else(|| {
            let name = path.strip_prefix("include/")?;
            self.include.get(name)
        })
    }
}

impl Source for Files {
    fn folders(&self) -> Vec<String> {
        vec![String::new()]
    }

    fn old_folder(&self) -> String {
        MEMORY_OLD.to_owned()
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, SourceError> {
        let files = match folder {
            "" => &self.policy,
            MEMORY_OLD => &self.compat,
            _ => {
                let inside = |path: &String| Some(path.strip_prefix(folder)?.strip_prefix('/')?.to_owned());
                let names: Vec<String> =
                    self.include.keys().filter_map(inside).filter(|name| !name.contains('/')).collect();
                return Ok(names);
            }
        };
        Ok(files.keys().cloned().collect())
    }

    fn resolve_file(&self, base: &str, path: &str) -> Result<String, SourceError> {
        let path = clean(base, path);
        match self.find(&path) {
            Some(_) => Ok(path),
            None => Err(SourceError(format!("there is no file {path:?}"))),
        }
    }

    fn resolve_folder(&self, base: &str, path: &str) -> Result<String, SourceError> {
        let path = clean(base, path);
        match self.list(&path) {
            Ok(names) if !names.is_empty() || path.is_empty() || path == MEMORY_OLD => Ok(path),
            _ => Err(SourceError(format!("there is no folder {path:?}"))),
        }
    }

    fn read(&self, path: &str, _most: usize) -> Result<Vec<u8>, SourceError> {
        self.find(path).cloned().ok_or_else(|| SourceError(format!("there is no file {path:?}")))
    }
}

/// A path from `base` without `.`, `..` and the names of the real folders.
fn clean(base: &str, path: &str) -> String {
    let joined = join(base, path);
    let mut parts: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    let cleaned = parts.join("/");
    if !joined.starts_with('/') {
        return cleaned;
    }
    let absolute = format!("/{cleaned}");
    let below = |folder: &str| {
        let rest = absolute.strip_prefix(folder)?;
        (rest.is_empty() || rest.starts_with('/')).then(|| rest.trim_start_matches('/').to_owned())
    };
    below(OLD_POLICY_FOLDER)
        .map(|name| join(MEMORY_OLD, &name))
        .or_else(|| below(POLICY_FOLDER))
        .or_else(|| below(RUNTIME_POLICY_FOLDER))
        .unwrap_or(absolute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_paths_are_found_by_every_spelling() {
        let files = Files::new().include("include/a", "x").include("b", "y").compat("s", "z");
        for path in ["include/a", "./include/a", "x/../include/a", "/etc/qubes/policy.d/include/a"] {
            assert_eq!(files.resolve_file("", path).as_deref(), Ok("include/a"), "{path}");
        }
        assert_eq!(files.resolve_file("", "include/b").as_deref(), Ok("include/b"));
        assert_eq!(files.read("include/b", 9).unwrap(), b"y");
        assert_eq!(files.resolve_file("compat", "s").as_deref(), Ok("compat/s"));
        assert_eq!(files.resolve_file("compat", "b").as_deref(), Ok("compat/b"));
        assert_eq!(files.resolve_file("", "/etc/qubes-rpc/policy/s").as_deref(), Ok("compat/s"));
        for nothing in [
            "nothing",
            "/etc/qubes/policy.dinclude/a",
            "/run/qubes/policy.dinclude/a",
            "/etc/qubes-rpc/policys",
        ] {
            assert!(files.resolve_file("", nothing).is_err(), "{nothing}");
        }
        assert_eq!(files.resolve_folder("", "include").as_deref(), Ok("include"));
        assert!(files.resolve_folder("", "nothing").is_err());
    }
}
