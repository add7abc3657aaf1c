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
use wire::small_map::SmallMap;

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
mod token;

use old_callers::OldCaller;
use token::{FIRST_KEY, Token};

/// Most programs that are accepted before other descriptors are handled; the listener stays readable while more wait.
const ACCEPT_BATCH: usize = 64;

/// Every program in the VM may ask; the folder of the socket may restrict that.
const LISTENER_MODE: u32 = 0o777;

/// Why the agent cannot continue.
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
    /// The service manager starts the agent again, and the next one knows the VM's new number.
    #[error("{0}")]
    Over(ring::Error),
}

/// Runs the agent until a signal ends it.
pub(crate) fn run(options: &Options) -> Result<(), Error> {
    Agent::new(options)?.run()
}

/// Everything with a descriptor and a key of its own.
#[derive(Debug)]
enum Watched {
    /// A program that asks for a service.
    Client(ClientConnection),
    /// The process of a call.
    Process(CallId, Child),
    /// A call that a fork server runs: it ends with this connection.
    Handed(CallId, OwnedFd),
    /// The process for a call of a program that asked as in R2, by the key of its request.
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
    /// The limit on descriptors for services; the agent itself has more.
    files: FileLimit,
    transport: Transport,
    services: Services,
    confinement: Confinement,
    fork_server: Option<OsString>,
    agent_socket: PathBuf,
    reactor: Reactor<Token>,
    signals: Signals,
    control: Control<Token>,
    /// Used where calls cannot see by themselves whether the other VM still exists.
    domain_monitor: Option<DomainMonitor>,
    core: Core,
    /// Made with the first HELLO.
    listener: Option<Listener>,
    accept_pause: AcceptPause,
    client_slots: ClientSlots,
    callers: Callers<Job>,
    /// Used where servers are files.
    waiting_calls: Option<WaitingCalls<(CallId, Job)>>,
    /// Calls whose processes wait for their callers or serve them, while these processes run.
    looking: BTreeMap<CallId, Job>,
    /// Those of them whose caller had not come.
    not_met: BTreeSet<CallId>,
    watched: BTreeMap<u64, Watched>,
    next_key: u64,
    sessions: Sessions<(CallId, Job)>,
    meminfo: Option<MeminfoWriter>,
    /// The folder in which programs of R1 and R2 ask, if they may.
    r2_folder: Option<PathBuf>,
    /// Made with the first HELLO.
    entrance: Option<Entrance>,
    /// Programs that have asked there and wait for dom0's answer.
    old_callers: SmallMap<u64, OldCaller>,
    /// What is told to `qrexec-top`.
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
        reactor.add(&signals, Token::Signals, Interest::Read)?;
        let callers = Callers::new(options.max_served).map_err(Error::Callers)?;
        reactor.add(&callers, Token::Callers, Interest::Read)?;
        let waiting_calls = WaitingCalls::new(&transport);
        if let Some(descriptor) = waiting_calls.as_ref().and_then(WaitingCalls::descriptor) {
            reactor.add(descriptor, Token::WaitingCalls, Interest::Read)?;
        }
        Ok(Self {
            files,
            control: Control::new(transport.clone(), &reactor, Token::Control)?,
            domain_monitor: domain_monitor(&transport, &reactor)?,
            services: Services::from_env(Users::by_privilege(installation), installation),
            confinement,
            fork_server: options.fork_server(installation).map(OsString::from),
            agent_socket: options.socket(),
            r2_folder: options.r2_api.clone(),
            entrance: None,
            old_callers: SmallMap::new(),
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
            next_key: first_key(),
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
                if event.token == Token::Signals
                    && self.signals.take_next().map_err(Error::Signals)?.is_some()
                {
                    return Ok(());
                }
                if let (Token::DomainMonitor, Some(domain_monitor)) = (event.token, &mut self.domain_monitor)
                {
                    domain_monitor.on_ready().map_err(Error::Over)?;
                }
                self.on_event(event, now);
            }
            self.hear_daemon(now)?;
            self.on_time(now);
        }
    }

    fn on_event(&mut self, event: &Event<Token>, now: Instant) {
        match event.token {
            Token::Signals | Token::DomainMonitor => {}
            Token::Control => {
                if let Err(why) = self.control.on_ready(&self.reactor, now) {
                    self.link_lost(&why);
                }
            }
            Token::Listener => self.accept(now),
            Token::Fifo => self.hear_old_callers(),
            Token::PassedDescriptors => self.entrance.iter_mut().for_each(|entrance| entrance.accept(now)),
            Token::Callers => self.hear_calls(),
            Token::Top => self.board.answer(now),
            Token::WaitingCalls => self.callers_came(),
            Token::Watched(key) => self.on_watched(key),
        }
    }

    // ---- the daemon -------------------------------------------------------------------------

    /// Handles everything that the daemon has sent.
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

    /// Does everything that the core has decided.
    fn act(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Send(message) => {
                    if let Err(why) = self.control.send(message) {
                        self.link_lost(&why);
                    }
                }
                Output::Connect(ClientId(key), endpoint) if self.old_callers.contains_key(&key) => {
                    self.serve_old_caller(key, endpoint);
                }
                Output::Connect(ClientId(key), endpoint) => {
                    if let Some(Watched::Client(client)) = self.watched.get(&key) {
                        client.answer(endpoint);
                        step::reached("answer passed on");
                    }
                }
                Output::Withdraw(ClientId(key)) => {
                    if let Some(Watched::Client(client)) = self.watched.get(&key) {
                        client.withdraw();
                    }
                }
                Output::Refuse(ClientId(key), refusal) => {
                    if refusal != Refusal::Denied {
                        tracing::warn!("a request is refused: {refusal}");
                    }
                    self.old_callers.remove(&key);
                    self.board.refused(key);
                    self.forget(key);
                }
                Output::Start(call, start) => self.start(call, start),
                Output::Log(Level::Info, line) => tracing::info!("{line}"),
                Output::Log(Level::Warn, line) => tracing::warn!("{line}"),
            }
        }
    }

    // ---- programs of this VM ----------------------------------------------------------------

    /// Accepts programs, once the daemon has connected for the first time.
    fn open_listener(&mut self) -> Result<(), Error> {
        if self.listener.is_some() {
            return Ok(());
        }
        let listener = Listener::open(&self.agent_socket, LISTENER_MODE)
            .map_err(|source| Error::Listener { path: self.agent_socket.clone(), source })?;
        self.reactor.add(&listener, Token::Listener, Interest::Read)?;
        self.listener = Some(listener);
        self.board.listen(&self.agent_socket, &self.reactor, Token::Top);
        self.open_entrance()?;
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
            tracing::warn!("cannot tell the service manager that the agent is ready: {error}");
        }
        Ok(())
    }

    // ---- everything with a key ------------------------------------------------------------

    fn watch(&mut self, what: Watched) -> Result<u64, Errno> {
        let key = self.next_key;
        self.next_key = self.next_key.wrapping_add(1).max(FIRST_KEY);
        self.reactor.add(&what, Token::Watched(key), Interest::Read)?;
        if let Watched::Client(client) = &what {
            self.client_slots.take(client.user());
        }
        self.watched.insert(key, what);
        Ok(key)
    }

    /// Closes the descriptor with this key.
    fn forget(&mut self, key: u64) -> Option<Watched> {
        let what = self.watched.remove(&key)?;
        let _ = self.reactor.remove(&what);
        if let Watched::Client(client) = &what {
            self.client_slots.give_back(client.user());
        }
        Some(what)
    }

    fn on_watched(&mut self, key: u64) {
        match self.watched.get_mut(&key) {
            Some(Watched::Client(_)) => self.on_client(key),
            Some(Watched::Process(call, child)) => {
                let (call, ended) = (*call, child.try_wait());
                if has_ended(&ended) {
                    self.forget(key);
                    self.process_ended(call, ended.unwrap_or_default());
                }
            }
            Some(Watched::Old(request, child)) => {
                let (request, ended) = (*request, child.try_wait());
                if has_ended(&ended) {
                    self.forget(key);
                    self.core.handle_client_gone(ClientId(request));
                    self.act();
                }
            }
            Some(Watched::Errors(errors)) if errors.drain() => drop(self.forget(key)),
            // Any event on this connection means that the call has ended.
            Some(Watched::Handed(call, _)) => {
                let call = *call;
                self.forget(key);
                self.call_ended(call);
            }
            Some(Watched::Session { user, wait }) => {
                let (user, ended) = (user.clone(), wait.try_wait());
                if has_ended(&ended) {
                    self.forget(key);
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
        let keys: Vec<u64> =
            self.watched.iter().filter(|(_, what)| late(what)).map(|(key, _)| *key).collect();
        for key in keys {
            tracing::warn!("a client did not finish its request");
            self.client_gone(key);
            self.act();
        }
        self.give_up_waiting(now);
        self.look_for_callers(now);
        if let Some(listener) = &self.listener {
            self.accept_pause.adjust(&self.reactor, listener, Token::Listener, true, now);
        }
        self.tend_entrance(now);
    }
}

/// If there is none, each call watches its peer's domain by itself.
fn domain_monitor(transport: &Transport, reactor: &Reactor<Token>) -> Result<Option<DomainMonitor>, Errno> {
    let domain_monitor = transport.domain_monitor().unwrap_or_else(|error| {
        tracing::warn!("each call will watch by itself whether its peer still exists: {error}");
        None
    });
    domain_monitor
        .as_ref()
        .map_or(Ok(()), |domain_monitor| reactor.add(domain_monitor, Token::DomainMonitor, Interest::Read))?;
    Ok(domain_monitor)
}

fn client_deadline(what: &Watched) -> Option<Instant> {
    match what {
        Watched::Client(client) => client.deadline(),
        _ => None,
    }
}

/// Whether the process has ended. If the wait fails the process is no longer this one's child, so there is nothing to
/// wait for either.
fn has_ended(waited: &io::Result<Option<i32>>) -> bool {
    match waited {
        Ok(status) => status.is_some(),
        Err(error) => {
            tracing::error!("cannot wait for a process: {error}");
            true
        }
    }
}

/// Tokens are also the numbers of request ids. They begin at a random number, so that an answer to a request of an
/// earlier agent fits none of this one's; and so high that dom0 sees that they are looked up.
fn first_key() -> u64 {
    let random = std::hash::RandomState::new().hash_one(std::process::id());
    // Far from the largest number, since they only grow.
    (random >> 16).max(FIRST_KEY).max(Ident::FIRST_LOOKED_UP)
}
