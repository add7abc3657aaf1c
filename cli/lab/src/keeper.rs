//! The outermost process of a lab, and how its namespace is entered.
//!
//! A lab that stays and whose folder is removed ends itself: nothing else would find it any more.
//!
//! The keeper stands outside of everything. It holds the lab's lock and waits until its starter goes away, it is told
//! to end, or the supervisor ends; then it ends every process below it and every marked one, and removes the folder.
//! Between it and the supervisor stands a process that leaves the PID namespace to its child; where the system forbids
//! that, the supervisor runs without. Supervisor and keeper watch each other, so that when one is killed the other
//! cleans up.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use engine::process::{Signals, group};
use engine::reactor::{self, Event, Interest, Reactor};
use engine::say;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, inotify, open, statat};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, getpid, set_child_subreaper, setpgid, setsid};

use super::plan::{Layout, Plan};
use super::report::Report;
use super::{Error, role, sweep, tree};

/// Exit code of the process between where the system has no namespace for us.
const NO_NAMESPACE: i32 = 77;

/// The signals of a terminal and of `down`. The keeper and the supervisor take them as events: the person at the
/// terminal talks to the command, and whoever started the lab decides what that means.
pub(super) const SIGNALS: [Signal; 5] = [Signal::CHILD, Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT];

/// The keeper's main function. `root` is the lab's folder with its plan.
pub(super) fn main(root: &Path) -> i32 {
    match keep(&Layout::new(root)) {
        Ok(()) => 0,
        Err(error) => {
            Report::Failed(error.to_string()).send();
            let _ = fs::remove_dir_all(root);
            1
        }
    }
}

fn keep(layout: &Layout) -> Result<(), Error> {
    let plan = read_plan(layout)?;
    let mut watch = Watch::new(&plan)?;
    let outside = Outside { caller_group: group(), layout, plan: &plan };
    outside.stand_apart()?;
    let _lock = take_lock(layout)?;
    log_to_file(layout)?;
    tree::build(&plan)?;
    let place = if plan.stay { Place::watch(&watch.reactor, layout) } else { None };
    let ended = outside.supervise(&mut watch, place.as_ref());
    sweep::kill_descendants();
    sweep::kill_marked(&plan.token);
    ended?;
    if place.is_some_and(|place| place.is_gone()) {
        // Another lab may have its name by now.
        return Ok(());
    }
    fs::remove_dir_all(layout.root()).map_err(|error| Error::io("cannot remove the lab's folder", error))
}

/// Reads the description that the lab's starter left in its folder.
pub(super) fn read_plan(layout: &Layout) -> Result<Plan, Error> {
    let text = fs::read(layout.plan()).map_err(|error| Error::io("cannot read the lab's plan", error))?;
    serde_json::from_slice(&text)
        .map_err(|error| Error::io("the lab's plan is damaged", io::Error::from(error)))
}

/// Lets go of the pipe on which the start was reported.
pub(super) fn silence_stdout() -> Result<(), Error> {
    let null = File::options().write(true).open("/dev/null");
    null.and_then(|null| Ok(rustix::stdio::dup2_stdout(&null)?))
        .map_err(|error| Error::io("cannot open /dev/null", error))
}

/// Creates the lock file with our number in it, already locked: whoever finds it unlocked finds a dead lab.
fn take_lock(layout: &Layout) -> Result<File, Error> {
    let locked = || -> io::Result<File> {
        let draft = layout.root().join("lock.new");
        let mut file = File::create_new(&draft)?;
        flock(&file, FlockOperation::LockExclusive)?;
        writeln!(file, "{}", std::process::id())?;
        fs::rename(&draft, layout.lock())?;
        Ok(file)
    };
    locked().map_err(|error| Error::io("cannot lock the lab", error))
}

/// Standard error of everything inside becomes the lab's log: the caller's may be a pipe whose reader waits for its end.
fn log_to_file(layout: &Layout) -> Result<(), Error> {
    let log = File::create_new(layout.log_file());
    log.and_then(|log| Ok(rustix::stdio::dup2_stderr(&log)?))
        .map_err(|error| Error::io("cannot write the lab's log", error))
}

/// What the keeper waits for: a signal, or the end of its starter.
struct Watch {
    signals: Signals,
    reactor: Reactor<Token>,
}

/// What happened.
#[derive(PartialEq, Eq)]
enum News {
    ChildEnded,
    EndWanted,
}

/// What the keeper's reactor knows its descriptors by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Signal,
    Lifeline,
    Place,
}

impl reactor::Named for Token {
    const ALL: &'static [Self] = &[Self::Signal, Self::Lifeline, Self::Place];
}

/// The lab's folder, watched: whoever removes it removes the lock in it.
struct Place {
    folder: OwnedFd,
    events: OwnedFd,
}

impl Place {
    /// `None` where the system has no watch for us: then `status` finds the lab by its keeper.
    fn watch(reactor: &Reactor<Token>, layout: &Layout) -> Option<Self> {
        let made = || -> io::Result<Self> {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let folder = open(layout.root(), flags, Mode::empty())?;
            let events = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
            inotify::add_watch(&events, layout.root(), inotify::WatchFlags::DELETE)?;
            reactor.add(&events, Token::Place, Interest::Read)?;
            Ok(Self { folder, events })
        };
        made().inspect_err(|error| say::error(format_args!("cannot watch the lab's folder: {error}"))).ok()
    }

    /// Whether the lock is no longer in the folder, wherever that is called by now.
    fn is_gone(&self) -> bool {
        statat(&self.folder, "lock", AtFlags::SYMLINK_NOFOLLOW).is_err_and(|error| error == Errno::NOENT)
    }

    fn forget_events(&self) {
        let mut buffer = [0u8; 4096];
        while rustix::io::read(&self.events, &mut buffer).is_ok() {}
    }
}

impl Watch {
    fn new(plan: &Plan) -> Result<Self, Error> {
        let made = || -> io::Result<Self> {
            let watch = Self { signals: Signals::block(&SIGNALS)?, reactor: Reactor::new()? };
            watch.reactor.add(&watch.signals, Token::Signal, Interest::Read)?;
            if !plan.stay {
                watch.reactor.add(io::stdin(), Token::Lifeline, Interest::Read)?;
            }
            Ok(watch)
        };
        made().map_err(|error| Error::io("cannot watch over the lab", error))
    }

    fn next(&mut self, place: Option<&Place>) -> Result<News, Error> {
        let fail = |error: io::Error| Error::io("cannot watch over the lab", error);
        let mut events: Vec<Event<Token>> = Vec::new();
        loop {
            self.reactor.wait(None, &mut events).map_err(|error| fail(error.into()))?;
            // Nothing is ever written to the lifeline: that it is ready means that its other end is closed.
            if events.iter().any(|event| event.token == Token::Lifeline) {
                return Ok(News::EndWanted);
            }
            if let Some(place) = place.filter(|_| events.iter().any(|event| event.token == Token::Place)) {
                place.forget_events();
                if place.is_gone() {
                    say::error("the lab's folder was removed: the lab ends");
                    return Ok(News::EndWanted);
                }
            }
            while let Some(signal) = self.signals.take_next().map_err(fail)? {
                match signal {
                    s if s == Signal::CHILD.as_raw() => return Ok(News::ChildEnded),
                    s if s == Signal::TERM.as_raw() => return Ok(News::EndWanted),
                    _ => {}
                }
            }
        }
    }
}

/// The keeper's view of the lab that it starts.
struct Outside<'a> {
    caller_group: Option<Pid>,
    layout: &'a Layout,
    plan: &'a Plan,
}

impl Outside<'_> {
    /// Out of the caller's process group, so that a signal to that group does not reach the keeper; a lab that stays
    /// leaves the caller's session too. Orphans below come to us.
    fn stand_apart(&self) -> Result<(), Error> {
        let apart = if self.plan.stay { setsid().map(|_| ()) } else { setpgid(None, None) };
        apart
            .and_then(|()| set_child_subreaper(Some(getpid())))
            .map_err(|error| Error::io("cannot stand apart from the caller", error))
    }

    /// Starts the supervisor, in a namespace if wanted and possible, and returns when the lab is to end.
    fn supervise(&self, watch: &mut Watch, place: Option<&Place>) -> Result<(), Error> {
        let mut inner = if self.plan.namespace { self.start_namespace()? } else { self.start_supervisor()? };
        loop {
            if watch.next(place)? == News::EndWanted {
                return Ok(());
            }
            // SIGCHLD may also be an orphan's; those are reaped at the end.
            match inner.try_wait().map_err(|error| Error::io("cannot wait for the supervisor", error))? {
                None => {}
                Some(status) if self.plan.namespace && status.code() == Some(NO_NAMESPACE) => {
                    inner = self.start_supervisor()?;
                }
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    // Not always news: the supervisor has reported what it knew about.
                    say::error(format_args!("the supervisor ended: {status}, signal {:?}", status.signal()));
                    return Ok(());
                }
            }
        }
    }

    fn start_namespace(&self) -> Result<Child, Error> {
        let mut entry = self.command(role::NAMESPACE);
        if let Some(group) = self.caller_group.filter(|_| !self.plan.stay) {
            // Commands inherit it: whoever types ^C at a command of the lab means that command.
            entry.process_group(group.as_raw_nonzero().get());
        }
        spawn(&mut entry)
    }

    fn start_supervisor(&self) -> Result<Child, Error> {
        spawn(&mut self.command(role::SUPERVISOR))
    }

    /// A role of our own in this lab. Its standard input is its lifeline: it ends when the keeper does.
    fn command(&self, role: &str) -> Command {
        let mut command = Command::new(&self.plan.exe);
        command.arg0(role::PROGRAM).arg(role).arg(self.layout.root()).stdin(Stdio::piped());
        command
    }
}

fn spawn(command: &mut Command) -> Result<Child, Error> {
    command.spawn().map_err(|error| Error::io("cannot start the supervisor", error))
}

/// The process between: one of one thread that leaves the PID namespace and starts the supervisor as
/// process 1 of the new one, with everything that was its own.
pub(super) fn enter_namespace(root: &Path) -> i32 {
    let Ok(_signals) = Signals::block(&SIGNALS[1..]) else { return 1 };
    if let Err(error) = engine::namespace::leave() {
        say::error(format_args!("no namespace here ({error}): the lab watches its processes itself"));
        return NO_NAMESPACE;
    }
    let exe = match read_plan(&Layout::new(root)) {
        Ok(plan) => plan.exe,
        Err(error) => {
            Report::Failed(error.to_string()).send();
            return 1;
        }
    };
    let mut supervisor = Command::new(exe);
    supervisor.arg0(role::PROGRAM).arg(role::SUPERVISOR).arg(root);
    let started = supervisor.spawn().and_then(|mut child| {
        silence_stdout().map_err(io::Error::other)?;
        child.wait()
    });
    started.ok().and_then(|status| status.code()).unwrap_or(1)
}
