//! From a command line to running streams: which file or socket provides a service, what its
//! configuration says, in which environment and as whom it runs.
//!
//! Both sides use it: the agent for the calls that its daemon allows, dom0 for the services that
//! Both sides use it: the agent for the calls that its daemon allows, and dom0 for the services that VMs call there.
//! The order is always the same: [`Services::config`] (which may postpone the call),
//! [`Services::start_detached`].
//!
//! Starting costs one `posix_spawn(3)` and no shell as long as the service runs as our own user.

use std::ffi::CString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use wire::command::{CommandError, CommandKind, ServiceCall};
use wire::names::ServiceName;
use wire::usbip::Rules;

mod account;
mod argv;
pub(crate) mod config;
mod environment;
mod image;
mod login;
mod lookup;
mod paths;
#[cfg(feature = "pam")]
mod session;
mod start;
mod stderr_log;
mod tcp;
mod waiting;

pub use account::{Account, Users};
pub use config::{Builtin, ConfigError, Existing, Problem, ServiceConfig};
pub use environment::Environment;
pub use lookup::Provider;
pub use paths::{MAX_FILE_NAME, SearchPath};
pub use start::{Started, Stderr};
pub use stderr_log::{StderrLog, stderr_is_journal};
pub use tcp::TcpError;
pub use waiting::SessionWait;

use crate::Installation;
use crate::process::EXIT_TROUBLE;

/// Exit code of a call whose service does not exist.
pub const EXIT_NOT_FOUND: i32 = 127;

/// Why a command or service could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// There is no such file in any folder.
    #[error("there is no service {0}")]
    NotFound(ServiceName),
    /// No file can have this name.
    #[error("a service name of {0} bytes, without its argument: at most {MAX_FILE_NAME} are possible")]
    NameTooLong(usize),
    /// A file or folder that cannot be examined.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A configuration file that cannot be used.
    #[error("{}: {source}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// A link to `/dev/tcp…` that leads nowhere.
    #[error("{}: {source}", path.display())]
    Tcp {
        /// The link.
        path: PathBuf,
        /// What is wrong with it.
        source: TcpError,
    },
    /// Neither a program, nor text, nor a socket; or not found by an absolute path.
    #[error("{}: neither a program nor a socket under an absolute path", .0.display())]
    NoService(PathBuf),
    /// A socket service that does not accept the connection.
    #[error("cannot connect to {to}: {source}")]
    Connect {
        /// Path or address.
        to: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A program that does not start.
    #[error("cannot start {}: {source}", file.display())]
    Spawn {
        /// The program.
        file: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A program whose interpreter or loader does not exist.
    #[error("cannot start {}: its interpreter {interpreter} is missing", file.display())]
    NoInterpreter {
        /// The program.
        file: PathBuf,
        /// The interpreter in its first line, or the loader that its format needs.
        interpreter: String,
    },
    /// A user whom this machine does not know, or another user than this process's, which cannot become another.
    #[error("cannot run as user {wanted}: {reason}")]
    User {
        /// The name that was asked for.
        wanted: String,
        /// The reason.
        reason: &'static str,
    },
    /// No more calls may wait for a session.
    #[error("too many calls wait for a session already")]
    TooManyCalls,
    /// A command line that is not understood.
    #[error("bad command line: {0}")]
    Command(#[from] CommandError),
    /// No descriptors for the streams.
    #[error("cannot make the streams: {0}")]
    Streams(io::Error),
}

impl ExecError {
    /// Why this program did not start.
    fn spawn(file: &Path, source: io::Error) -> Self {
        let is_missing = source.kind() == io::ErrorKind::NotFound;
        match is_missing.then(|| image::interpreter(file)).flatten() {
            Some(interpreter) => Self::NoInterpreter { file: file.to_owned(), interpreter },
            None => Self::Spawn { file: file.to_owned(), source },
        }
    }

    /// The exit code for the caller: 127 if the service (or its interpreter) does not exist, 125 for everything else.
    #[must_use]
    pub fn code(&self) -> i32 {
        match self {
            Self::NotFound(_) | Self::NoInterpreter { .. } => EXIT_NOT_FOUND,
            Self::Spawn { source, .. } if source.kind() == io::ErrorKind::NotFound => EXIT_NOT_FOUND,
            _ => EXIT_TROUBLE,
        }
    }
}

/// Where this machine's services are and how they run.
#[derive(Debug, Clone)]
pub struct Services {
    /// Folders of services.
    pub folders: SearchPath,
    /// Folders of their configuration.
    pub configs: SearchPath,
    /// As whom calls run.
    pub users: Users,
    /// What this is a part of: services of a lab keep the variables that lead to the lab, so that they can make calls
    /// themselves.
    pub installation: Installation,
}

/// A command or service that was found and can be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prepared {
    /// A program of this machine.
    Executable(Executable),
    /// A unix stream socket.
    Socket(PathBuf, SocketOptions),
    /// A TCP port.
    Tcp(SocketAddr, SocketOptions),
}

/// A program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executable {
    /// What is executed.
    pub image: Image,
    /// The call it serves; `None` for a command.
    pub call: Option<ServiceCall>,
    /// Its stdin is a pipe to which ring pages may be lent.
    pub splice: bool,
    /// Its stdin and stdout are pipes.
    pub pipes: bool,
    /// The call's own process does the work, if the setting and the kind of call allow it: then nothing is executed.
    pub builtin: Option<Builtin>,
    /// The filter for its two streams, if they are USB over IP.
    pub filter: Option<Rules>,
}

/// What is executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Image {
    /// A program.
    Program(PathBuf),
    /// A text for `/bin/sh`.
    Text(PathBuf),
    /// A command for a shell.
    Shell(CString),
}

impl Image {
    /// The file, if there is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Program(path) | Self::Text(path) => Some(path),
            Self::Shell(_) => None,
        }
    }
}

/// How a socket service is treated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SocketOptions {
    /// Bytes that the service gets before the caller's, usually the call's description with a NUL.
    pub prefix: Vec<u8>,
    /// The call ends as soon as the caller's data end.
    pub exit_on_client_eof: bool,
    /// The call ends as soon as the service's data end.
    pub exit_on_service_eof: bool,
    /// The filter for its two streams, if they are USB over IP.
    pub filter: Option<Rules>,
}

impl Services {
    /// The folders that the environment names, with these users.
    #[must_use]
    pub fn from_env(users: Users, installation: Installation) -> Self {
        Self { folders: SearchPath::services(), configs: SearchPath::configs(), users, installation }
    }

    /// The configuration of a service.
    ///
    /// # Errors
    /// A file that exists and cannot be used: the call must fail.
    pub fn config(&self, service: &ServiceName) -> Result<ServiceConfig, ExecError> {
        ServiceConfig::load(&self.configs, &service.with_plus(), service.name())
    }

    /// Finds what a command line asks for. Nothing is started or connected yet.
    ///
    /// # Errors
    /// No such service, or one that cannot be used.
    pub fn prepare(&self, kind: &CommandKind, config: &ServiceConfig) -> Result<Prepared, ExecError> {
        if let (Users::Any, Some(user)) = (&self.users, &config.force_user) {
            tracing::warn!(
                "force-user={user:?} is ignored: services in dom0 run as the user who started qrexec there"
            );
        }
        let call = match kind {
            CommandKind::Service(call) => call,
            CommandKind::Shell(text) => {
                let text = CString::new(text.clone()).map_err(|_| CommandError::Nul)?;
                return Ok(Prepared::Executable(Executable {
                    image: Image::Shell(text),
                    call: None,
                    splice: false,
                    pipes: false,
                    builtin: None,
                    filter: None,
                }));
            }
        };
        let image = match lookup::find(&self.folders, &call.service)? {
            Provider::Program(path) => Image::Program(path),
            Provider::Text(path) => Image::Text(path),
            Provider::Socket(path) => return Ok(Prepared::Socket(path, SocketOptions::new(call, config))),
            Provider::Tcp(address) => return Ok(Prepared::Tcp(address, SocketOptions::new(call, config))),
        };
        if let (Some(key), Some(path)) = (config.socket_only_key(), image.path()) {
            tracing::warn!("{key}=true is for sockets, {} is a program: ignored", path.display());
        }
        Ok(Prepared::Executable(Executable {
            image,
            call: Some(call.clone()),
            splice: config.splice,
            pipes: config.pipes,
            builtin: config.builtin,
            filter: config.filter,
        }))
    }
}

impl SocketOptions {
    fn new(call: &ServiceCall, config: &ServiceConfig) -> Self {
        let mut prefix = Vec::new();
        if !config.skip_service_descriptor {
            prefix.extend_from_slice(call.descriptor().as_bytes());
            prefix.push(0);
        }
        Self {
            prefix,
            exit_on_client_eof: config.exit_on_client_eof,
            exit_on_service_eof: config.exit_on_service_eof,
            filter: config.filter,
        }
    }
}
