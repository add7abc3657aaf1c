//! The agent of protocol 1: one process, one link, all calls of the VM on it.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use engine::Installation;
use engine::exec::{Services, Users};
use engine::process::{Child, FileLimit, Signals};
use engine::r2::{Muxed, Over};
use engine::reactor::{Event, Interest, Reactor};
use ring::{Listener, Sizes, Transport};
use rustix::process::Signal;
use wire::escape::Escaped;
use wire::names::{DomainId, Port};
use wire::r2::{AgentMux, AgentOutput, CallKey, Stream, TO_AGENT_RING, TO_DAEMON_RING, WaitStatus};
use wire::small_map::SmallMap;

use super::call::{Call, Rest};
use super::entrance::{Caller, Entrance};
use crate::event_loop::Error;
use crate::meminfo::MeminfoWriter;
use crate::options::Options;

mod calls;
mod token;

use token::{Part, Token};

/// Ring sizes as in R2.
const RINGS: Sizes = Sizes { left: TO_AGENT_RING, right: TO_DAEMON_RING };

/// Most reads of local streams before the link is handled.
const TURNS: usize = 64;
/// Most bytes of a command in a log line.
const SHOWN: usize = 200;
/// Most bytes of input that are still to be written for calls that have ended.
const MOST_RESTS: usize = 8 << 20;
/// Callers that wait for dom0's answer.
const MOST_ASKED: usize = 1024;
/// Time until the next attempt when listening failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs the agent until a signal ends it.
pub(crate) fn run(options: &Options) -> Result<(), Error> {
    Agent::new(options)?.run()
}

enum Link {
    Waiting(Listener),
    Up { muxed: Box<Muxed<AgentMux>>, out: bool },
    Down(Instant),
}

struct Agent {
    transport: Transport,
    services: Services,
    folder: PathBuf,
    files: FileLimit,
    reactor: Reactor<Token>,
    signals: Signals,
    link: Link,
    /// Made when the first daemon connects.
    entrance: Option<Entrance>,
    /// Callers whose requests dom0 has not answered.
    asked: SmallMap<[u32; 3], Caller>,
    calls: SmallMap<CallKey, Call>,
    /// Outputs with unread bytes, which are not watched: they are read in turn.
    ready: VecDeque<(CallKey, Stream)>,
    /// Outputs with unread bytes, of calls that must not send now.
    held: Vec<(CallKey, Stream)>,
    rests: SmallMap<u64, Rest>,
    /// Processes whose calls have ended.
    strays: SmallMap<u64, Child>,
    /// The last number that was given to something without a call.
    last_number: u64,
    meminfo: Option<MeminfoWriter>,
}

impl Agent {
    fn new(options: &Options) -> Result<Self, Error> {
        let transport = Transport::from_env()?;
        let installation = Installation::stated(transport.kind())?;
        let files = FileLimit::raise();
        let reactor = Reactor::new()?;
        // USR1: a service may send it to `QREXEC_AGENT_PID`, which is this process.
        let signals = Signals::block(&[Signal::TERM, Signal::INT, Signal::HUP, Signal::USR1]);
        let signals = signals.map_err(Error::Signals)?;
        reactor.add(&signals, Token::Signals, Interest::Read)?;
        let link = Link::Waiting(listen(&transport, &reactor)?);
        Ok(Self {
            services: Services::from_env(Users::by_privilege(installation), installation),
            folder: options.r2_folder(),
            files,
            link,
            entrance: None,
            asked: SmallMap::new(),
            calls: SmallMap::new(),
            ready: VecDeque::new(),
            held: Vec::new(),
            rests: SmallMap::new(),
            strays: SmallMap::new(),
            last_number: 0,
            meminfo: MeminfoWriter::from_env(installation),
            transport,
            reactor,
            signals,
        })
    }

    fn run(mut self) -> Result<(), Error> {
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
                if event.token == Token::Signals && self.is_over()? {
                    return Ok(());
                }
                self.on_event(event, now)?;
            }
            self.on_time(now)?;
        }
    }

    fn is_over(&mut self) -> Result<bool, Error> {
        let signal = self.signals.take_next().map_err(Error::Signals)?;
        Ok(signal.is_some_and(|signal| signal != Signal::USR1.as_raw()))
    }

    /// Everything that needs no event. `true`: there is more to do.
    fn turn(&mut self) -> Result<bool, Over> {
        let Link::Up { muxed, .. } = &mut self.link else { return Ok(false) };
        let more = muxed.receive()?;
        self.act();
        self.read_outputs()?;
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

    fn on_event(&mut self, event: &Event<Token>, now: Instant) -> Result<(), Error> {
        match event.token {
            Token::Link => self.on_link(now)?,
            Token::Signals => {}
            Token::Fifo => self.hear_requests(),
            Token::Socket => self.entrance.iter_mut().for_each(|entrance| entrance.accept(now)),
            Token::Rest(number) => self.write_rest(number),
            Token::Stray(number) => self.reap_stray(number),
            Token::Call(key, part) => self.on_call(key, part),
        }
        Ok(())
    }

    fn on_call(&mut self, key: CallKey, part: Part) {
        match part {
            Part::Stdin => self.write_input(key),
            Part::Output(stream) => {
                let Some(call) = self.calls.get_mut(&key) else { return };
                if let Some(output) = call.output(stream) {
                    let _ = self.reactor.remove(output.as_fd());
                    self.ready.push_back((key, stream));
                }
            }
            Part::Child => {
                let Some(child) = self.calls.get_mut(&key).and_then(|call| call.child.as_mut()) else {
                    return;
                };
                if let Ok(Some(code)) = child.try_wait() {
                    let _ = self.reactor.remove(child.as_fd());
                    self.with_end(|end| end.reaped(key, WaitStatus::exited(code)));
                    self.act();
                }
            }
        }
    }

    // ---- the link ---------------------------------------------------------------------------

    fn on_link(&mut self, now: Instant) -> Result<(), Error> {
        match &mut self.link {
            Link::Up { muxed, .. } => {
                if let Err(why) = muxed.on_ready() {
                    self.lose(&why);
                }
                return Ok(());
            }
            Link::Down(_) => return Ok(()),
            Link::Waiting(listener) => match listener.accept() {
                Ok(None) => return Ok(()),
                Ok(Some(channel)) => {
                    let _ = self.reactor.remove(listener.as_fd());
                    self.reactor.add(&channel, Token::Link, Interest::Read)?;
                    let muxed = Box::new(Muxed::new(AgentMux::default(), channel));
                    self.link = Link::Up { muxed, out: false };
                }
                Err(error) => {
                    tracing::error!("meeting dom0 failed: {error}");
                    let _ = self.reactor.remove(listener.as_fd());
                    self.link = Link::Down(now + PAUSE);
                    return Ok(());
                }
            },
        }
        tracing::info!("connected to dom0, protocol 1");
        self.open_entrance()
    }

    fn open_entrance(&mut self) -> Result<(), Error> {
        if self.entrance.is_some() {
            return Ok(());
        }
        let failed = |source| Error::Listener { path: self.folder.clone(), source };
        let entrance = Entrance::open(&self.folder).map_err(failed)?;
        self.reactor.add(entrance.fifo(), Token::Fifo, Interest::Read)?;
        self.reactor.add(entrance.socket(), Token::Socket, Interest::Read)?;
        self.entrance = Some(entrance);
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
            tracing::warn!("cannot tell the service manager that the agent is ready: {error}");
        }
        Ok(())
    }

    /// Closes the link: callers and services see the end, and the next daemon is waited for.
    fn lose(&mut self, why: &Over) {
        tracing::warn!("the link to dom0 is lost: {why}");
        if let Link::Up { muxed, .. } = &self.link {
            let _ = self.reactor.remove(&**muxed);
        }
        for key in self.calls.keys().copied().collect::<Vec<_>>() {
            self.end_call(key, Vec::new());
        }
        self.asked.clear();
        self.ready.clear();
        self.held.clear();
        // The old link is closed before the new listener is made: both have the same name.
        self.link = Link::Down(Instant::now());
    }

    fn with_end(&mut self, tell: impl FnOnce(&mut AgentMux)) {
        if let Link::Up { muxed, .. } = &mut self.link {
            tell(&mut muxed.end);
        }
    }

    /// Does what the agent's end has decided.
    fn act(&mut self) {
        loop {
            let Link::Up { muxed, .. } = &mut self.link else { return };
            let Some(output) = muxed.end.poll_output() else { return };
            match output {
                AgentOutput::Start(key, command) => self.start(key, &command),
                AgentOutput::JustStart(command) => self.just_start(&command),
                AgentOutput::Connect(key, handles) => self.connect(key, handles),
                AgentOutput::Input(key) => self.write_input(key),
                AgentOutput::Resumed(key) => {
                    let (theirs, others) = self.held.drain(..).partition(|(call, _)| *call == key);
                    self.held = others;
                    self.ready.extend::<Vec<_>>(theirs);
                }
                AgentOutput::Over(key, rest) => self.end_call(key, rest),
                AgentOutput::Flooded(key) => {
                    tracing::warn!("dom0 sends more than it may for call {}: that call is ended", key.0);
                    self.end_call(key, Vec::new());
                }
            }
        }
    }

    // ---- programs of this VM ----------------------------------------------------------------

    fn hear_requests(&mut self) {
        let requests = self.entrance.as_mut().map(Entrance::requests).unwrap_or_default();
        for asked in requests {
            let Link::Up { muxed, .. } = &mut self.link else {
                tracing::warn!("{}: refused: there is no connection to dom0", asked.blob.shown());
                continue;
            };
            if self.asked.len() >= MOST_ASKED || !muxed.end.trigger(&asked.blob) {
                tracing::warn!("{}: refused: too many requests wait for dom0", asked.blob.shown());
                continue;
            }
            tracing::info!("{} asks for {}", asked.caller.user, asked.blob.shown());
            self.asked.insert(asked.handles.0, asked.caller);
        }
    }

    // ---- time -------------------------------------------------------------------------------

    fn timeout(&self, now: Instant) -> Option<Duration> {
        let down = match &self.link {
            Link::Down(until) => Some(*until),
            Link::Waiting(_) | Link::Up { .. } => None,
        };
        let entrance = self.entrance.as_ref().and_then(Entrance::deadline);
        let next = down.into_iter().chain(entrance).min()?;
        Some(next.saturating_duration_since(now))
    }

    fn on_time(&mut self, now: Instant) -> Result<(), Error> {
        if let Link::Down(until) = &self.link
            && *until <= now
        {
            self.link = match listen(&self.transport, &self.reactor) {
                Ok(listener) => Link::Waiting(listener),
                Err(error) => {
                    tracing::error!("cannot listen for dom0: {error}");
                    Link::Down(now + PAUSE)
                }
            };
        }
        if let Some(entrance) = &mut self.entrance {
            entrance.on_time(now);
            entrance.adjust(&self.reactor, Token::Socket, now);
        }
        Ok(())
    }
}

fn shown(command: &[u8]) -> String {
    Escaped::new(command.get(..SHOWN).unwrap_or(command)).to_string()
}

fn listen(transport: &Transport, reactor: &Reactor<Token>) -> Result<Listener, ring::Error> {
    let listener = transport.listen(DomainId::DOM0.0, Port::CONTROL.0, RINGS)?;
    let watched = reactor.add(&listener, Token::Link, Interest::Read);
    watched.map_err(|error| ring::Error::io("watching the control socket")(error.into()))?;
    Ok(listener)
}
