//! Administering a policy folder: listing, getting, replacing and removing its files, each change checked
//! before it is made.
//!
//! A file's token is `sha256:` and the hash of its bytes. Whoever replaces or removes a file names the token
//! that they saw, `new` if there must be no file, or `any`; so two who edit at once cannot undo each other's
//! work unseen. The folder is locked meanwhile.

pub mod client;
mod overlay;
pub mod service;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use daemon::policy_source::read_file;
use policy::Policy;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

pub(super) use overlay::Overlay;

/// Largest file that is taken, in bytes.
pub const MAX_FILE: usize = 16 << 20;
/// The folder below the policy folder whose files are included.
const INCLUDE: &str = "include";
/// What the names of policy files end with.
const SUFFIX: &str = ".policy";
/// Permissions of the files: the group of the users who administer qubes may write.
const MODE: u32 = 0o664;

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The call makes no sense.
    #[error("{0}")]
    Protocol(String),
    /// No file can be called so.
    #[error("{0}")]
    Name(String),
    /// The name leads elsewhere.
    #[error("{0}")]
    Path(String),
    /// The file is not in the state that the token says.
    #[error("{0}")]
    Token(String),
    /// There is no such file.
    #[error("Not found: {0}")]
    NotFound(String),
    /// The policy would have an error after the change.
    #[error("Policy change validation failed: {0}")]
    Syntax(String),
    /// The folder could not be read or written.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Error {
    /// Upstream's name for it, which its clients look for.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Protocol(_) => "PolicyAdminProtocolException",
            Self::Name(_) => "PolicyAdminInvalidFileNameException",
            Self::Path(_) => "PolicyAdminInvalidFilePathException",
            Self::Token(_) => "PolicyAdminTokenException",
            Self::NotFound(_) => "PolicyAdminFileNotFoundException",
            Self::Syntax(_) => "PolicyAdminSyntaxException",
            Self::Io(_) => "PolicyAdminException",
        }
    }
}

/// A policy folder under administration.
#[derive(Debug)]
pub struct Admin {
    folder: PathBuf,
    old: PathBuf,
}

/// One file of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// Whether it is one of those that are included.
    pub include: bool,
    /// Its name without folder and suffix.
    pub name: String,
}

impl Name {
    /// A name as `[include/]NAME`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text.strip_prefix("include/") {
            Some(name) => Self { include: true, name: name.to_owned() },
            None => Self { include: false, name: text.to_owned() },
        }
    }
}

/// The token of a file with these bytes.
#[must_use]
pub fn token(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

impl Admin {
    /// The folder, and that of the old format, for `!compat-4.0`.
    #[must_use]
    pub fn new(folder: PathBuf, old: PathBuf) -> Self {
        Self { folder, old }
    }

    /// A lock on the folder, which holds as long as the file is open. Everything that changes the folder
    /// takes it.
    ///
    /// # Errors
    /// There is no folder.
    pub fn lock(&self) -> Result<File, Error> {
        lock(&self.folder)
    }

    /// The names of the files, sorted, a line each.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list(&self, include: bool) -> Result<Vec<u8>, Error> {
        let folder = self.folder_of(include);
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder).map_err(|error| about(&folder, &error))? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let name = if include { Some(name.as_str()) } else { name.strip_suffix(SUFFIX) };
            if let Some(name) = name.filter(|name| !name.starts_with('.'))
                && entry.path().is_file()
            {
                names.push(format!("{name}\n"));
            }
        }
        names.sort_unstable();
        Ok(names.concat().into_bytes())
    }

    /// Token and bytes of a file, the token on a line of its own.
    ///
    /// # Errors
    /// There is none, or the name is no name.
    pub fn get(&self, name: &Name) -> Result<Vec<u8>, Error> {
        let path = self.path(name)?;
        let bytes = read(&path)?.ok_or_else(|| Error::NotFound(path.display().to_string()))?;
        Ok([token(&bytes).as_bytes(), b"\n", &bytes].concat())
    }

    /// Puts new bytes in the place of a file, or makes it.
    ///
    /// # Errors
    /// The token does not hold, or the whole policy with this file has an error.
    pub fn replace(&self, name: &Name, token: &str, bytes: &[u8]) -> Result<(), Error> {
        let path = self.path(name)?;
        check_token(&path, token)?;
        // The policy reads no file that nothing includes.
        std::str::from_utf8(bytes).map_err(|_| Error::Syntax("the file is not UTF-8".to_owned()))?;
        self.validate(&path, Some(bytes))?;
        write(&path, bytes)
    }

    /// Removes a file.
    ///
    /// # Errors
    /// As for [`replace`](Self::replace); a file that another one includes cannot be removed.
    pub fn remove(&self, name: &Name, token: &str) -> Result<(), Error> {
        let path = self.path(name)?;
        check_token(&path, token)?;
        if !path.is_file() {
            return Err(Error::NotFound(path.display().to_string()));
        }
        self.validate(&path, None)?;
        Ok(fs::remove_file(&path).map_err(|error| about(&path, &error))?)
    }

    /// The files with rules for a service, in the order of their first rule, a line each; those of this
    /// folder by name.
    ///
    /// # Errors
    /// The service is none, or the policy has an error.
    pub fn files_of(&self, service: &str) -> Result<Vec<u8>, Error> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if service.is_empty() {
            return Err(Error::Protocol("Service cannot be empty".to_owned()));
        }
        if !service.chars().all(plain) {
            return Err(Error::Protocol(format!("Service {service:?} contains invalid characters")));
        }
        let policy = self.compile(None)?;
        let mut files: Vec<String> = Vec::new();
        for rule in
            policy.rules().iter().filter(|rule| rule.service.as_deref().is_none_or(|own| own == service))
        {
            let path = Path::new(&*rule.file);
            let shown = match (path.starts_with(&self.folder), path.file_stem()) {
                (true, Some(stem)) => stem.to_string_lossy().into_owned(),
                _ => rule.file.to_string(),
            };
            if !files.contains(&shown) {
                files.push(shown);
            }
        }
        Ok(files.iter().flat_map(|file| [file.as_str(), "\n"]).collect::<String>().into_bytes())
    }

    /// The policy of the folder as it is, or as it would be with a change: a path and its new bytes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn compile(&self, change: Option<(&Path, Option<&[u8]>)>) -> Result<Policy, Error> {
        let folders = [self.folder.clone()];
        let source = Overlay::new(&folders, &self.old, change);
        Policy::compile(&source).map_err(|error| Error::Syntax(error.to_string()))
    }

    /// Checks the whole policy with a change.
    fn validate(&self, path: &Path, bytes: Option<&[u8]>) -> Result<(), Error> {
        self.compile(Some((path, bytes))).map(drop)
    }

    fn folder_of(&self, include: bool) -> PathBuf {
        if include { self.folder.join(INCLUDE) } else { self.folder.clone() }
    }

    /// The path of a file, which cannot lie outside of its folder.
    ///
    /// # Errors
    /// The name is no name, or leads elsewhere.
    pub fn path(&self, name: &Name) -> Result<PathBuf, Error> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if name.name.is_empty() || !name.name.chars().all(good) {
            return Err(Error::Name(format!(
                "Invalid policy file name: {:?}; use letters, digits, `_` and `-`",
                name.name
            )));
        }
        let folder = self.folder_of(name.include);
        let path = folder.join(format!("{}{}", name.name, if name.include { "" } else { SUFFIX }));
        match fs::symlink_metadata(&path) {
            Ok(meta) if !meta.is_file() => Err(Error::Path(format!(
                "Expecting a path inside {}: {} is a link or no file",
                folder.display(),
                path.display()
            ))),
            _ => Ok(path),
        }
    }
}

/// A lock on a folder, likewise.
pub(super) fn lock(path: &Path) -> Result<File, Error> {
    let folder = File::open(path).map_err(|error| about(path, &error))?;
    flock(&folder, FlockOperation::LockExclusive).map_err(io::Error::from)?;
    Ok(folder)
}

fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The bytes of a file, `None` if there is none.
fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match read_file(path, MAX_FILE) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(about(path, &error).into()),
    }
}

fn check_token(path: &Path, wanted: &str) -> Result<(), Error> {
    let there = read(path)?;
    match (wanted, there) {
        ("any", _) | ("new", None) => Ok(()),
        ("new", Some(_)) => Err(Error::Token("File exists but token is 'new'".to_owned())),
        (hash, _) if !hash.starts_with("sha256:") => {
            Err(Error::Protocol("Unrecognized token: it is `any`, `new` or `sha256:HASH`".to_owned()))
        }
        (_, None) => Err(Error::Token("File doesn't exist, but token isn't 'new'".to_owned())),
        (hash, Some(bytes)) if token(&bytes) == hash => Ok(()),
        _ => Err(Error::Token("Token mismatch: the file was changed meanwhile".to_owned())),
    }
}

/// Gives a new file the permissions and the owners of policy files.
pub(super) fn dress(file: &File) -> io::Result<()> {
    file.set_permissions(fs::Permissions::from_mode(MODE))?;
    if let Some(group) = super::group("qubes") {
        // Only root may give files away; for others the file is theirs.
        let _ = rustix::fs::fchown(file, Some(rustix::fs::Uid::ROOT), Some(group));
    }
    Ok(())
}

/// Writes a file so that there is the old one or the new one, whatever happens.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let written = || -> io::Result<()> {
        // Hidden names are not read as policy. It is made, never opened: a name that somebody else had put there is
        // passed over.
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new().prefix(".policy-").tempfile_in(folder)?;
        dress(file.as_file())?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map(drop).map_err(|error| error.error)
    };
    written().map_err(|error| about(path, &error).into())
}

#[cfg(test)]
mod tests;
