//! The command line and the environment of `qrexec-daemon`.

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser};
use daemon_core::question::User;
use policy::BadUser;
use wire::names::{DomainName, NameError, Target};

/// How long the agent may take at first, if nothing else is said.
const STARTUP_SECONDS: u64 = 60;
/// The folders of the policy, if nothing else is said.
const POLICY_FOLDERS: &str = "/run/qubes/policy.d:/etc/qubes/policy.d";
/// The policy daemon's socket, if nothing else is said.
const POLICY_SOCKET: &str = "/run/qubes/policy.sock";

/// Services in dom0 at once. Each has two processes in dom0 or more, which is where all VMs have to find room: no VM
/// needs so many, and a dozen VMs with all of theirs are still a load that dom0 bears.
const MAX_SERVICES: usize = 128;
/// Qubes that start at once. A start takes seconds of all processors and disks, so that more at a time are slower.
const MAX_STARTING: usize = 8;
/// Disposables at once. Each takes hundreds of MiB, so that memory ends long before that on most machines, and what
/// starts them says so; where it does not end, this does.
const MAX_DISPOSABLES: usize = 64;

/// Serves the calls from and to one VM: decides by policy, and brings both ends together.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(name = "qrexec-daemon", version, args_override_self = true, infer_long_args = true)]
pub struct DaemonArgs {
    /// Say nothing while waiting for the agent.
    #[arg(short, long)]
    pub quiet: bool,
    /// Folder of the daemons' sockets.
    #[arg(long, value_name = "DIR", env = "QREXEC_SOCKET_DIR", default_value = "/var/run/qubes")]
    pub socket_dir: PathBuf,
    /// Program that decides about calls where no policy daemon does.
    #[arg(short, long, value_name = "PATH")]
    pub policy_program: Option<PathBuf>,
    /// Stay in the foreground and log to standard error.
    #[arg(short = 'D', long)]
    pub direct: bool,
    /// Do not confine the processes of services in dom0, for debugging; QREXEC_CONFINE=off does the same.
    #[arg(long)]
    pub no_confine: bool,
    /// What is logged; else QREXEC_LOG says so, else RUST_LOG.
    // It is read before everything else, by whoever sets up the log.
    #[arg(long, value_name = "LEVEL", value_parser = ["error", "warn", "info", "debug", "trace"])]
    pub log_level: Option<String>,
    /// Calls of the VM that may wait for an answer or be served in dom0 at once; more are refused. By default as many
    /// as half of the descriptors that this process may have.
    #[arg(long, value_name = "N", env = "QREXEC_MAX_CALLS")]
    pub max_calls: Option<usize>,
    /// Calls to the VM that may be there at once, until their callers have ended; each caller may have half of what the
    /// others leave, and more are refused. By default as many as three eighths of the descriptors that this process may have.
    #[arg(long, value_name = "N")]
    pub max_served: Option<usize>,
    /// Services in dom0 that may run for calls of the VM at once; more calls of them are refused.
    #[arg(long, value_name = "N", env = "QREXEC_MAX_SERVICES", default_value_t = MAX_SERVICES)]
    pub max_services: usize,
    /// Qubes that may be started or made for calls of the VM at once; further calls that need it are refused.
    #[arg(long, value_name = "N", env = "QREXEC_MAX_STARTING", default_value_t = MAX_STARTING)]
    pub max_starting: usize,
    /// Disposables that may be there for calls of the VM at once; further calls that need one are refused.
    #[arg(long, value_name = "N", env = "QREXEC_MAX_DISPOSABLES", default_value_t = MAX_DISPOSABLES)]
    pub max_disposables: usize,
    /// Speak the protocol of R1 and R2 with the agent, and with programs of dom0.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1))]
    pub protocol: Option<u32>,
    /// UUID of the VM, under which it is found too.
    #[arg(short, long, value_name = "UUID", value_parser = uuid)]
    pub uuid: Option<Target>,
    /// Domain id of the VM.
    pub id: NonZeroU32,
    /// Name of the VM.
    #[arg(value_parser = name)]
    pub name: DomainName,
    /// User for whom `DEFAULT` stands.
    #[arg(default_value = "user", value_parser = user)]
    pub default_user: User,
}

impl DaemonArgs {
    /// Reads the arguments, the program's own name first, as the C program does.
    ///
    /// # Errors
    /// Those of clap; help and version are among them.
    pub fn read(args: Vec<OsString>) -> Result<Self, clap::Error> {
        engine::getopt::matches(Self::command(), args).and_then(|matches| Self::from_arg_matches(&matches))
    }
}

/// What the environment says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// How long the agent may take at first (`QREXEC_STARTUP_TIMEOUT`); `None` for ever
    /// (`QREXEC_STARTUP_NOWAIT`).
    pub startup_limit: Option<Duration>,
    /// Folder of the log (`QREXEC_LOG_DIR`).
    pub log_dir: PathBuf,
    /// Folders of the policy (`QREXEC_POLICY_DIR`).
    pub policy_folders: Vec<PathBuf>,
    /// The file that describes the system (`QREXEC_SYSTEM_INFO`).
    pub system_info: Option<PathBuf>,
    /// Whether targets can be started: by `qubesd`, or by the command that `QREXEC_VM_COMMAND` names. A
    /// system described by a file has no `qubesd` unless `QREXEC_QUBESD_DIR` says where.
    pub may_start: bool,
    /// The policy daemon's socket (`QREXEC_POLICY_SOCKET`); an empty name is none. A system described
    /// by a file has none unless one is named: it is not the system that the policy daemon knows.
    pub policy_socket: Option<PathBuf>,
}

impl Environment {
    /// Reads the variables through `get`.
    pub fn read(get: impl Fn(&str) -> Option<OsString>) -> Self {
        let folders = get("QREXEC_POLICY_DIR").unwrap_or_else(|| POLICY_FOLDERS.into());
        let folders = std::env::split_paths(&folders).filter(|path| !path.as_os_str().is_empty());
        Self {
            startup_limit: get("QREXEC_STARTUP_NOWAIT").is_none().then(|| startup_limit(&get)),
            log_dir: get("QREXEC_LOG_DIR").map_or_else(|| "/var/log/qubes".into(), PathBuf::from),
            policy_folders: folders.collect(),
            may_start: get("QREXEC_SYSTEM_INFO").is_none()
                || get("QREXEC_VM_COMMAND").is_some()
                || get("QREXEC_QUBESD_DIR").is_some(),
            policy_socket: match get("QREXEC_POLICY_SOCKET") {
                Some(path) => Some(PathBuf::from(path)).filter(|path| !path.as_os_str().is_empty()),
                None => get("QREXEC_SYSTEM_INFO").is_none().then(|| POLICY_SOCKET.into()),
            },
            system_info: get("QREXEC_SYSTEM_INFO").map(PathBuf::from),
        }
    }
}

/// A number of seconds; anything else counts as not said, as it does upstream.
fn startup_limit(get: &impl Fn(&str) -> Option<OsString>) -> Duration {
    let said = get("QREXEC_STARTUP_TIMEOUT");
    let seconds = said.and_then(|text| text.to_str()?.trim().parse().ok()).filter(|seconds| *seconds > 0);
    Duration::from_secs(seconds.unwrap_or(STARTUP_SECONDS))
}

/// Why an argument cannot be what it stands for.
#[derive(Debug, thiserror::Error)]
enum BadArgument {
    #[error("a UUID has hexadecimal digits and dashes")]
    Uuid,
    #[error("{0}")]
    Name(#[from] NameError),
    #[error("a user's name that {0}")]
    User(BadUser),
}

fn uuid(text: &str) -> Result<Target, BadArgument> {
    let digits = text.strip_prefix("uuid:").unwrap_or(text);
    let fits = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
    if digits.is_empty() || !digits.bytes().all(fits) {
        return Err(BadArgument::Uuid);
    }
    Ok(Target::new(&format!("uuid:{digits}"))?)
}

fn name(text: &str) -> Result<DomainName, BadArgument> {
    Ok(DomainName::new(text)?)
}

fn user(text: &str) -> Result<User, BadArgument> {
    User::new(text).map_err(BadArgument::User)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<DaemonArgs, clap::Error> {
        DaemonArgs::read(std::iter::once(&"qrexec-daemon").chain(args).map(OsString::from).collect())
    }

    #[test]
    fn the_forms_that_upstream_has() {
        let args =
            parse(&["-D", "-q", "--socket-dir=/tmp/x", "-p", "/bin/p", "-u", "aa-11", "3", "work", "me"]);
        let args = args.unwrap();
        assert!(args.direct && args.quiet);
        assert_eq!((args.id.get(), args.name.as_str(), args.default_user.as_str()), (3, "work", "me"));
        assert_eq!(args.uuid.unwrap().as_str(), "uuid:aa-11");
        assert_eq!(args.policy_program, Some("/bin/p".into()));
        // As getopt takes them: the last one holds, and a beginning is enough.
        let args = parse(&["--socket-dir=/tmp/y", "--socket=/tmp/x", "3", "work"]).unwrap();
        assert_eq!(args.socket_dir, PathBuf::from("/tmp/x"));
        assert_eq!(args.default_user.as_str(), "user");
        let cluster = parse(&["-Dqp/bin/p", "3", "work", "-uaa-11"]).unwrap();
        assert!(cluster.direct && cluster.quiet && cluster.uuid.is_some());
        assert_eq!(cluster.policy_program, Some("/bin/p".into()));
        assert!(args.uuid.is_none() && args.policy_program.is_none());
        assert_eq!((args.max_services, args.max_starting, args.max_disposables), (128, 8, 64));
    }

    #[test]
    fn dom0_and_rubbish_have_no_daemon() {
        for bad in [&["0", "work"][..], &["x", "work"], &["3"], &["3", "../x"], &["3", "w", "u", "x"]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert!(parse(&["-u", "../x", "3", "work"]).is_err());
        assert!(parse(&["3", "work", "a:b"]).is_err());
    }

    #[test]
    fn the_environment_has_defaults() {
        let plain = Environment::read(|_| None);
        assert_eq!(plain.startup_limit, Some(Duration::from_secs(60)));
        assert_eq!(plain.policy_folders.len(), 2);
        let log = crate::startup::log_path(&plain.log_dir, "work");
        assert_eq!(log, PathBuf::from("/var/log/qubes/qrexec.work.log"));
        let set = Environment::read(|name| match name {
            "QREXEC_STARTUP_TIMEOUT" => Some("7".into()),
            "QREXEC_POLICY_DIR" => Some("/a::/b".into()),
            _ => None,
        });
        assert_eq!(set.startup_limit, Some(Duration::from_secs(7)));
        assert_eq!(set.policy_folders, [PathBuf::from("/a"), PathBuf::from("/b")]);
        let rubbish = Environment::read(|name| (name == "QREXEC_STARTUP_TIMEOUT").then(|| "-3".into()));
        assert_eq!(rubbish.startup_limit, Some(Duration::from_secs(60)));
        assert_eq!(Environment::read(|_| Some("x".into())).startup_limit, None);
    }
}
