//! The one `ssh` of a link (its master), and sessions of it.
//!
//! A master is started by whoever needs it first, under a lock, and stays. Its sshd allows so many sessions at once; where
//! no place is free, a call tries again, and further masters are started, which end when nobody has used them for a
//! while. A place is free only some time after a call's end, so a refusal says nothing about how many calls there are.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use cli::failure::Failure;
use cli::status;
use engine::process::FileLimit;
use engine::say;
use rustix::fs::FlockOperation;
use rustix::time::{ClockId, clock_gettime};
use wire::escape::Escaped;
use wire::remote::request::READY;

use crate::link::Link;
use crate::log;
use crate::session::{self, Asked, Session};

/// The most connections of a link.
const MASTERS: u8 = 16;
/// How long a call looks for a place.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first pause before the next try, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));
/// How often all masters refuse before there is one more: a place becomes free within that time when calls are short.
const TRIES: u32 = 6;
/// The exit code of a session whose command sshd could not start.
const NOT_STARTED: u32 = 255;
/// A further master ends when it has had no session for so long.
const IDLE: &str = "ControlPersist=60";

/// Opens a session on `link` that runs `command`.
///
/// # Errors
/// The far side cannot be reached, or takes no more calls: status 255.
pub fn open(link: &Link, command: &str) -> Result<Session, Failure> {
    // Time is what is waited for: nobody tells when a place becomes free.
    let pause = |pause| {
        std::thread::sleep(pause);
        None
    };
    open_unless(link, command, 0, pause).map(|(_, session)| session)
}

/// As [`open`], preferably on the connection of this number, which is told; unless there is another session meanwhile,
/// which is looked for in every pause.
///
/// # Errors
/// As for [`open`].
pub(crate) fn open_unless(
    link: &Link,
    command: &str,
    first: u8,
    mut meanwhile: impl FnMut(Duration) -> Option<(u8, Session)>,
) -> Result<(u8, Session), Failure> {
    let began = now();
    let mut pause = PAUSES.0;
    let mut refusals = 0_u32;
    loop {
        let there = match try_all(link, command, first)? {
            Tried::Open(number, session) => return Ok((number, session)),
            Tried::Refused(there) => there,
        };
        if there == 0 {
            start(link, 0, began)?;
            continue;
        }
        refusals = refusals.saturating_add(1);
        if refusals.is_multiple_of(TRIES) && there < MASTERS {
            start(link, there, began)?;
            continue;
        }
        if now().saturating_sub(began) > PATIENCE {
            return Err(lost(format!("{} takes no more calls", link.name())));
        }
        if let Some(found) = meanwhile(pause) {
            return Ok(found);
        }
        pause = pause.saturating_mul(2).min(PAUSES.1);
    }
}

/// Opens a session on the connection of this number, which is made if it is not there.
pub(crate) fn open_on(link: &Link, number: u8, command: &str) -> Option<Session> {
    let ask = || match session::ask(&socket(link, number), command) {
        Ok(Asked::Open(session)) if session::is_greeted(&session) == Ok(true) => Ok(session),
        Ok(Asked::NoMaster) => Err(true),
        _ => Err(false),
    };
    match ask() {
        Ok(session) => Some(session),
        // The first one is made for calls only: a link that was closed stays closed until there is one.
        Err(true) if number > 0 => start(link, number, now()).ok().and_then(|()| ask().ok()),
        Err(_) => None,
    }
}

/// A failure of the link itself.
pub(crate) fn lost(message: impl Into<String>) -> Failure {
    Failure { status: status::LOST, message: message.into() }
}

/// The end of a call whose connection went away.
pub(crate) fn gone(link: &str) -> Failure {
    lost(format!("the connection to {link} is lost"))
}

enum Tried {
    Open(u8, Session),
    /// So many masters are there, and none has a place.
    Refused(u8),
}

/// Asks the masters one after the other, this one first; of the others the first one that is not there is the last that is
/// asked.
fn try_all(link: &Link, command: &str, first: u8) -> Result<Tried, Failure> {
    for number in std::iter::once(first).chain((0..MASTERS).filter(|number| *number != first)) {
        match session::ask(&socket(link, number), command) {
            Ok(Asked::Open(mut session)) if command == READY => match session::is_greeted(&session) {
                Ok(true) => return Ok(Tried::Open(number, session)),
                // It was started, and has ended: so would the next one.
                Ok(false) if matches!(session.control.exit_code(), Ok(Some(code)) if code != NOT_STARTED) => {
                    log::follow(link, session.stderr)?;
                    return Err(gone(link.name()));
                }
                Ok(false) => note(link, b"the far command was not started"),
                Err(violation) => return Err(lost(format!("{}: {violation}", link.name()))),
            },
            Ok(Asked::Open(session)) => return Ok(Tried::Open(number, session)),
            Ok(Asked::Refused(reason)) => note(link, &reason),
            Ok(Asked::NoMaster) if number == first && first > 0 => {}
            Ok(Asked::NoMaster) => return Ok(Tried::Refused(number)),
            Ok(Asked::Broken(violation)) => return Err(lost(format!("{}: {violation}", link.name()))),
            Err(error) => return Err(lost(format!("a session to {}: {error}", link.name()))),
        }
    }
    Ok(Tried::Refused(MASTERS))
}

fn socket(link: &Link, number: u8) -> PathBuf {
    link.file(&format!("m{number}"))
}

/// Writes a refusal into the log, except the one that is daily business.
fn note(link: &Link, reason: &[u8]) {
    if reason != b"Session open refused by peer" {
        log::add(link, format!("no session: {}\n", Escaped::new(reason)).as_bytes());
    }
}

/// Starts a master, unless somebody else did so meanwhile. One that failed while we waited for our turn has failed for us,
/// too: a hundred calls make one attempt.
fn start(link: &Link, number: u8, began: Duration) -> Result<(), Failure> {
    let turn = Turn::take(link).map_err(Failure::during(format!("locking the link {}", link.name())))?;
    if turn.failed_since(began) {
        return Err(unreachable(link));
    }
    let socket = socket(link, number);
    if engine::unix::connect(&socket).is_ok() {
        return Ok(());
    }
    // Whoever listened there is dead: nobody makes or removes a socket without the lock.
    let _ = std::fs::remove_file(&socket);
    match run(link, number) {
        Ok(true) => Ok(()),
        // The first connection stands, so a further one is a wish only.
        Ok(false) if number > 0 => Ok(()),
        Ok(false) => {
            turn.fail();
            Err(unreachable(link))
        }
        Err(error) => Err(lost(format!("cannot start ssh: {error}"))),
    }
}

/// One line without addresses: it goes to the calling qube. The relay's log has the rest.
fn unreachable(link: &Link) -> Failure {
    lost(format!("{} cannot be reached", link.name()))
}

/// Runs `ssh` until it has authenticated and left for the background. Whether it did.
fn run(link: &Link, number: u8) -> io::Result<bool> {
    // A session takes about four descriptors, and it is `ssh` that has them.
    let limit = FileLimit::raise();
    let mut command = Command::new("ssh");
    command.args(["-F", "config", "-M", "-N", "-f", "-E", "log", "-S"]).arg(format!("m{number}"));
    if number > 0 {
        command.args(["-o", IDLE]);
    }
    // The folder is the socket's: a path of any length is a short one there.
    command.arg(link.name()).current_dir(link.folder());
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    limit.restore();
    Ok(status?.success())
}

/// Ends the connections of a link.
pub fn close(link: &Link) {
    for number in 0..MASTERS {
        if engine::unix::connect(&socket(link, number)).is_err() {
            continue;
        }
        let mut command = Command::new("ssh");
        command.args(["-F", "config", "-O", "exit", "-S"]).arg(format!("m{number}")).arg(link.name());
        command.current_dir(link.folder()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Err(error) = command.status() {
            say::error(format_args!("qrexec-remote: ending the connection to {}: {error}", link.name()));
        }
    }
}

/// The right to start a master of a link; the file holds when an attempt failed last.
struct Turn(File);

impl Turn {
    fn take(link: &Link) -> io::Result<Self> {
        let file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(link.file("lock"))?;
        loop {
            match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
                Err(rustix::io::Errno::INTR) => {}
                result => return Ok(result.map(|()| Self(file))?),
            }
        }
    }

    fn failed_since(&self, began: Duration) -> bool {
        let mut text = String::new();
        let read = (&self.0).take(64).read_to_string(&mut text);
        let last = read.ok().and_then(|_| text.trim().parse::<u64>().ok()).map(Duration::from_micros);
        last.is_some_and(|last| last >= began && last <= now())
    }

    fn fail(&self) {
        let mut file = &self.0;
        let text = format!("{}\n", now().as_micros());
        // A file that cannot be written costs the next call an attempt of its own.
        let _ = file.rewind().and_then(|()| file.write_all(text.as_bytes()));
    }
}

/// Time since the machine was started, the same for all processes.
fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
