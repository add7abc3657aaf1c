//! The process inside: starts the machines, runs commands in them, and reaps whatever ends.
//!
//! Process 1 of the lab's namespace, or a subreaper where there is none. One loop over signals, the lifeline, the
//! control socket and a watch on the folders in which the agents' and daemons' sockets appear.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use engine::process::Signals;
use engine::reactor::{self, Event, Interest, Reactor};
use engine::say;
use rustix::fs::inotify;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, kill_process_group, set_child_subreaper, wait,
};

use super::control::{Answer, Connection, Part, PartEnd, Request, Run};
use super::keeper::{SIGNALS, read_plan, silence_stdout};
use super::plan::{Age, Layout, Plan};
use super::report::Report;
use super::{Error, start, sweep};

/// How long agents and daemons may take to find each other.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// What the supervisor's reactor knows its descriptors by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Signal,
    Lifeline,
    Listener,
    Folders,
    /// A connection, by its number.
    Connection(u64),
}

impl reactor::Token for Token {
    fn number(self) -> u64 {
        match self {
            Self::Signal => 0,
            Self::Lifeline => 1,
            Self::Listener => 2,
            Self::Folders => 3,
            Self::Connection(number) => number.saturating_add(4),
        }
    }

    fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Signal,
            1 => Self::Lifeline,
            2 => Self::Listener,
            3 => Self::Folders,
            _ => Self::Connection(number.saturating_sub(4)),
        })
    }
}

/// The supervisor's main function.
pub(super) fn main(root: &Path) -> i32 {
    let alone = getpid().is_init();
    let layout = Layout::new(root);
    let ended =
        settle(alone).and_then(|()| Supervisor::new(&layout)).and_then(|mut inside| inside.run(alone));
    if !alone {
        sweep::kill_descendants();
        if let Ok(plan) = read_plan(&layout) {
            sweep::kill_marked(&plan.token);
        }
    }
    match ended {
        // In a namespace the kernel ends everything else when this process returns.
        Ok(()) => 0,
        Err(error) => {
            Report::Failed(error.to_string()).send();
            1
        }
    }
}

fn settle(alone: bool) -> Result<(), Error> {
    let settled = if alone {
        engine::namespace::settle().map(|_own_proc| ())
    } else {
        set_child_subreaper(Some(getpid())).map_err(io::Error::from)
    };
    settled.map_err(|error| Error::io("cannot take over the lab's processes", error))
}

/// What a child of the supervisor is there for.
#[derive(Debug)]
enum Job {
    Part(Part, String),
    /// A command, on behalf of the connection with this number.
    Command(u64),
}

/// Who waits until sockets have appeared.
#[derive(Debug)]
struct Waiting {
    /// `None`: the lab's starter, through the report.
    connection: Option<u64>,
    sockets: Vec<PathBuf>,
    until: Instant,
}

struct Supervisor {
    plan: Plan,
    layout: Layout,
    signals: Signals,
    reactor: Reactor<Token>,
    listener: engine::unix::Bound,
    folders: OwnedFd,
    connections: HashMap<u64, Connection>,
    commands: HashMap<u64, Pid>,
    jobs: HashMap<Pid, Job>,
    /// Of each part the process that counts; one that is being replaced does not.
    parts: HashMap<(Part, String), Pid>,
    ended: Vec<PartEnd>,
    waiting: Vec<Waiting>,
    next_connection: u64,
}

impl Supervisor {
    fn new(layout: &Layout) -> Result<Self, Error> {
        let plan = read_plan(layout)?;
        let watch = || -> io::Result<Self> {
            let supervisor = Self {
                signals: Signals::block(&SIGNALS)?,
                reactor: Reactor::new()?,
                listener: engine::unix::Bound::new(&layout.control(), 0o600)?,
                folders: inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?,
                connections: HashMap::new(),
                commands: HashMap::new(),
                jobs: HashMap::new(),
                parts: HashMap::new(),
                ended: Vec::new(),
                waiting: Vec::new(),
                next_connection: 0,
                layout: layout.clone(),
                plan,
            };
            supervisor.reactor.add(&supervisor.signals, Token::Signal, Interest::Read)?;
            supervisor.reactor.add(io::stdin(), Token::Lifeline, Interest::Read)?;
            supervisor.reactor.add(&supervisor.listener, Token::Listener, Interest::Read)?;
            supervisor.reactor.add(&supervisor.folders, Token::Folders, Interest::Read)?;
            Ok(supervisor)
        };
        watch().map_err(|error| Error::io("cannot supervise the lab", error))
    }

    fn run(&mut self, namespace: bool) -> Result<(), Error> {
        self.start_machines()?;
        let mut events = Vec::new();
        loop {
            self.report_ready(namespace)?;
            self.wait(&mut events)?;
            for event in &events {
                match event.token {
                    Token::Signal => self.reap()?,
                    Token::Lifeline => return Ok(()),
                    Token::Listener => self.accept(),
                    Token::Folders => self.forget_folder_events(),
                    Token::Connection(number) => self.on_ready(number),
                }
            }
        }
    }

    fn wait(&mut self, events: &mut Vec<Event<Token>>) -> Result<(), Error> {
        let until = self.waiting.iter().map(|waiting| waiting.until).min();
        let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
        self.reactor.wait(timeout, events).map_err(|error| Error::io("cannot supervise the lab", error))
    }

    fn start_machines(&mut self) -> Result<(), Error> {
        let flags = inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        let agents = self.plan.vms.iter().map(|vm| match self.plan.age {
            Age::R2 => self.layout.old_api(vm),
            Age::Now | Age::R2Api => self.layout.machine(vm),
        });
        let machines = self.plan.vms.iter().map(|vm| self.layout.machine(vm));
        let folders = agents.chain(machines).chain([self.layout.sockets()]);
        for folder in folders {
            inotify::add_watch(&self.folders, &folder, flags)
                .map_err(|error| Error::io(format!("cannot watch {}", folder.display()), error))?;
        }
        let mut sockets = Vec::new();
        for vm in self.plan.vms.clone() {
            for part in start::parts(&self.plan) {
                self.start_part(part, &vm)?;
                sockets.push(start::socket(&self.plan, part, &vm));
            }
        }
        self.waiting.push(Waiting { connection: None, sockets, until: Instant::now() + READY_WITHIN });
        Ok(())
    }

    fn start_part(&mut self, part: Part, vm: &str) -> Result<(), Error> {
        let child = start::part(&self.plan, part, vm)?;
        self.ended.retain(|end| end.part != part || end.vm != vm);
        if let Some(pid) = start::pid(&child) {
            self.jobs.insert(pid, Job::Part(part, vm.to_owned()));
            self.parts.insert((part, vm.to_owned()), pid);
        }
        Ok(())
    }

    /// Tells those who wait that what they wait for is there, or that it took too long.
    fn report_ready(&mut self, namespace: bool) -> Result<(), Error> {
        let now = Instant::now();
        for mut waiting in std::mem::take(&mut self.waiting) {
            waiting.sockets.retain(|path| !start::is_socket(path));
            if waiting.sockets.is_empty() {
                match waiting.connection {
                    Some(number) => self.answer(number, &Answer::Ready),
                    None => {
                        Report::Ready { namespace }.send();
                        silence_stdout()?;
                    }
                }
            } else if now >= waiting.until {
                let missing: Vec<_> = waiting.sockets.iter().map(|path| path.display().to_string()).collect();
                let why =
                    format!("not there in time: {}{}", missing.join(", "), start::last_words(&self.plan));
                match waiting.connection {
                    Some(number) => self.answer(number, &Answer::Failed { code: 125, why }),
                    None => return Err(Error::new(why)),
                }
            } else {
                self.waiting.push(waiting);
            }
        }
        Ok(())
    }

    /// Reaps every child that has ended, whoever's it was.
    fn reap(&mut self) -> Result<(), Error> {
        while let Ok(Some(_)) = self.signals.take_next() {}
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            match self.jobs.remove(&pid) {
                Some(Job::Command(number)) => {
                    self.commands.remove(&number);
                    self.answer(number, &Answer::Exited(exit_code(status)));
                }
                Some(Job::Part(part, vm)) => {
                    let text =
                        format!("the {part:?} of {vm} ended with {}", exit_code(status)).to_lowercase();
                    say::error(&text);
                    let key = (part, vm);
                    if self.parts.get(&key) == Some(&pid) {
                        self.parts.remove(&key);
                        self.ended.push(PartEnd { part, vm: key.1, code: exit_code(status) });
                    }
                    if self.waiting.iter().any(|waiting| waiting.connection.is_none()) {
                        return Err(Error::new(format!("{text}{}", start::last_words(&self.plan))));
                    }
                }
                None => {}
            }
        }
        Ok(())
    }

    fn accept(&mut self) {
        while let Ok(Some(fd)) = self.listener.accept() {
            let number = self.next_connection;
            self.next_connection += 1;
            let Ok(connection) = Connection::new(UnixStream::from(fd)) else { continue };
            if self.reactor.add(&connection, Token::Connection(number), Interest::Read).is_ok() {
                self.connections.insert(number, connection);
            }
        }
    }

    /// That something happened is all that counts: [`Self::report_ready`] looks at the files themselves.
    fn forget_folder_events(&mut self) {
        let mut buffer = [0u8; 4096];
        while rustix::io::read(&self.folders, &mut buffer).is_ok() {}
    }

    fn on_ready(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let Some(requests) = connection.receive() else { return self.hang_up(number) };
        for request in requests {
            let done = match request {
                Request::Run(run) => self.start_command(number, &run),
                Request::Signal(signal) => {
                    self.signal(number, Signal::from_named_raw(signal));
                    Ok(())
                }
                Request::Restart { vm, part } => self.restart(number, part, &vm),
                Request::Ended => {
                    self.answer(number, &Answer::Ended(self.ended.clone()));
                    Ok(())
                }
            };
            if let Err(failed) = done {
                self.answer(number, &failed);
            }
        }
    }

    /// A caller that goes away takes its command along.
    fn hang_up(&mut self, number: u64) {
        self.signal(number, Some(Signal::KILL));
        if let Some(connection) = self.connections.remove(&number) {
            let _ = self.reactor.remove(&connection);
        }
    }

    fn answer(&mut self, number: u64, answer: &Answer) {
        let sent = self.connections.get_mut(&number).map(|connection| connection.send(answer));
        if let Some(Err(_)) = sent {
            self.hang_up(number);
        }
    }

    /// To the command's process group where it has one of its own, else to the command.
    fn signal(&self, number: u64, signal: Option<Signal>) {
        let (Some(pid), Some(signal)) = (self.commands.get(&number), signal) else { return };
        let _ = if self.plan.stay { kill_process_group(*pid, signal) } else { kill_process(*pid, signal) };
    }

    fn start_command(&mut self, number: u64, run: &Run) -> Result<(), Answer> {
        let trouble = |why: String| Answer::Failed { code: 125, why };
        let stdio = self.connections.get_mut(&number).and_then(Connection::take_stdio);
        let stdio = stdio.ok_or_else(|| trouble("three streams are needed".into()))?;
        if self.commands.contains_key(&number) {
            return Err(trouble("one command at a time".into()));
        }
        let child = start::command(&self.plan, run, stdio)?;
        if let Some(pid) = start::pid(&child) {
            self.jobs.insert(pid, Job::Command(number));
            self.commands.insert(number, pid);
        }
        Ok(())
    }

    /// Ends a part if it still runs, starts it again, and answers when its socket is there.
    fn restart(&mut self, number: u64, part: Part, vm: &str) -> Result<(), Answer> {
        let failed = |error: Error| Answer::Failed { code: 125, why: error.to_string() };
        let id = self.plan.id(vm).filter(|id| *id > 0).ok_or_else(|| failed(Error::unknown_vm(vm)))?;
        if let Some(pid) = self.parts.remove(&(part, vm.to_owned())) {
            let _ = kill_process(pid, Signal::KILL);
        }
        // A killed program leaves its socket behind, and a daemon without its agent takes its own away; so the ones
        // that appear from now on are the new ones.
        let mut sockets = vec![start::socket(&self.plan, Part::Daemon, vm)];
        let _ = fs::remove_file(self.layout.sockets().join(format!("qrexec.{id}")));
        if part == Part::Agent {
            sockets.push(start::socket(&self.plan, Part::Agent, vm));
        }
        for socket in &sockets {
            let _ = fs::remove_file(socket);
        }
        self.start_part(part, vm).map_err(failed)?;
        if part == Part::Agent && !self.parts.contains_key(&(Part::Daemon, vm.to_owned())) {
            self.start_part(Part::Daemon, vm).map_err(failed)?;
        }
        self.waiting.push(Waiting {
            connection: Some(number),
            sockets,
            until: Instant::now() + READY_WITHIN,
        });
        Ok(())
    }
}

fn exit_code(status: WaitStatus) -> i32 {
    status.exit_status().or(status.terminating_signal().map(|signal| 128 + signal)).unwrap_or(255)
}
