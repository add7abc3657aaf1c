//! The daemon's decisions, without a file, a socket, a process or a clock.
//!
//! Events go in through the methods of [`Core`] whose names begin with `handle_`, those that time matters for with the
//! time at which they happened. [`Core::poll_output`] gives what is to be done, in order, and [`Core::poll_timeout`] when
//! the next event is due that nobody else brings. The driver does it and reports back. So the tests go
//! through hours of agents, clients and timeouts in a millisecond.
//!
//! | part | one job |
//! |---|---|
//! | `agent` | the control link: HELLO, what the agent may say, its loss |
//! | `client` | programs on the local socket: HELLO, one request, the wait for its call's end |
//! | `call` | a call that the VM asked for: policy, the target's daemon or a service in dom0, the answer |
//! | `served` | calls to the VM, and how many each source has of them |
//! | `timers` | who must have done something by when |
//! | [`ports`] | which data ports calls use |
//! | [`question`] | what policy is asked and what it may answer |
#![forbid(unsafe_code)]

mod agent;
mod call;
mod client;
pub mod ports;
pub mod question;
mod served;
#[cfg(test)]
mod tests;
mod timers;

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use wire::command::ServiceCall;
use wire::control::{Endpoint, MAX_CONTROL_BODY, Message};
use wire::error::TooLong;
use wire::header::{HEADER_LEN, Header};
use wire::names::{DomainId, DomainName, Port, Target};
use wire::top::{Answer, Ledger, Viewer};
use wire::version::Version;

use crate::ports::Ports;
use crate::question::{Question, User};
use agent::Agent;
use call::{Call, Tally};
use client::{ClientState, Running};
use served::Served;
use timers::Timers;

/// Time since a moment that the driver chose; only differences matter.
pub type Now = Duration;

/// How long a peer may take for its HELLO.
pub const HELLO_LIMIT: Duration = Duration::from_secs(10);
/// How long a peer may leave a message half sent.
pub const MESSAGE_LIMIT: Duration = Duration::from_secs(10);
/// How long a target's daemon may take to hand out a port. It waits itself while its agent does not
/// read, which is no reason to give a call up quickly.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// How long the start of a target may take, or the making of a disposable.
pub const PREPARE_LIMIT: Duration = Duration::from_secs(300);

/// A program on the local socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// A call that the VM asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// What a daemon is told once.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The VM's domain id.
    pub id: DomainId,
    /// The VM's name.
    pub name: DomainName,
    /// What `DEFAULT` in front of a command means.
    pub default_user: String,
    /// The last data port that may be handed out.
    pub last_port: u32,
    /// How many calls of the VM may wait for an answer or be served in dom0 at once; more are refused.
    pub max_open: usize,
    /// How many calls between VMs are watched until they end, with a descriptor each; of more only
    /// the beginning is logged.
    pub max_watched: usize,
}

/// A service that this daemon runs for a call of its VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalService {
    /// The VM, the server of the data link, and the link's port.
    pub endpoint: Endpoint,
    /// What to run and for whom.
    pub call: ServiceCall,
}

/// What a service in dom0 got from its caller, and what the caller got from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Payload bytes that the caller sent.
    pub bytes_in: u64,
    /// Payload bytes that the service sent.
    pub bytes_out: u64,
}

impl From<Moved> for wire::top::Moved {
    fn from(Moved { bytes_in, bytes_out }: Moved) -> Self {
        Self { to_service: bytes_in, to_caller: bytes_out }
    }
}

impl From<wire::top::Moved> for Moved {
    fn from(wire::top::Moved { to_service, to_caller }: wire::top::Moved) -> Self {
        Self { bytes_in: to_service, bytes_out: to_caller }
    }
}

/// What a call needs before its target's daemon can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Preparation {
    /// This qube is to be started.
    Start(Target),
    /// A disposable of this template is to be made and started; it is removed when it is released.
    Disposable(Target),
}

/// Why the driver could not do something: an error of its own, of which the core only says that it happened.
pub type Reason = Box<dyn std::error::Error + Send + Sync>;

/// How much a line in the log matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// For whoever looks for the cause of a fault.
    Debug,
    /// What happened.
    Info,
    /// What should not have happened.
    Warn,
}

/// What the driver has to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send a message to the agent.
    SendAgent(Vec<u8>),
    /// Close the control link for this reason, and look for the agent again.
    DropAgent(String),
    /// The agent is there: open the local socket.
    Serve,
    /// The agent is gone: remove the local socket. Its clients are closed one by one.
    Withdraw,
    /// Send a message to a local client.
    SendClient(ClientId, Vec<u8>),
    /// Close a local client, once what was sent to it has left.
    CloseClient(ClientId),
    /// Ask policy and report to [`Core::handle_decided`].
    Ask(CallId, Question),
    /// The answer is not needed any more.
    CancelQuestion(CallId),
    /// Start or make the target and report to [`Core::handle_prepared`].
    Prepare(CallId, Preparation),
    /// What was prepared for this call is not needed any more.
    Release(CallId),
    /// Connect to the daemon of this domain; its messages go to [`Core::handle_target_frame`], its end or
    /// a failure to [`Core::handle_target_closed`], that there is none to [`Core::handle_target_absent`].
    OpenTarget(CallId, Target),
    /// Send a message to the target's daemon.
    SendTarget(CallId, Vec<u8>),
    /// Close the connection to the target's daemon.
    CloseTarget(CallId),
    /// Run a service in a process of its own; report to [`Core::handle_service_started`] at once and to
    /// [`Core::handle_service_ended`] later.
    StartService(CallId, Box<LocalService>),
    /// A line for the log; nothing in it needs escaping.
    Log(Level, String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Agent,
    Client(ClientId),
    Call(CallId),
}

/// One daemon.
#[derive(Debug)]
pub struct Core {
    settings: Settings,
    agent: Agent,
    ports: Ports,
    clients: BTreeMap<ClientId, ClientState>,
    clients_held: bool,
    /// Who is to be closed when the call on a port ends.
    waiting: BTreeMap<Port, ClientId>,
    /// What local clients had started in the VM, by its port.
    running: BTreeMap<Port, Running>,
    /// Whose calls to the VM there are.
    served: Served,
    calls: BTreeMap<CallId, Call>,
    tally: Tally,
    timers: Timers<Timer>,
    outputs: VecDeque<Output>,
    last_id: u64,
    /// What is told of calls while they run, and of the last ones.
    ledger: Ledger<Known>,
    /// When something last happened.
    latest: Now,
}

/// A call that is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Known {
    /// One that the VM asked for.
    OfVm(CallId),
    /// One that dom0 itself makes to the VM, by its port.
    OfDom0(Port),
}

impl Core {
    /// A daemon without agent or clients.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            ports: Ports::new(settings.id, settings.last_port),
            settings,
            agent: Agent::Absent,
            clients: BTreeMap::new(),
            clients_held: false,
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            served: Served::default(),
            calls: BTreeMap::new(),
            tally: Tally::default(),
            timers: Timers::new(),
            outputs: VecDeque::new(),
            last_id: 0,
            ledger: Ledger::default(),
            latest: Now::ZERO,
        }
    }

    /// So many calls to the VM may be there at once, of all sources together.
    pub fn limit_served_calls(&mut self, max: usize) {
        self.served = Served::new(max);
    }

    /// What is to be done next; to be drained after every event.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Core::handle_timeout`] is to be called at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Now> {
        self.timers.next()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        self.latest = now;
        while let Some(timer) = self.timers.expired(now) {
            match timer {
                Timer::Agent => self.agent_too_slow(),
                Timer::Client(id) => self.client_too_slow(now, id),
                Timer::Call(id) => self.target_too_slow(id),
            }
        }
    }

    /// Who talks to whom: the calls that the VM asked for, and those that dom0 makes to it. `moved` tells what a service of
    /// dom0 has moved so far.
    pub fn top(&self, now: Now, moved: impl Fn(CallId) -> Option<Moved>) -> Answer {
        let (rows, left_out) = self.ledger.rows(now, Viewer::Everything, |known| match known {
            Known::OfVm(id) => moved(id).map(Into::into),
            Known::OfDom0(_) => None,
        });
        Answer { machine: self.settings.name.as_str().to_owned(), rows, left_out }
    }

    fn next_id(&mut self) -> u64 {
        self.last_id = self.last_id.saturating_add(1);
        self.last_id
    }

    fn put(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    fn log(&mut self, level: Level, line: String) {
        self.put(Output::Log(level, line));
    }
}

/// The body limit and version with which everything to the agent is encoded; its triggers are the
/// only messages whose form depends on the version, and they come from it.
fn to_agent(message: &Message) -> Result<Vec<u8>, TooLong> {
    message.encode_within(Version::OURS, MAX_CONTROL_BODY)
}

/// Whether the target's daemon will pass this request on, as far as that can be told here: it puts the VM's own user in
/// place of `DEFAULT`, who has one letter at least.
fn fits_the_target(request: &[u8], user: &User) -> Result<(), TooLong> {
    let spared = if *user == User::default() { User::DEFAULT.len().saturating_sub(1) } else { 0 };
    let len = request.len().saturating_sub(HEADER_LEN).saturating_sub(spared);
    if len > MAX_CONTROL_BODY { Err(TooLong { len, max: MAX_CONTROL_BODY }) } else { Ok(()) }
}

/// A message of domain, port and a short text behind them. Without text it is a daemon's answer to a local client: the
/// request's type with the endpoint alone.
fn with_endpoint(ty: u32, endpoint: Endpoint, text: &[u8]) -> Vec<u8> {
    let body = [&endpoint.to_bytes()[..], text].concat();
    let mut message = Header::new(ty, body.len() as u32).to_bytes().to_vec();
    message.extend_from_slice(&body);
    message
}
