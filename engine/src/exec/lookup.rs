//! From the name of a service to what has to be started or connected.

use std::fs::Metadata;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};
use wire::names::ServiceName;

use super::ExecError;
use super::paths::{Found, FoundFile, MAX_FILE_NAME, SearchPath};
use super::tcp;

/// What provides a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provider {
    /// A program.
    Program(PathBuf),
    /// A text without the executable bit, as some services of R2 and R3 are: `/bin/sh` runs it.
    Text(PathBuf),
    /// A unix stream socket.
    Socket(PathBuf),
    /// A TCP port.
    Tcp(SocketAddr),
}

/// Finds what provides a service: a file `SERVICE+ARG` in any folder (`SERVICE+` without an argument), else one named
/// `SERVICE`. Empty files are ignored.
///
/// # Errors
/// [`ExecError::NotFound`], or why the file that was found cannot be used.
pub(super) fn find(folders: &SearchPath, service: &ServiceName) -> Result<Provider, ExecError> {
    let (full, name) = (service.with_plus(), service.name());
    if name.len() > MAX_FILE_NAME {
        return Err(ExecError::NameTooLong(name.len()));
    }
    let found = match folders.find_if(&full, is_not_empty)? {
        Some(found) => found,
        None => folders.find_if(name, is_not_empty)?.ok_or_else(|| ExecError::NotFound(service.clone()))?,
    };
    provider(found, service)
}

fn is_not_empty(found: &Found) -> bool {
    match found {
        Found::File(metadata) => !metadata.is_file() || metadata.len() > 0,
        Found::Tcp(_) => true,
    }
}

fn provider(found: FoundFile, service: &ServiceName) -> Result<Provider, ExecError> {
    match found.what {
        Found::Tcp(address) => tcp::address(&address, service.argument())
            .map(Provider::Tcp)
            .map_err(|source| ExecError::Tcp { path: found.path, source }),
        Found::File(metadata) => file(found.path, &metadata),
    }
}

fn file(path: PathBuf, metadata: &Metadata) -> Result<Provider, ExecError> {
    if metadata.file_type().is_socket() {
        Ok(Provider::Socket(path))
    } else if !metadata.is_file() || path.is_relative() {
        Err(ExecError::NoService(path))
    } else if is_executable(&path) {
        Ok(Provider::Program(path))
    } else {
        Ok(Provider::Text(path))
    }
}

/// Whether this process, with its present rights, may execute the file.
fn is_executable(path: &Path) -> bool {
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    struct Folders(tempfile::TempDir, SearchPath);

    impl Folders {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("tempdir");
            let list = format!("{0}/a:{0}/b", dir.path().display());
            for name in ["a", "b"] {
                std::fs::create_dir(dir.path().join(name)).expect("mkdir");
            }
            let path = SearchPath::new(list.as_ref());
            Self(dir, path)
        }

        fn file(&self, name: &str, mode: u32, text: &str) -> PathBuf {
            let path = self.0.path().join(name);
            std::fs::write(&path, text).expect("write");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("chmod");
            path
        }

        fn find(&self, service: &str) -> Result<Provider, ExecError> {
            find(&self.1, &ServiceName::new(service).expect("name"))
        }
    }

    #[test]
    fn the_argument_comes_before_the_folder() {
        let folders = Folders::new();
        let plain = folders.file("a/s", 0o755, "#!/bin/sh\n");
        let with_argument = folders.file("b/s+x", 0o755, "#!/bin/sh\n");
        let without = folders.file("b/s+", 0o755, "#!/bin/sh\n");
        assert_eq!(folders.find("s+x").expect("there"), Provider::Program(with_argument));
        assert_eq!(folders.find("s+y").expect("there"), Provider::Program(plain));
        assert_eq!(folders.find("s").expect("there"), Provider::Program(without));
    }

    #[test]
    fn an_empty_file_is_passed_over() {
        let folders = Folders::new();
        folders.file("a/s", 0o755, "");
        assert_eq!(folders.find("s").expect_err("nothing").code(), 127);
        let second = folders.file("b/s", 0o755, "#!/bin/sh\n");
        assert_eq!(folders.find("s").expect("there"), Provider::Program(second));
    }

    #[test]
    fn text_sockets_and_folders_are_told_apart() {
        let folders = Folders::new();
        let text = folders.file("a/text", 0o644, "exec true\n");
        assert_eq!(folders.find("text").expect("there"), Provider::Text(text));
        std::fs::create_dir(folders.0.path().join("a/folder")).expect("mkdir");
        assert_eq!(folders.find("folder").expect_err("no service").code(), 125);

        let real = folders.0.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&real).expect("bind");
        let link = folders.0.path().join("a/sock");
        symlink(&real, &link).expect("symlink");
        assert_eq!(folders.find("sock").expect("there"), Provider::Socket(link));
    }

    #[test]
    fn long_names() {
        let folders = Folders::new();
        let plain = folders.file("a/s", 0o755, "#!/bin/sh\n");
        let argument = "x".repeat(400);
        assert_eq!(folders.find(&format!("s+{argument}")).expect("there"), Provider::Program(plain));
        let long = "s".repeat(MAX_FILE_NAME + 1);
        assert_eq!(folders.find(&long).expect_err("too long").code(), 125);
        assert_eq!(folders.find("nothing+x").expect_err("absent").code(), 127);
    }

    #[test]
    fn tcp_takes_host_and_port_from_link_or_argument() {
        let folders = Folders::new();
        for (name, leads_to) in [
            ("full", "/dev/tcp/127.0.0.1/80"),
            ("host", "/dev/tcp/::1"),
            ("none", "/dev/tcp"),
            ("slash", "/dev/tcp/"),
        ] {
            symlink(leads_to, folders.0.path().join("a").join(name)).expect("symlink");
        }
        let tcp = |service| match folders.find(service) {
            Ok(Provider::Tcp(address)) => Some(address.to_string()),
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                assert_eq!(error.code(), 125);
                None
            }
        };
        assert_eq!(tcp("full").as_deref(), Some("127.0.0.1:80"));
        assert_eq!(tcp("full+").as_deref(), Some("127.0.0.1:80"));
        assert_eq!(tcp("full+80"), None);
        assert_eq!(tcp("host+443").as_deref(), Some("[::1]:443"));
        assert_eq!(tcp("host"), None);
        assert_eq!(tcp("none+127.0.0.1+22").as_deref(), Some("127.0.0.1:22"));
        assert_eq!(tcp("none+++1+22").as_deref(), Some("[::1]:22"));
        assert_eq!(tcp("none+22"), None);
        assert_eq!(tcp("slash+22"), None);
    }
}
