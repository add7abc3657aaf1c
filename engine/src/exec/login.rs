//! How root runs a call: as the user it names, in their login shell.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::Gid;
use wire::command::ServiceCall;

use super::argv::{SHELL, argument, c_path};
use super::environment::{DESCRIPTION, description};
use super::image::{check_text, is_odd};
use super::{Account, EXIT_NOT_FOUND, Environment, Executable, Image};
use crate::process::{Child, EXIT_TROUBLE, fork_keeping, replace};

/// Variables that belong to the session of the user who started the agent.
const OF_A_SESSION: [&str; 3] = ["XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "MAIL"];

/// Starts `what` as the user: in a session of its own, in their home folder if it can be entered.
///
/// A service runs under `/bin/sh -lc` with nothing but literals in the script; a command runs under
/// the user's own shell, as a login shell. With the feature `pam` there is a PAM session around it,
/// held open by a process that waits for the user's.
///
/// # Errors
/// No process, or no groups for the user. What fails in the new process (the exec itself) becomes
/// its exit code, 127 or 125.
pub(super) fn start(
    account: &Account,
    what: &Executable,
    environment: Environment,
    streams: [BorrowedFd<'_>; 3],
) -> io::Result<Child> {
    let groups = account.groups().ok_or_else(|| io::Error::other("cannot read the user's groups"))?;
    let command = match &what.image {
        // A login shell could execute its bytes as commands.
        Image::Program(path) if is_odd(path) => Start::Direct(what.call.clone(), words(what)?),
        Image::Text(path) => check_text(path).and_then(|()| Ok(Start::Shell(command(account, what)?)))?,
        _ => Start::Shell(command(account, what)?),
    };
    let login = Login { account, groups, streams };
    fork_keeping(&streams, || login.run(command, environment))
}

/// What a new process executes.
enum Start {
    /// A shell, with the variables of the user's login, and through it the program.
    Shell(Command),
    /// The program itself; the kernel decides whether it is one.
    Direct(Option<ServiceCall>, Vec<CString>),
}

/// What the new process becomes.
struct Login<'a> {
    account: &'a Account,
    groups: Vec<Gid>,
    streams: [BorrowedFd<'a>; 3],
}

impl Login<'_> {
    /// In the new process: executes the program.
    #[cfg(not(feature = "pam"))]
    fn run(&self, start: Start, mut environment: Environment) -> i32 {
        describe_user(self.account, &mut environment);
        self.exec(start, environment)
    }

    /// In the new process: opens a session, runs the program in another process, closes the session
    /// when that has ended.
    #[cfg(feature = "pam")]
    fn run(&self, start: Start, environment: Environment) -> i32 {
        match self.attend(start, environment) {
            Ok(status) => status,
            Err(error) => {
                tracing::error!("no session for user {}: {error}", self.account.name);
                EXIT_TROUBLE
            }
        }
    }

    #[cfg(feature = "pam")]
    fn attend(&self, start: Start, mut environment: Environment) -> io::Result<i32> {
        use std::os::fd::{AsFd, OwnedFd};
        // Copies that this process can close. Otherwise the call would wait for the end of its streams until the
        // session is closed. PAM's modules open files of their own after that.
        let [stdin, stdout, stderr] = self.streams;
        let copy = |stream: BorrowedFd<'_>| -> io::Result<OwnedFd> { stream.try_clone_to_owned() };
        let streams = [copy(stdin)?, copy(stdout)?, copy(stderr)?];
        crate::process::close_inherited(&streams.each_ref().map(AsFd::as_fd))?;
        let session =
            super::session::Session::open(&self.account.name, &self.groups).map_err(io::Error::other)?;
        environment.keep_own();
        for (name, value) in session.environment() {
            environment.set(name, value);
        }
        describe_user(self.account, &mut environment);
        let child = {
            let streams = streams.each_ref().map(AsFd::as_fd);
            let login = Login { account: self.account, groups: self.groups.clone(), streams };
            fork_keeping(&streams, || login.exec(start, environment))
        };
        drop(streams);
        let status = child.and_then(|mut child| child.wait());
        session.close();
        status
    }

    fn exec(&self, start: Start, environment: Environment) -> i32 {
        let error = self.become_program(start, environment);
        tracing::error!("cannot start a program for user {}: {error}", self.account.name);
        if error.kind() == io::ErrorKind::NotFound { EXIT_NOT_FOUND } else { EXIT_TROUBLE }
    }
}

impl Login<'_> {
    /// Returns only if it failed, and then with the previous stderr in place: error messages of this program are not
    /// for the caller.
    fn become_program(&self, start: Start, environment: Environment) -> io::Error {
        let log = match rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3) {
            Ok(log) => log,
            Err(error) => return error.into(),
        };
        let error = match enter(self.account, &self.groups, self.streams) {
            Ok(()) => start.exec(environment),
            Err(error) => error,
        };
        let _ = rustix::stdio::dup2_stderr(&log);
        error
    }
}

impl Start {
    fn exec(self, mut environment: Environment) -> io::Error {
        match self {
            Self::Shell(mut command) => command.env_clear().envs(environment.iter()).exec(),
            Self::Direct(call, words) => {
                if let Some(call) = &call {
                    environment.describe(call);
                }
                let file = words.first().cloned().unwrap_or_default();
                replace(&file, &words, &environment.to_strings())
            }
        }
    }
}

fn describe_user(account: &Account, environment: &mut Environment) {
    if account.uid != rustix::process::getuid() {
        for name in OF_A_SESSION {
            environment.remove(name);
        }
    }
    environment.set("HOME", &account.home);
    environment.set("SHELL", &account.shell);
    environment.set("USER", &account.name);
    environment.set("LOGNAME", &account.name);
}

/// In the new process: becomes the user, with these streams.
fn enter(account: &Account, groups: &[Gid], streams: [BorrowedFd<'_>; 3]) -> io::Result<()> {
    let [stdin, stdout, stderr] = streams;
    rustix::stdio::dup2_stdin(stdin)?;
    rustix::stdio::dup2_stdout(stdout)?;
    rustix::process::setsid()?;
    // This process has one thread, so settings of the thread are those of the process.
    rustix::thread::set_thread_groups(groups)?;
    rustix::thread::set_thread_res_gid(account.gid, account.gid, account.gid)?;
    rustix::thread::set_thread_res_uid(account.uid, account.uid, account.uid)?;
    if let Err(error) = rustix::process::chdir(&account.home) {
        tracing::warn!("{}: {error}", account.home.display());
    }
    // Last of all: messages before this are not for the caller.
    Ok(rustix::stdio::dup2_stderr(stderr)?)
}

fn command(account: &Account, what: &Executable) -> io::Result<Command> {
    if let Image::Shell(text) = &what.image {
        let mut name = OsString::from("-");
        name.push(account.shell.file_name().unwrap_or_default());
        let mut command = Command::new(&account.shell);
        command.arg0(name).arg("-c").arg(OsStr::from_bytes(text.to_bytes()));
        return Ok(command);
    }
    let mut command = Command::new(OsStr::from_bytes(SHELL.to_bytes()));
    command.arg("-lc").arg(script()).arg("sh");
    if let Some(call) = &what.call {
        command.args(description(call).into_iter().map(|(name, value)| format!("{name}={value}")));
    }
    command.arg(END_OF_VARIABLES);
    command.args(words(what)?.iter().map(|word| OsStr::from_bytes(word.to_bytes())));
    Ok(command)
}

/// Ends the variables among the script's arguments; no variable looks like it.
const END_OF_VARIABLES: &str = ":";

/// What the login shell does: it sets the variables of the call again from its arguments, since its start-up files may
/// have changed them, and then executes the remaining arguments. The script contains no byte of any call.
fn script() -> String {
    format!(
        "unset {names}; \
         while [ \"$1\" != {END_OF_VARIABLES} ]; do export \"$1\"; shift; done; shift; \
         exec \"$@\"",
        names = DESCRIPTION.join(" ")
    )
}

/// The program and its argument.
fn words(what: &Executable) -> io::Result<Vec<CString>> {
    let mut words = Vec::new();
    match &what.image {
        Image::Program(path) => words.push(c_path(path)?),
        Image::Text(path) => words.extend([SHELL.to_owned(), c_path(path)?]),
        Image::Shell(_) => {}
    }
    words.extend(argument(what)?);
    Ok(words)
}
