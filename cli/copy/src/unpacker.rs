//! `qfile-unpacker` and `qfile-dom0-unpacker`: receive files on stdin, answer on stdout.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

use engine::confine::{Confinement, Files, May, Needs, Place};
use engine::exec::{Account, Existing};
use rustix::fs::fstatvfs;
use rustix::process::{Uid, getuid};
use wire::filecopy::{LinkRules, NameRules};

use filecopy::incoming::{NoFolder, incoming, open};
use filecopy::port::Streams;
use filecopy::receiver::{Patience, Settings, receive};
use filecopy::shown::Name;

use crate::sender::complain;

/// How long room is waited for.
const WAIT: Duration = Duration::from_secs(3600);

/// What a command line asks for.
#[derive(Debug, Default)]
struct Task {
    settings: Settings,
    uid: Option<Uid>,
    folder: Option<PathBuf>,
}

/// `qfile-unpacker [-v] [-w BYTES] [--[no-]allow-all-names] [--[no-]allow-unsafe-symlinks]
/// [--existing=RULE] [--] [UID [DIR]]`, or the
/// older `UID DIR [-v] [-w [BYTES]]`.
pub fn main(args: Vec<OsString>) -> i32 {
    let words: Vec<OsString> = args.into_iter().skip(1).collect();
    let done = parse(&words).map_err(CannotReceive::from).and_then(|task| {
        become_user(task.uid)?;
        let root = match &task.folder {
            Some(folder) => open(folder)?,
            None => own_incoming()?,
        };
        run(root, &task.settings)
    });
    finish("qfile-unpacker", done)
}

/// `qfile-dom0-unpacker USER|UID DIR [-v] [-w [BYTES]] [--only-regular-files]`
pub fn dom0_main(args: Vec<OsString>) -> i32 {
    let words: Vec<OsString> = args.into_iter().skip(1).collect();
    let done = parse_dom0(&words).map_err(CannotReceive::from).and_then(|mut task| {
        let folder = task.folder.take().ok_or(CannotReceive::NoFolder)?;
        let made = DirBuilder::new().mode(0o700).create(&folder);
        made.or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
            .map_err(|error| CannotReceive::Make { path: folder.clone(), error })?;
        become_user(task.uid)?;
        let root = open(&folder)?;
        let free = fstatvfs(&root).map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        let limits = &mut task.settings.limits;
        limits.bytes = limit("UPDATES_MAX_BYTES", (4 << 30).min(free / 10 * 9).max(1))?;
        limits.entries = limit("UPDATES_MAX_FILES", 4096)?;
        run(root, &task.settings)
    });
    finish("qfile-dom0-unpacker", done)
}

/// Why nothing is received. The text is the line for stderr.
#[derive(Debug, thiserror::Error)]
enum CannotReceive {
    #[error(transparent)]
    Usage(#[from] Usage),
    #[error("a folder is needed")]
    NoFolder,
    #[error("{}: {error}", Name(path.as_os_str().as_bytes()))]
    Make { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Folder(#[from] NoFolder),
    #[error("only root can receive as user {0}")]
    OnlyRoot(u32),
    #[error("there is no user {0}")]
    NoUser(u32),
    #[error("cannot become user {user}: {error}")]
    User { user: u32, error: io::Error },
    #[error("{0} is not a number")]
    Limit(&'static str),
    #[error("QREXEC_REMOTE_DOMAIN is not set")]
    NoSource,
    #[error("the user has no home")]
    NoHome,
    #[error(transparent)]
    Io(io::Error),
    #[error("this process cannot be confined: {0}")]
    Unconfined(io::Error),
}

/// What is wrong with a command line.
#[derive(Debug, thiserror::Error)]
enum Usage {
    #[error("a number of bytes is missing behind -w")]
    NoNumber,
    #[error("unknown rule in {}", Name(.0))]
    Rule(Vec<u8>),
    #[error("unknown option {}", Name(.0))]
    Option(Vec<u8>),
    #[error("too many words")]
    Words,
    #[error("a user and a folder are needed")]
    Missing,
    #[error("{} is not a number of bytes", Name(.0))]
    Bytes(Vec<u8>),
    #[error("{} is not a user's number", Name(.0))]
    Number(Vec<u8>),
    #[error("there is no user {}", Name(.0))]
    User(Vec<u8>),
}

fn finish(program: &str, done: Result<i32, CannotReceive>) -> i32 {
    done.unwrap_or_else(|error| {
        complain(program, error);
        1
    })
}

fn run(root: OwnedFd, settings: &Settings) -> Result<i32, CannotReceive> {
    let (input, output) = engine::localfd::take_stdin_stdout().map_err(CannotReceive::Io)?;
    // Before a file is opened: one that was opened by other credentials cannot be given a name by `AT_EMPTY_PATH`.
    let needs = Needs { files: Files::Make, ..Needs::default() };
    let places = [Place { at: root.as_fd(), may: May::Make }];
    Confinement::unless(false).close_around(needs, &places).map_err(CannotReceive::Unconfined)?;
    Ok(i32::from(receive(root, &mut Streams::new(input, output), settings).exit_status()))
}

/// A limit of the environment.
fn limit(name: &'static str, otherwise: u64) -> Result<u64, CannotReceive> {
    match std::env::var_os(name) {
        None => Ok(otherwise),
        Some(text) => {
            let number = text.to_str().and_then(|text| text.parse().ok());
            number.ok_or(CannotReceive::Limit(name))
        }
    }
}

fn parse(words: &[OsString]) -> Result<Task, Usage> {
    let old = words.first().is_some_and(|word| word.as_bytes().first().is_some_and(u8::is_ascii_digit));
    if old && words.len() >= 2 {
        return parse_old(words, false);
    }
    let mut task = Task::default();
    let mut words = words.iter();
    let mut plain = Vec::new();
    while let Some(word) = words.next() {
        match word.as_bytes() {
            b"--" => {
                plain.extend(words.by_ref());
            }
            b"-v" | b"--verbose" => task.settings.verbose = true,
            b"-w" | b"--wait-for-space" => {
                let number = words.next().ok_or(Usage::NoNumber)?;
                task.settings.wait = Some(patience(number.as_bytes())?);
            }
            other if other.starts_with(b"--existing=") => {
                let rule = std::str::from_utf8(other.get(11..).unwrap_or_default()).ok();
                let rule = rule.and_then(Existing::named);
                task.settings.existing = rule.ok_or_else(|| Usage::Rule(other.to_vec()))?;
            }
            b"--allow-all-names" => task.settings.limits.names = NameRules::All,
            b"--no-allow-all-names" => task.settings.limits.names = NameRules::Plain,
            b"--allow-unsafe-symlinks" => task.settings.limits.links = LinkRules::Anywhere,
            b"--no-allow-unsafe-symlinks" => task.settings.limits.links = LinkRules::Inside,
            other => match other.strip_prefix(b"--wait-for-space=").or_else(|| other.strip_prefix(b"-w")) {
                Some(number) => task.settings.wait = Some(patience(number)?),
                None if other.starts_with(b"-") => return Err(Usage::Option(other.to_vec())),
                None => plain.push(word),
            },
        }
    }
    let mut plain = plain.into_iter();
    task.uid = plain.next().filter(|uid| !uid.is_empty()).map(|uid| number_of(uid.as_bytes())).transpose()?;
    task.folder = plain.next().map(PathBuf::from);
    if plain.next().is_some() {
        return Err(Usage::Words);
    }
    Ok(task)
}

/// `USER DIR [-v] [-w [BYTES]]`
fn parse_old(words: &[OsString], dom0: bool) -> Result<Task, Usage> {
    let mut words = words.iter().peekable();
    let (Some(user), Some(folder)) = (words.next(), words.next()) else {
        return Err(Usage::Missing);
    };
    let mut task = Task { folder: Some(folder.into()), ..Task::default() };
    task.uid = Some(if dom0 { user_of(user.as_bytes())? } else { number_of(user.as_bytes())? });
    while let Some(word) = words.next() {
        match word.as_bytes() {
            b"-v" => task.settings.verbose = true,
            b"-w" => {
                let number = words.next_if(|word| !word.as_bytes().starts_with(b"-"));
                task.settings.wait = Some(patience(number.map_or(&b"1"[..], |number| number.as_bytes()))?);
            }
            b"--only-regular-files" if dom0 => task.settings.limits.only_files = true,
            other => return Err(Usage::Option(other.to_vec())),
        }
    }
    Ok(task)
}

fn parse_dom0(words: &[OsString]) -> Result<Task, Usage> {
    let mut task = parse_old(words, true)?;
    task.settings.limits.links = LinkRules::Canonical;
    Ok(task)
}

fn patience(number: &[u8]) -> Result<Patience, Usage> {
    let value = decimal(number).filter(|value| *value <= 2_147_483_647);
    let margin = value.ok_or_else(|| Usage::Bytes(number.to_vec()))?;
    Ok(Patience { margin, limit: WAIT })
}

fn number_of(text: &[u8]) -> Result<Uid, Usage> {
    let number =
        decimal(text).and_then(|number| u32::try_from(number).ok()).filter(|number| *number != u32::MAX);
    number.map(Uid::from_raw).ok_or_else(|| Usage::Number(text.to_vec()))
}

fn user_of(text: &[u8]) -> Result<Uid, Usage> {
    let name = std::str::from_utf8(text).ok();
    match name.and_then(Account::by_name) {
        Some(account) => Ok(account.uid),
        None => number_of(text).map_err(|_| Usage::User(text.to_vec())),
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

/// Root becomes whom it is told to be; others can be themselves only. There is one thread.
fn become_user(wanted: Option<Uid>) -> Result<(), CannotReceive> {
    let Some(uid) = wanted.filter(|uid| *uid != getuid()) else { return Ok(()) };
    if !getuid().is_root() {
        return Err(CannotReceive::OnlyRoot(uid.as_raw()));
    }
    let account = Account::by_uid(uid).ok_or(CannotReceive::NoUser(uid.as_raw()))?;
    account.become_it().map_err(|error| CannotReceive::User { user: uid.as_raw(), error })
}

/// The folder for files of the qube that has called.
fn own_incoming() -> Result<OwnedFd, CannotReceive> {
    let source = std::env::var_os("QREXEC_REMOTE_DOMAIN").ok_or(CannotReceive::NoSource)?;
    let home = Account::by_uid(getuid()).map(|account| account.home).ok_or(CannotReceive::NoHome)?;
    Ok(incoming(source.as_bytes(), &home)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').filter(|word| !word.is_empty()).map(|word| word.trim_matches('\'').into()).collect()
    }

    #[test]
    fn both_command_lines_are_understood() {
        let task = parse(&words("-v -w 7 --allow-all-names -- 5 /x")).unwrap();
        assert!(task.settings.verbose && task.settings.limits.names == NameRules::All);
        assert_eq!(task.settings.wait.unwrap().margin, 7);
        assert_eq!((task.uid, task.folder), (Some(Uid::from_raw(5)), Some("/x".into())));
        let task = parse(&words("5 /x -v -w")).unwrap();
        assert!(task.settings.verbose);
        assert_eq!(task.settings.wait.unwrap().margin, 1);
        assert_eq!(parse(&words("'' /x")).unwrap().uid, None);
        assert!(parse(&[]).unwrap().folder.is_none());
        let task = parse(&words("--existing=skip-same 5 /x")).unwrap();
        assert_eq!(task.settings.existing, Existing::SkipSame);
        for bad in [
            "-x",
            "--existing=other",
            "-w",
            "-w 2147483648",
            "-w 1x",
            "x",
            "--wait 3",
            "5 /x --allow-all-names",
            "a b c",
        ] {
            assert!(parse(&words(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_option_of_the_manual_is_understood() {
        for option in crate::pages::options(&crate::pages::unpacker()) {
            assert!(parse(&option).is_ok(), "{option:?}");
        }
        for option in crate::pages::options(&crate::pages::dom0_unpacker()) {
            let words = [words("root /x"), option.clone()].concat();
            assert!(parse_dom0(&words).is_ok(), "{option:?}");
        }
    }

    #[test]
    fn dom0s_command_line_names_users() {
        let task = parse_dom0(&words("root /x --only-regular-files")).unwrap();
        assert!(task.settings.limits.only_files && task.uid.unwrap().is_root());
        assert!(parse_dom0(&words("no-such-user /x")).is_err());
        assert!(parse_dom0(&words("root")).is_err());
    }
}
