//! The thin side of the daemon: descriptors in, the core's decisions out.
//!
//! One thread, one loop. Every descriptor is watched by one reactor, but the local socket and its
//! clients by one of their own, which is left unwatched while the agent does not read: then their
//! requests wait in their own sockets and not in our memory.

mod agent;
mod calls;
mod helpers;
mod local_clients;
mod log;
mod peers;
mod targets;
mod token;
mod traffic;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use daemon_core::{CallId, Core, Now, Output, Settings};
use engine::process::{Child, Signals};
use engine::reactor::{Event, Interest, Reactor};
use engine::step;
use ring::Transport;
use rustix::process::Signal;
use wire::names::Target;

use crate::dom0_service::Manner;
use crate::policy_source::{PolicyFiles, Programs};
use crate::startup::{Outcome, Report};
use agent::{AgentLink, Search};
use helpers::Helpers;
use local_clients::LocalClients;
use peers::Heard;
use targets::Targets;
use token::Token;
use traffic::Traffic;

/// Bytes that may wait for the agent before local clients have to wait too.
const AGENT_BACKLOG: usize = 64 << 10;
/// Messages of the agent dealt with before everybody else has a turn.
const AGENT_BATCH: usize = 64;

/// Who decides about calls.
#[derive(Debug)]
pub struct Decider {
    /// The policy files, if they are read in this process.
    pub files: Option<PolicyFiles>,
    /// Who is asked otherwise, and where a person has to be asked or told.
    pub programs: Programs,
}

/// How much one VM may make dom0 do at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Services in dom0.
    pub services: usize,
    /// Qubes that are being started or made.
    pub starting: usize,
    /// Disposables, until they are removed.
    pub disposables: usize,
    /// Calls that others make to it: each has a descriptor here and a port.
    pub served: usize,
}

/// Everything that a daemon needs to run.
pub struct Setup {
    /// What the core is told.
    pub settings: Settings,
    /// How much one VM may make dom0 do.
    pub limits: Limits,
    /// `uuid:…` of the VM, if it is known.
    pub uuid: Option<Target>,
    /// The folder of the daemons' sockets.
    pub socket_dir: PathBuf,
    /// How agents and callers are reached.
    pub transport: Transport,
    /// Who decides.
    pub decider: Decider,
    /// How long the agent may take to appear at first; `None`: for ever.
    pub startup_limit: Option<Duration>,
    /// Who is told that the agent is there.
    pub report: Report,
    /// Whether there is anything by which targets can be started and disposables made.
    pub may_start: bool,
    /// How services of dom0 run.
    pub manner: Manner,
}

/// A running daemon.
pub struct Driver {
    core: Core,
    settings: Settings,
    uuid: Option<Target>,
    socket_dir: PathBuf,
    transport: Transport,
    manner: Manner,
    epoch: Instant,
    reactor: Reactor<Token>,
    signals: Signals,
    agent: AgentLink,
    /// The agent has more to say than one turn takes.
    agent_due: bool,
    local_clients: LocalClients,
    targets: Targets,
    decider: Decider,
    helpers: Helpers,
    may_start: bool,
    services: BTreeMap<CallId, Child>,
    traffic: Traffic,
    limits: Limits,
    startup_deadline: Option<Now>,
    report: Report,
    finished: Option<Outcome>,
}

impl Driver {
    /// Prepares a daemon. Nothing is looked for yet.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn new(setup: Setup) -> io::Result<Self> {
        let reactor = Reactor::new()?;
        let signals = Signals::block(&[Signal::TERM, Signal::INT])?;
        reactor.add(&signals, Token::Signals, Interest::Read)?;
        let local_clients = LocalClients::new(&reactor)?;
        let mut core = Core::new(setup.settings.clone());
        core.limit_served_calls(setup.limits.served);
        Ok(Self {
            core,
            agent: AgentLink::new(setup.transport.clone(), setup.settings.id),
            settings: setup.settings,
            uuid: setup.uuid,
            socket_dir: setup.socket_dir,
            transport: setup.transport,
            manner: setup.manner,
            epoch: Instant::now(),
            reactor,
            signals,
            agent_due: false,
            local_clients,
            targets: Targets::new(),
            decider: setup.decider,
            helpers: Helpers::default(),
            limits: setup.limits,
            may_start: setup.may_start,
            services: BTreeMap::new(),
            traffic: Traffic::new()?,
            startup_deadline: setup.startup_limit,
            report: setup.report,
            finished: None,
        })
    }

    /// Runs until a signal or a failure ends it.
    pub fn run(mut self) -> Outcome {
        let mut events = Vec::new();
        loop {
            let timeout = self.prepare_to_sleep();
            if let Some(outcome) = self.finished {
                return outcome;
            }
            if let Err(error) = self.reactor.wait(timeout, &mut events) {
                tracing::error!("waiting for events: {error}");
                return Outcome::Failed;
            }
            for event in &events {
                self.dispatch(*event);
                self.settle();
            }
            self.on_time();
        }
    }

    fn now(&self) -> Now {
        self.epoch.elapsed()
    }

    /// What is to be done whether or not there was an event.
    fn on_time(&mut self) {
        let now = self.now();
        if self.agent_due {
            self.hear_agent();
        }
        self.look_for_agent(false);
        self.resume_front();
        self.retry_targets();
        self.start_programs();
        self.core.handle_timeout(now);
        if self.startup_deadline.is_some_and(|at| at <= now) {
            tracing::error!("no agent within the time for starting up, giving up");
            self.finish(Outcome::NoAgent);
        }
        self.settle();
    }

    /// Sends what waits to be sent and tells how long to sleep at most.
    fn prepare_to_sleep(&mut self) -> Option<Duration> {
        match self.agent.arm(&self.reactor) {
            Ok(busy) => self.agent_due |= busy,
            Err(error) => self.agent_broken(&error.to_string(), true),
        }
        self.settle();
        let open = self.agent.queued() < AGENT_BACKLOG;
        self.core.hold_clients(!open);
        if let Err(error) = self.local_clients.set_open(&self.reactor, open) {
            tracing::error!("watching the local socket: {error}");
            self.finish(Outcome::Failed);
        }
        if self.agent_due {
            return Some(Duration::ZERO);
        }
        let times = [
            self.core.poll_timeout(),
            self.startup_deadline,
            self.agent.look_at(),
            self.local_clients.accept_at(),
            self.targets.retry_at(),
        ];
        let next = times.into_iter().flatten().min()?;
        Some(next.saturating_sub(self.now()))
    }

    fn dispatch(&mut self, event: Event<Token>) {
        match event.token {
            Token::Agent => self.agent_ready(),
            Token::Signals => self.signalled(),
            Token::LocalClients => self.local_clients_ready(),
            Token::Target(id) => self.target_ready(id),
            Token::Program(id, readiness) => self.program_ready(id, readiness),
            Token::Service(id) => self.service_ready(id),
            Token::HelperOutput(id) => self.helper_said(id),
            Token::HelperEnd(id) => self.helpers.reap(&self.reactor, id),
        }
    }

    /// Does what the core wants done, until it wants nothing more.
    fn settle(&mut self) {
        while let Some(output) = self.core.poll_output() {
            self.perform(output);
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::SendAgent(message) => self.send_agent(message),
            Output::DropAgent(reason) => self.agent_dropped(&reason),
            Output::Serve => self.open_local_sockets(),
            Output::Withdraw => self.local_clients.withdraw(),
            Output::SendClient(id, message) => self.send_client(id, message),
            Output::CloseClient(id) => self.local_clients.close_client(id),
            Output::Ask(id, question) => {
                step::reached("policy asked");
                self.ask(id, question);
            }
            Output::CancelQuestion(id) => self.cancel_question(id),
            Output::Prepare(id, what) => self.prepare(id, &what),
            Output::Release(id) => self.helpers.release(&self.reactor, id),
            Output::OpenTarget(id, target) => {
                step::reached("policy has decided");
                self.open_target(id, &target);
            }
            Output::SendTarget(id, message) => {
                step::reached("target's daemon asked");
                self.send_target(id, message);
            }
            Output::CloseTarget(id) => self.close_target(id),
            Output::StartService(id, service) => self.start_service(id, &service),
            Output::Log(level, line) => log::write(level, &line),
        }
    }

    fn finish(&mut self, outcome: Outcome) {
        let outcome = *self.finished.get_or_insert(outcome);
        self.report.tell(outcome);
    }

    fn signalled(&mut self) {
        while let Ok(Some(signal)) = self.signals.take_next() {
            tracing::info!("ended by signal {signal}");
            self.finish(Outcome::Ended);
        }
    }

    /// The agent is there: local programs may come.
    fn open_local_sockets(&mut self) {
        let Settings { id, name, .. } = &self.settings;
        if let Err(error) = self.local_clients.open(&self.socket_dir, *id, name, self.uuid.as_ref()) {
            tracing::error!("the local socket in {}: {error}", self.socket_dir.display());
            return self.finish(Outcome::Failed);
        }
        self.startup_deadline = None;
        self.report.tell(Outcome::Ended);
    }

    fn send_agent(&mut self, message: Vec<u8>) {
        step::reached("agent told");
        if let Err(error) = self.agent.send(message) {
            self.agent_broken(&error.to_string(), true);
        }
    }

    fn agent_ready(&mut self) {
        if self.look_for_agent(true) {
            return;
        }
        match self.agent.on_ready() {
            Ok(()) => self.hear_agent(),
            Err(error) => self.agent_broken(&error.to_string(), true),
        }
    }

    /// A step of the search for the agent. `true`: it has just been found.
    fn look_for_agent(&mut self, event: bool) -> bool {
        let now = self.now();
        let search = self.agent.look(&self.reactor, now, event);
        match search {
            Search::Goes => {}
            Search::Found => {
                self.core.handle_agent_connected(now);
                self.agent_due = true;
            }
            Search::Hopeless => self.domain_gone(),
        }
        search == Search::Found
    }

    /// The VM does not exist any more. Its number will not come back, so there is nothing left to do; a
    /// daemon that never met an agent says that it did not.
    fn domain_gone(&mut self) {
        tracing::info!("domain {} is gone, and so is its daemon", self.settings.id);
        let started = self.report.is_told();
        self.finish(if started { Outcome::Ended } else { Outcome::NoAgent });
    }

    fn hear_agent(&mut self) {
        self.agent_due = false;
        for _ in 0..AGENT_BATCH {
            let now = self.now();
            match self.agent.hear() {
                Some(Heard::Message(frame)) => self.core.handle_agent_frame(now, &frame),
                Some(Heard::Nothing { mid_message }) => return self.core.handle_agent_read(now, mid_message),
                Some(Heard::Closed) => return self.agent_broken("it closed the control link", false),
                Some(Heard::Broken(error)) => return self.agent_broken(&error.to_string(), true),
                None => return,
            }
            self.settle();
        }
        self.agent_due = true;
    }

    /// The control link is gone without the core's doing.
    fn agent_broken(&mut self, reason: &str, misbehaved: bool) {
        tracing::warn!("the agent is gone: {reason}");
        self.agent.drop_link(&self.reactor, self.epoch.elapsed(), misbehaved);
        self.core.handle_agent_lost();
    }

    /// The core wants no more of this agent. One that cannot even say HELLO at the start never will.
    fn agent_dropped(&mut self, reason: &str) {
        tracing::warn!("the agent was dropped: {reason}");
        self.agent.drop_link(&self.reactor, self.epoch.elapsed(), true);
        if !self.report.is_told() {
            self.finish(Outcome::Failed);
        }
    }
}
