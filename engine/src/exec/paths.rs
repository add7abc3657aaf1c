//! Lists of folders with colons between, and finding a file by name in them.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::ExecError;

/// Longest name of a file, in bytes (Linux's `NAME_MAX`).
pub const MAX_FILE_NAME: usize = 255;

/// Where a symbolic link leads that stands for a TCP connection; no such file exists.
const TCP: &[u8] = b"/dev/tcp";

/// The folders of services, unless the environment names others.
const SERVICES: &str = "/run/qubes-rpc:/usr/local/etc/qubes-rpc:/etc/qubes-rpc:/etc/qubes_rpc";
/// The name of the last of them in R1: a service that is found there is named in the log.
const OLDEST: &str = "qubes_rpc";
/// The folders of their configuration, unless the environment names others.
const CONFIGS: &str = "/run/qubes/rpc-config:/usr/local/etc/qubes/rpc-config:/etc/qubes/rpc-config";

/// Folders to be searched, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchPath(Vec<PathBuf>);

/// A file that was found.
#[derive(Debug)]
pub struct FoundFile {
    /// The folder of the search path, with the name.
    pub path: PathBuf,
    /// What was found there.
    pub what: Found,
}

/// What a name in a folder leads to.
#[derive(Debug)]
pub enum Found {
    /// A file of any kind, after all links.
    File(Metadata),
    /// A link to `/dev/tcp…`: what follows `/dev/tcp`, either nothing or `/HOST` or `/HOST/PORT`.
    Tcp(Vec<u8>),
}

impl SearchPath {
    /// Reads a list with colons between the folders; empty parts are ignored.
    #[must_use]
    pub fn new(list: &OsStr) -> Self {
        let parts = list.as_bytes().split(|&byte| byte == b':').filter(|part| !part.is_empty());
        Self(parts.map(|part| PathBuf::from(OsStr::from_bytes(part))).collect())
    }

    /// Where services are: `QREXEC_SERVICE_PATH`, or the folders every Qubes system has.
    #[must_use]
    pub fn services() -> Self {
        Self::from_variable("QREXEC_SERVICE_PATH", SERVICES)
    }

    /// Where their configuration is: `QUBES_RPC_CONFIG_PATH`, or the usual folders.
    #[must_use]
    pub fn configs() -> Self {
        Self::from_variable("QUBES_RPC_CONFIG_PATH", CONFIGS)
    }

    fn from_variable(variable: &str, default: &str) -> Self {
        Self::new(std::env::var_os(variable).as_deref().unwrap_or(OsStr::new(default)))
    }

    /// The file with this name in the first folder that has one. A name that no file can have is found nowhere; a link
    /// that leads nowhere counts as no file.
    ///
    /// # Errors
    /// Any error but "no such file": a file that cannot be examined might forbid or replace one that is found later,
    /// so the search ends.
    pub fn find(&self, name: &str) -> Result<Option<FoundFile>, ExecError> {
        self.find_if(name, |_| true)
    }

    /// [`find`](Self::find), ignoring files that `wanted` rejects.
    ///
    /// # Errors
    /// As for [`find`](Self::find).
    pub fn find_if(
        &self,
        name: &str,
        wanted: impl Fn(&Found) -> bool,
    ) -> Result<Option<FoundFile>, ExecError> {
        if name.len() > MAX_FILE_NAME {
            return Ok(None);
        }
        for folder in &self.0 {
            let path = folder.join(name);
            match look(&path) {
                Ok(Some(what)) if wanted(&what) => {
                    if folder.file_name() == Some(OsStr::new(OLDEST)) {
                        tracing::warn!("{}: this folder's name is outdated, use qubes-rpc", path.display());
                    }
                    return Ok(Some(FoundFile { path, what }));
                }
                Ok(_) => {}
                Err(source) => return Err(ExecError::Unreadable { path, source }),
            }
        }
        Ok(None)
    }
}

fn look(path: &Path) -> io::Result<Option<Found>> {
    let Some(metadata) = present(std::fs::symlink_metadata(path))? else { return Ok(None) };
    if !metadata.is_symlink() {
        return Ok(Some(Found::File(metadata)));
    }
    let leads_to = std::fs::read_link(path)?;
    match leads_to.as_os_str().as_bytes().strip_prefix(TCP) {
        Some(address @ ([] | [b'/', ..])) => Ok(Some(Found::Tcp(address.to_vec()))),
        _ => Ok(present(std::fs::metadata(path))?.map(Found::File)),
    }
}

fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn folders() -> (tempfile::TempDir, SearchPath) {
        let dir = tempfile::tempdir().expect("tempdir");
        for name in ["a", "b"] {
            std::fs::create_dir(dir.path().join(name)).expect("mkdir");
        }
        let list = format!("{0}/a::{0}/b:{0}/none", dir.path().display());
        (dir, SearchPath::new(OsStr::new(&list)))
    }

    #[test]
    fn the_first_folder_wins_and_dangling_links_are_nothing() {
        let (dir, path) = folders();
        std::fs::write(dir.path().join("b/x"), "b").expect("write");
        symlink("nowhere", dir.path().join("a/x")).expect("symlink");
        let found = path.find("x").expect("search").expect("there");
        assert_eq!(found.path, dir.path().join("b/x"));
        std::fs::write(dir.path().join("a/nowhere"), "a").expect("write");
        let found = path.find("x").expect("search").expect("there");
        assert_eq!(found.path, dir.path().join("a/x"));
        assert!(path.find("y").expect("search").is_none());
    }

    #[test]
    fn the_usual_folders_in_their_order() {
        // A name that no environment has.
        let folders = |default| SearchPath::from_variable("QREXEC_TEST_NOTHING", default).0;
        let services = ["/run/qubes-rpc", "/usr/local/etc/qubes-rpc", "/etc/qubes-rpc", "/etc/qubes_rpc"]
            .map(PathBuf::from);
        assert_eq!(folders(SERVICES), services);
        let configs = ["/run/qubes/rpc-config", "/usr/local/etc/qubes/rpc-config", "/etc/qubes/rpc-config"];
        assert_eq!(folders(CONFIGS), configs.map(PathBuf::from));
    }

    #[test]
    fn a_name_too_long_for_a_file_is_nowhere() {
        let (_dir, path) = folders();
        assert!(path.find(&"x".repeat(MAX_FILE_NAME)).expect("search").is_none());
        assert!(path.find(&"x".repeat(MAX_FILE_NAME + 1)).expect("search").is_none());
    }

    #[test]
    fn only_whole_words_are_tcp() {
        let (dir, path) = folders();
        for (name, leads_to) in
            [("t1", "/dev/tcp"), ("t2", "/dev/tcp/"), ("t3", "/dev/tcp/::1/80"), ("t4", "/dev/tcpx")]
        {
            symlink(leads_to, dir.path().join("a").join(name)).expect("symlink");
        }
        let tcp = |name| match path.find(name).expect("search").map(|found| found.what) {
            Some(Found::Tcp(rest)) => Some(String::from_utf8(rest).expect("text")),
            _ => None,
        };
        assert_eq!(tcp("t1").as_deref(), Some(""));
        assert_eq!(tcp("t2").as_deref(), Some("/"));
        assert_eq!(tcp("t3").as_deref(), Some("/::1/80"));
        assert_eq!(tcp("t4"), None);
    }

    #[test]
    fn a_folder_that_is_a_file_is_an_error_not_an_absence() {
        let (dir, _) = folders();
        std::fs::write(dir.path().join("file"), "").expect("write");
        let list = format!("{0}/file:{0}/a", dir.path().display());
        let path = SearchPath::new(OsStr::new(&list));
        assert!(matches!(path.find("x"), Err(ExecError::Unreadable { .. })));
    }
}
