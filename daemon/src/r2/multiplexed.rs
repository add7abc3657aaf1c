//! The loop: the VM's link, the programs of dom0, the policy programs.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use engine::process::Signals;
use engine::r2::{Muxed, Over};
use engine::reactor::{Event, Interest, Reactor};
use ring::{Connector, Transport};
use rustix::process::Signal;
use wire::names::{DomainId, DomainName, Port, Target};
use wire::r2::{ClientKey, DaemonMux, DaemonOutput, ty};

use super::client::{MuxedClient, Stage};
use super::marker;
use super::policy::{self, Policy};
use super::token::Token;
use crate::local_socket::LocalSocket;
use crate::startup::{Outcome, Report};

mod clients;

/// How long a program of dom0 may take for its request.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// Pause before the agent is looked for again.
const PAUSE: Duration = Duration::from_millis(100);
/// The same after it broke the protocol.
const LONG_PAUSE: Duration = Duration::from_secs(1);
/// Programs let in, and reads of theirs, before the link has a turn.
const BATCH: usize = 64;
/// Bytes that are still to be written to programs whose calls are over.
const MOST_RESTS: usize = 8 << 20;

/// What the daemon is told.
#[derive(Debug)]
pub struct Setup {
    /// The VM.
    pub id: DomainId,
    /// Its name.
    pub name: DomainName,
    /// Its UUID, under which it is found too.
    pub uuid: Option<Target>,
    /// For whom `DEFAULT` stands.
    pub default_user: String,
    /// The folder of the sockets.
    pub socket_dir: PathBuf,
    /// How to reach the agent.
    pub transport: Transport,
    /// The policy program, if not ours.
    pub policy_program: Option<PathBuf>,
    /// How long the agent may take at first.
    pub startup_limit: Option<Duration>,
    /// Who is told that it is there.
    pub report: Report,
}

enum Link {
    Pausing(Instant),
    Looking(Connector, Option<Instant>),
    Up { muxed: Box<Muxed<DaemonMux>>, out: bool },
}

/// The socket, and the files that say what is spoken on it.
struct Front {
    socket: LocalSocket,
    markers: Vec<PathBuf>,
}

impl Drop for Front {
    fn drop(&mut self) {
        for marker in &self.markers {
            let _ = std::fs::remove_file(marker);
        }
    }
}

struct Daemon {
    setup: Setup,
    reactor: Reactor<Token>,
    signals: Signals,
    link: Link,
    /// There while the agent is.
    front: Option<Front>,
    clients: BTreeMap<ClientKey, MuxedClient>,
    next_key: u64,
    /// Clients that have said something and are not watched: their turn comes.
    ready: VecDeque<ClientKey>,
    held: Vec<ClientKey>,
    policy: Policy,
    started_until: Option<Instant>,
}

/// Serves the VM until a signal ends it.
pub fn run(setup: Setup) -> Outcome {
    let result = Daemon::new(setup).and_then(Daemon::run);
    result.unwrap_or_else(|error| {
        tracing::error!("{error}");
        Outcome::Failed
    })
}

impl Daemon {
    fn new(setup: Setup) -> io::Result<Self> {
        let reactor = Reactor::new()?;
        let signals = Signals::block(&[Signal::TERM, Signal::INT, Signal::HUP])?;
        reactor.add(&signals, Token::Signals, Interest::Read)?;
        let now = Instant::now();
        Ok(Self {
            policy: Policy::new(setup.policy_program.clone(), setup.name.as_str()),
            started_until: setup.startup_limit.map(|limit| now + limit),
            setup,
            reactor,
            signals,
            link: Link::Pausing(now),
            front: None,
            clients: BTreeMap::new(),
            next_key: 0,
            ready: VecDeque::new(),
            held: Vec::new(),
        })
    }

    fn run(mut self) -> io::Result<Outcome> {
        let mut events = Vec::new();
        loop {
            let busy = self.turn().unwrap_or_else(|why| {
                self.lose(&why);
                true
            });
            let timeout = if busy { Some(Duration::ZERO) } else { self.timeout(Instant::now()) };
            self.reactor.wait(timeout, &mut events)?;
            let now = Instant::now();
            for event in &events {
                if event.token == Token::Signals && self.signals.take_next()?.is_some() {
                    return Ok(Outcome::Ended);
                }
                self.on_event(event, now)?;
            }
            if let Some(outcome) = self.on_time(now)? {
                return Ok(outcome);
            }
        }
    }

    /// Everything that needs no event; `true`: there is more.
    fn turn(&mut self) -> Result<bool, Over> {
        let Link::Up { muxed, .. } = &mut self.link else { return Ok(false) };
        let more = muxed.receive()?;
        self.act();
        for ident in self.policy.start(&self.reactor) {
            self.refuse(&ident);
        }
        self.read_clients()?;
        let waits = !self.ready.is_empty();
        let Link::Up { muxed, out } = &mut self.link else { return Ok(false) };
        let there = muxed.arm(waits)?;
        if muxed.wants_out() != *out {
            *out = muxed.wants_out();
            let watched = self.reactor.modify(&**muxed, Token::Link, Interest::read_and(*out));
            watched.map_err(|error| Over::Link(error.into()))?;
        }
        Ok(more || there)
    }

    fn on_event(&mut self, event: &Event<Token>, now: Instant) -> io::Result<()> {
        match event.token {
            Token::Link => match &mut self.link {
                Link::Up { muxed, .. } => {
                    if let Err(why) = muxed.on_ready() {
                        self.lose(&why);
                    }
                }
                _ => self.look(now)?,
            },
            Token::Signals => {}
            Token::Listener => self.accept(now),
            Token::Policy(number) => {
                if let Some(ident) = self.policy.reap(&self.reactor, number) {
                    self.refuse(&ident);
                }
            }
            Token::Client(key) => self.on_client(key, event),
        }
        Ok(())
    }

    // ---- the link ---------------------------------------------------------------------------

    fn look(&mut self, now: Instant) -> io::Result<()> {
        let Link::Looking(connector, again) = &mut self.link else { return Ok(()) };
        match connector.poll() {
            Ok(None) => *again = connector.retry_after().map(|pause| now + pause),
            Ok(Some(channel)) => {
                let _ = self.reactor.remove(&*connector);
                self.reactor.add(&channel, Token::Link, Interest::Read)?;
                let muxed = Box::new(Muxed::new(DaemonMux::default(), channel));
                self.link = Link::Up { muxed, out: false };
                tracing::info!("connected to the agent of {}, protocol 1", self.setup.name);
                self.open()?;
            }
            Err(error) => {
                let _ = self.reactor.remove(&*connector);
                tracing::warn!("looking for the agent: {error}");
                self.link = Link::Pausing(now + LONG_PAUSE);
            }
        }
        Ok(())
    }

    fn open(&mut self) -> io::Result<()> {
        if self.front.is_none() {
            let Setup { socket_dir, id, name, uuid, .. } = &self.setup;
            let id_text = id.to_string();
            let names =
                [id_text.as_str(), name.as_str()].into_iter().chain(uuid.as_ref().map(Target::as_str));
            let markers: Vec<PathBuf> = names.map(|name| marker(socket_dir, name)).collect();
            // Before the socket: whoever can connect knows what to say.
            for marker in &markers {
                std::fs::write(marker, b"")?;
            }
            let socket = LocalSocket::open(socket_dir, *id, name, uuid.as_ref())?;
            self.reactor.add(&socket, Token::Listener, Interest::Read)?;
            self.front = Some(Front { socket, markers });
        }
        self.started_until = None;
        if !self.setup.report.is_told() {
            self.setup.report.tell(Outcome::Ended);
        }
        Ok(())
    }

    /// Closes the link: every client sees its connection end. The agent is looked for again.
    fn lose(&mut self, why: &Over) {
        tracing::warn!("the link to the agent is lost: {why}");
        if let Link::Up { muxed, .. } = &self.link {
            let _ = self.reactor.remove(&**muxed);
        }
        let served = self.clients.iter().filter(|(_, client)| client.is_served());
        for key in served.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.close(key);
        }
        self.ready.clear();
        self.held.clear();
        self.policy.forget();
        // A qube without an agent has no socket: whoever looks for it waits for the next one.
        if let Some(front) = self.front.take() {
            let _ = self.reactor.remove(&front.socket);
        }
        let pause = if matches!(why, Over::Breach(_)) { LONG_PAUSE } else { PAUSE };
        self.link = Link::Pausing(Instant::now() + pause);
    }

    /// Does what the other end wants done.
    fn act(&mut self) {
        loop {
            let Link::Up { muxed, .. } = &mut self.link else { return };
            let Some(output) = muxed.end.poll_output() else { return };
            match output {
                DaemonOutput::ToClient(key) => self.write(key),
                DaemonOutput::Resumed(key) => {
                    let before = self.held.len();
                    self.held.retain(|held| *held != key);
                    if self.held.len() < before {
                        self.ready.push_back(key);
                    }
                }
                DaemonOutput::Over(key, rest) => self.finish(key, rest),
                DaemonOutput::Flooded(key) => {
                    tracing::warn!("the agent sends more than it may for client {}: it is closed", key.0);
                    self.close(key);
                }
                DaemonOutput::Trigger(blob) => {
                    let [service, target, ident] = blob.words();
                    tracing::info!("{} -> {target}: {service}", self.setup.name);
                    if let Err(request) = self.policy.ask(policy::Request { target, service, ident }) {
                        tracing::warn!("refused: too many requests wait for a decision");
                        self.refuse(&request.ident);
                    }
                }
            }
        }
    }

    /// Ends a request as if it were denied: the caller reads the end of its input.
    fn refuse(&mut self, ident: &str) {
        let key = self.new_key();
        let Link::Up { muxed, .. } = &mut self.link else { return };
        let body = [ident.as_bytes(), b"\0"].concat();
        match muxed.end.begin(key, ty::CLIENT_CONNECT, &body, "") {
            Ok(()) => {
                muxed.end.read(key, &[]);
                muxed.end.client_gone(key);
            }
            Err(why) => tracing::warn!("a request is left without an answer: {why}"),
        }
    }

    // ---- time -------------------------------------------------------------------------------

    fn timeout(&self, now: Instant) -> Option<Duration> {
        let link = match &self.link {
            Link::Pausing(until) => Some(*until),
            Link::Looking(_, again) => *again,
            Link::Up { .. } => None,
        };
        let asking = self.clients.values().filter(|client| matches!(client.stage, Stage::Asking(_)));
        let next = asking.map(|client| client.until).chain(link).chain(self.started_until).min()?;
        Some(next.saturating_duration_since(now))
    }

    fn on_time(&mut self, now: Instant) -> io::Result<Option<Outcome>> {
        match &self.link {
            Link::Pausing(until) if *until <= now => match self.begin_looking() {
                Ok(()) => self.look(now)?,
                Err(error) => {
                    tracing::error!("looking for the agent: {error}");
                    self.link = Link::Pausing(now + LONG_PAUSE);
                }
            },
            Link::Looking(_, Some(again)) if *again <= now => self.look(now)?,
            _ => {}
        }
        let late = |client: &MuxedClient| matches!(client.stage, Stage::Asking(_)) && client.until <= now;
        let keys: Vec<ClientKey> =
            self.clients.iter().filter(|(_, client)| late(client)).map(|(key, _)| *key).collect();
        for key in keys {
            tracing::warn!("a client did not finish its request");
            self.close(key);
        }
        if self.started_until.is_some_and(|until| until <= now) {
            tracing::error!("there is no agent within the time for starting up");
            self.setup.report.tell(Outcome::NoAgent);
            return Ok(Some(Outcome::NoAgent));
        }
        Ok(None)
    }

    fn begin_looking(&mut self) -> Result<(), ring::Error> {
        let connector = self.setup.transport.connect(self.setup.id.0, Port::CONTROL.0)?;
        let watched = self.reactor.add(&connector, Token::Link, Interest::Read);
        watched.map_err(|error| ring::Error::io("watching for the agent")(error.into()))?;
        self.link = Link::Looking(connector, None);
        Ok(())
    }
}
