//! The agent's event loop: carries out what [`Core`] decides.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::hash::BuildHasher;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use agent_core::{CallId, ClientId, Core, Level, Output, Refusal};
use engine::Installation;
use engine::confine::Confinement;
use engine::exec::{Services, SessionWait, Users};
use engine::installation::Disagreement;
use engine::process::{Child, FileLimit, Signals};
use engine::reactor::{Event, Interest, Reactor};
use engine::step;
use ring::{DomainMonitor, Transport};
use rustix::io::Errno;
use rustix::process::Signal;
use wire::names::Ident;

use crate::admission::Callers;
use crate::board::Board;
use crate::client::ClientConnection;
use crate::client_slots::ClientSlots;
use crate::control::{self, Control, Lost};
use crate::job::Job;
use crate::listener::{AcceptPause, Listener, max_clients};
use crate::meminfo::MeminfoWriter;
use crate::options::Options;
use crate::r2::caller::Errors;
use crate::r2::entrance::Entrance;
use crate::session::Sessions;
use crate::waiting_calls::WaitingCalls;

mod calls;
mod old_callers;
mod programs;
use old_callers::OldCaller;

const CONTROL: u64 = 0;
const LISTENER: u64 = 1;
const SIGNALS: u64 = 2;
const DOMAIN_MONITOR: u64 = 3;
const CALLERS: u64 = 4;
const WAITING_CALLS: u64 = 5;
const FIFO: u64 = 6;
const FDPASS: u64 = 7;
const TOP: u64 = 8;
/// The first token of anything else.
const FIRST_TOKEN: u64 = 16;

/// Programs let in before everybody else has a turn; the listener stays readable as long as more wait.
const ACCEPT_BATCH: usize = 64;

/// Everybody in the VM may ask; who may enter the socket's folder decides more.
const LISTENER_MODE: u32 = 0o777;

/// Why the agent cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("no way to reach dom0: {0}")]
    Transport(#[from] ring::Error),
    #[error(transparent)]
    Installation(#[from] Disagreement),
    #[error("no event loop: {0}")]
    Reactor(#[from] Errno),
    #[error("no signals: {0}")]
    Signals(io::Error),
    #[error("cannot count calls: {0}")]
    Callers(io::Error),
    #[error("cannot listen at {}: {source}", path.display())]
    Listener { path: PathBuf, source: io::Error },
    /// Whoever started this agent starts the next one, which knows the VM's new number.
    #[error("{0}")]
    Over(ring::Error),
}

/// Runs the agent until a signal ends it.
pub(crate) fn run(options: &Options) -> Result<(), Error> {
    Agent::new(options)?.run()
}

/// Whatever has a descriptor and a token of its own.
#[derive(Debug)]
enum Watched {
    /// A program that asks for a service.
    Client(ClientConnection),
    /// The process of a call.
    Process(CallId, Child),
    /// A call that a fork server runs: its end is the connection's.
    Handed(CallId, OwnedFd),
    /// The process of a call of a program that asked as in R2, by the token of its request.
    Old(u64, Child),
    /// The error output of such a program.
    Errors(Errors),
    /// The wait for a user's session.
    Session { user: String, wait: SessionWait },
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Client(client) => client.as_fd(),
            Self::Process(_, child) | Self::Old(_, child) => child.as_fd(),
            Self::Errors(errors) => errors.as_fd(),
            Self::Session { wait, .. } => wait.as_fd(),
            Self::Handed(_, socket) => socket.as_fd(),
        }
    }
}

struct Agent {
    /// What services may have; the agent itself has more.
    files: FileLimit,
    transport: Transport,
    services: Services,
    confinement: Confinement,
    fork_server: Option<OsString>,
    agent_socket: PathBuf,
    reactor: Reactor,
    signals: Signals,
    control: Control,
    /// Where calls cannot see for themselves whether the other VM is still there.
    domain_monitor: Option<DomainMonitor>,
    core: Core,
    /// There from the first HELLO on.
    listener: Option<Listener>,
    accept_pause: AcceptPause,
    client_slots: ClientSlots,
    callers: Callers<Job>,
    /// Where servers are files.
    waiting_calls: Option<WaitingCalls<(CallId, Job)>>,
    /// Calls whose processes look for their callers or serve them, for as long as they run.
    looking: BTreeMap<CallId, Job>,
    /// Those of them whose caller was not there.
    not_met: BTreeSet<CallId>,
    watched: BTreeMap<u64, Watched>,
    next_token: u64,
    sessions: Sessions<(CallId, Job)>,
    meminfo: Option<MeminfoWriter>,
    /// Where programs of R1 and R2 are to ask, if they may.
    r2_folder: Option<PathBuf>,
    /// There from the first HELLO on.
    entrance: Option<Entrance>,
    /// Programs that have asked there and wait for dom0.
    old_callers: BTreeMap<u64, OldCaller>,
    /// For those who want to know what goes on.
    board: Board,
}

impl Agent {
    fn new(options: &Options) -> Result<Self, Error> {
        let transport = Transport::from_env()?;
        let installation = Installation::stated(transport.kind())?;
        let confinement = Confinement::unless(options.no_confine);
        confinement.announce();
        let files = FileLimit::raise();
        let reactor = Reactor::new()?;
        let signals = Signals::block(&[Signal::TERM, Signal::INT, Signal::HUP]).map_err(Error::Signals)?;
        reactor.add(&signals, SIGNALS, Interest::Read)?;
        let callers = Callers::new(options.max_served).map_err(Error::Callers)?;
        reactor.add(&callers, CALLERS, Interest::Read)?;
        let waiting_calls = WaitingCalls::new(&transport);
        if let Some(descriptor) = waiting_calls.as_ref().and_then(WaitingCalls::descriptor) {
            reactor.add(descriptor, WAITING_CALLS, Interest::Read)?;
        }
        Ok(Self {
            files,
            control: Control::new(transport.clone(), &reactor, CONTROL)?,
            domain_monitor: domain_monitor(&transport, &reactor)?,
            services: Services::from_env(Users::by_privilege(installation), installation),
            confinement,
            fork_server: options.fork_server(installation).map(OsString::from),
            agent_socket: options.socket(),
            r2_folder: options.r2_api.clone(),
            entrance: None,
            old_callers: BTreeMap::new(),
            board: Board::default(),
            core: Core::default(),
            listener: None,
            accept_pause: AcceptPause::default(),
            client_slots: ClientSlots::new(
                options.max_calls.unwrap_or_else(max_clients),
                rustix::process::geteuid().as_raw(),
            ),
            callers,
            waiting_calls,
            looking: BTreeMap::new(),
            not_met: BTreeSet::new(),
            watched: BTreeMap::new(),
            next_token: first_token(),
            sessions: Sessions::default(),
            meminfo: MeminfoWriter::from_env(installation),
            transport,
            reactor,
            signals,
        })
    }

    fn run(mut self) -> Result<(), Error> {
        let mut events = Vec::new();
        loop {
            let ready = self.control.arm(&self.reactor);
            let ready = ready.unwrap_or_else(|why| {
                self.link_lost(&why);
                true
            });
            let timeout = if ready { Some(Duration::ZERO) } else { self.timeout(Instant::now()) };
            self.reactor.wait(timeout, &mut events)?;
            let now = Instant::now();
            for event in &events {
                if event.token == SIGNALS && self.signals.take_next().map_err(Error::Signals)?.is_some() {
                    return Ok(());
                }
                if let (DOMAIN_MONITOR, Some(domain_monitor)) = (event.token, &mut self.domain_monitor) {
                    domain_monitor.on_ready().map_err(Error::Over)?;
                }
                self.on_event(event, now);
            }
            self.hear_daemon(now)?;
            self.on_time(now);
        }
    }

    fn on_event(&mut self, event: &Event, now: Instant) {
        match event.token {
            SIGNALS | DOMAIN_MONITOR => {}
            CONTROL => {
                if let Err(why) = self.control.on_ready(&self.reactor, now) {
                    self.link_lost(&why);
                }
            }
            LISTENER => self.accept(now),
            FIFO => self.hear_old_callers(),
            FDPASS => self.entrance.iter_mut().for_each(|entrance| entrance.accept(now)),
            CALLERS => self.hear_calls(),
            TOP => self.board.answer(now),
            WAITING_CALLS => self.callers_came(),
            token => self.on_thing(token),
        }
    }

    // ---- the daemon -------------------------------------------------------------------------

    /// Takes all that the daemon has said.
    fn hear_daemon(&mut self, now: Instant) -> Result<(), Error> {
        loop {
            let heard = match self.control.next(now) {
                Ok(Some(heard)) => heard,
                Ok(None) => return Ok(()),
                Err(why) => {
                    self.link_lost(&why);
                    return Ok(());
                }
            };
            match heard {
                control::Event::Met => self.core.handle_link_met(),
                control::Event::Up(version) => {
                    tracing::info!("connected to dom0, protocol {version}");
                    self.core.handle_link_up(version);
                    self.open_listener()?;
                    self.act();
                }
                control::Event::Message(message) => match self.core.handle_message(message) {
                    Ok(()) => self.act(),
                    Err(why) => self.link_lost(&Lost::Violation(why)),
                },
            }
        }
    }

    fn link_lost(&mut self, why: &Lost) {
        tracing::warn!("the link to dom0 is lost: {why}");
        self.control.lose(&self.reactor, Instant::now());
        self.core.handle_link_lost();
        self.act();
    }

    /// Does all that the core wants done.
    fn act(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Send(message) => {
                    if let Err(why) = self.control.send(message) {
                        self.link_lost(&why);
                    }
                }
                Output::Connect(ClientId(token), endpoint) if self.old_callers.contains_key(&token) => {
                    self.serve_old_caller(token, endpoint);
                }
                Output::Connect(ClientId(token), endpoint) => {
                    if let Some(Watched::Client(client)) = self.watched.get(&token) {
                        client.answer(endpoint);
                        step::reached("answer passed on");
                    }
                }
                Output::Withdraw(ClientId(token)) => {
                    if let Some(Watched::Client(client)) = self.watched.get(&token) {
                        client.withdraw();
                    }
                }
                Output::Refuse(ClientId(token), refusal) => {
                    if refusal != Refusal::Denied {
                        tracing::warn!("a request is refused: {refusal}");
                    }
                    self.old_callers.remove(&token);
                    self.board.refused(token);
                    self.forget(token);
                }
                Output::Start(call, start) => self.start(call, start),
                Output::Log(Level::Info, line) => tracing::info!("{line}"),
                Output::Log(Level::Warn, line) => tracing::warn!("{line}"),
            }
        }
    }

    // ---- programs of this VM ----------------------------------------------------------------

    /// Lets programs in, once the daemon has been there for the first time.
    fn open_listener(&mut self) -> Result<(), Error> {
        if self.listener.is_some() {
            return Ok(());
        }
        let listener = Listener::open(&self.agent_socket, LISTENER_MODE)
            .map_err(|source| Error::Listener { path: self.agent_socket.clone(), source })?;
        self.reactor.add(&listener, LISTENER, Interest::Read)?;
        self.listener = Some(listener);
        self.board.listen(&self.agent_socket, &self.reactor, TOP);
        self.open_entrance()?;
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
            tracing::warn!("cannot tell the service manager that the agent is ready: {error}");
        }
        Ok(())
    }

    // ---- everything with a token ------------------------------------------------------------

    fn watch(&mut self, what: Watched) -> Result<u64, Errno> {
        let token = self.next_token;
        self.next_token = self.next_token.wrapping_add(1).max(FIRST_TOKEN);
        self.reactor.add(&what, token, Interest::Read)?;
        if let Watched::Client(client) = &what {
            self.client_slots.take(client.user());
        }
        self.watched.insert(token, what);
        Ok(token)
    }

    /// Closes what has this token.
    fn forget(&mut self, token: u64) -> Option<Watched> {
        let what = self.watched.remove(&token)?;
        let _ = self.reactor.remove(&what);
        if let Watched::Client(client) = &what {
            self.client_slots.give_back(client.user());
        }
        Some(what)
    }

    fn on_thing(&mut self, token: u64) {
        match self.watched.get_mut(&token) {
            Some(Watched::Client(_)) => self.on_client(token),
            Some(Watched::Process(call, child)) => {
                let (call, ended) = (*call, child.try_wait());
                if has_ended(&ended) {
                    self.forget(token);
                    self.process_ended(call, ended.unwrap_or_default());
                }
            }
            Some(Watched::Old(request, child)) => {
                let (request, ended) = (*request, child.try_wait());
                if has_ended(&ended) {
                    self.forget(token);
                    self.core.handle_client_gone(ClientId(request));
                    self.act();
                }
            }
            Some(Watched::Errors(errors)) if errors.drain() => drop(self.forget(token)),
            // Whatever a fork server says, it means that the call is over.
            Some(Watched::Handed(call, _)) => {
                let call = *call;
                self.forget(token);
                self.call_ended(call);
            }
            Some(Watched::Session { user, wait }) => {
                let (user, ended) = (user.clone(), wait.try_wait());
                if has_ended(&ended) {
                    self.forget(token);
                    self.session_ended(&user);
                }
            }
            Some(Watched::Errors(_)) | None => {}
        }
    }

    // ---- time -------------------------------------------------------------------------------

    fn timeout(&self, now: Instant) -> Option<Duration> {
        let clients = self.watched.values().filter_map(client_deadline);
        let waiting_calls = self.waiting_calls.as_ref().and_then(WaitingCalls::deadline);
        let old = self.entrance.as_ref().and_then(Entrance::deadline);
        let ours = [
            self.control.deadline(),
            self.accept_pause.deadline(),
            self.sessions.deadline(),
            waiting_calls,
            old,
        ];
        let next = clients.chain(ours.into_iter().flatten()).min()?;
        Some(next.saturating_duration_since(now))
    }

    fn on_time(&mut self, now: Instant) {
        if let Err(why) = self.control.on_time(&self.reactor, now) {
            self.link_lost(&why);
        }
        let late = |what: &Watched| client_deadline(what).is_some_and(|deadline| deadline <= now);
        let tokens: Vec<u64> =
            self.watched.iter().filter(|(_, what)| late(what)).map(|(token, _)| *token).collect();
        for token in tokens {
            tracing::warn!("a client did not finish its request");
            self.client_gone(token);
            self.act();
        }
        self.give_up_waiting(now);
        self.look_for_callers(now);
        if let Some(listener) = &self.listener {
            self.accept_pause.adjust(&self.reactor, listener, LISTENER, true, now);
        }
        self.tend_entrance(now);
    }
}

/// Without one, each call asks for itself.
fn domain_monitor(transport: &Transport, reactor: &Reactor) -> Result<Option<DomainMonitor>, Errno> {
    let domain_monitor = transport.domain_monitor().unwrap_or_else(|error| {
        tracing::warn!("calls will each ask whether their peer is still there: {error}");
        None
    });
    domain_monitor
        .as_ref()
        .map_or(Ok(()), |domain_monitor| reactor.add(domain_monitor, DOMAIN_MONITOR, Interest::Read))?;
    Ok(domain_monitor)
}

fn client_deadline(what: &Watched) -> Option<Instant> {
    match what {
        Watched::Client(client) => client.deadline(),
        _ => None,
    }
}

/// Whether a wait found the process ended. A wait that fails means a process that is not ours any
/// more, so there is nothing to wait for either.
fn has_ended(waited: &io::Result<Option<i32>>) -> bool {
    match waited {
        Ok(status) => status.is_some(),
        Err(error) => {
            tracing::error!("cannot wait for a process: {error}");
            true
        }
    }
}

/// Tokens are also the numbers of request ids. They start anywhere, so that an answer meant for a
/// request of an earlier agent does not fit one of this; and where dom0 sees that they are looked up.
fn first_token() -> u64 {
    let random = std::hash::RandomState::new().hash_one(std::process::id());
    // Far from the end: they only ever grow.
    (random >> 16).max(FIRST_TOKEN).max(Ident::FIRST_LOOKED_UP)
}
