//! Programs on the local socket: HELLO, one request, then the wait for the end of its call.

use wire::command::{Command, CommandKind};
use wire::control::{EXEC_LEN, Endpoint, ExecParams, MAX_CONTROL_BODY, Message, PeerInfo, ServiceParams};
use wire::error::{Breach, PeerError, TooLong};
use wire::escape::Escaped;
use wire::frame::Frame;
use wire::handshake::hello;
use wire::header::ty;
use wire::names::{DomainId, IDENT_LEN, Ident, Port};
use wire::shares::TooManyCalls;
use wire::top::{Route, Way};
use wire::version::Version;

use super::{
    ClientId, Core, HELLO_LIMIT, Known, Level, MESSAGE_LIMIT, Now, Output, Timer, to_agent, with_endpoint,
};

/// What stands in front of a command for the VM's default user.
const DEFAULT_USER: &[u8] = b"DEFAULT:";

/// How far a local client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Owes its HELLO.
    Greeting,
    /// May send its request.
    Asking,
    /// Has sent it; all that it can still do is close.
    Waiting,
}

/// One local client.
#[derive(Debug)]
pub(super) struct ClientState {
    stage: Stage,
    /// The port handed out for it, until the call there ends.
    port: Option<Port>,
}

/// A command or service of the VM that runs for somebody else, until its end.
#[derive(Debug)]
pub(super) struct Running {
    /// `qrexec: service: source -> VM`, for the log.
    line: String,
    begun: Now,
}

/// Why a local client is closed.
#[derive(Debug, thiserror::Error)]
enum Complaint {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("the command line is empty")]
    NoCommand,
    #[error("the agent would not read it: {0}")]
    TooLong(#[from] TooLong),
    #[error("no data port is free for a call with domain {0}")]
    NoPort(DomainId),
    #[error("port {0} is not for data")]
    BadPort(Port),
    #[error(transparent)]
    TooManyCalls(#[from] TooManyCalls),
    #[error("{0}")]
    Refused(String),
    #[error("no call {0} waits for an answer")]
    NotPending(Ident),
}

impl From<Breach> for Complaint {
    fn from(breach: Breach) -> Self {
        Self::Peer(breach.into())
    }
}

impl Core {
    /// Somebody connected to the local socket.
    pub fn handle_client_connected(&mut self, now: Now) -> ClientId {
        let id = ClientId(self.next_id());
        self.clients.insert(id, ClientState { stage: Stage::Greeting, port: None });
        self.timers.set(Timer::Client(id), now.saturating_add(HELLO_LIMIT));
        self.put(Output::SendClient(id, hello(Version::LOCAL_DAEMON).to_vec()));
        id
    }

    /// A local client sent a message.
    pub fn handle_client_frame(&mut self, now: Now, id: ClientId, frame: &Frame) {
        let Some(stage) = self.clients.get(&id).map(|client| client.stage) else { return };
        let result = match stage {
            Stage::Greeting => self.client_hello(now, id, frame),
            Stage::Asking => self.client_request(now, id, frame),
            Stage::Waiting => Err(Breach::Trailing.into()),
        };
        if let Err(complaint) = result {
            let line = match complaint {
                Complaint::Refused(line) => line,
                other => format!("a local client was closed: {other}"),
            };
            self.log(Level::Warn, line);
            self.close_client(id);
        }
    }

    /// The driver has read what there was; `mid_message` tells whether a message has begun and not
    /// ended.
    pub fn handle_client_read(&mut self, now: Now, id: ClientId, mid_message: bool) {
        let Some(client) = self.clients.get(&id) else { return };
        match (client.stage, mid_message) {
            // The limit for the whole HELLO holds, and that for the whole request.
            (Stage::Greeting | Stage::Asking, _) => {}
            (Stage::Waiting, true) => {
                self.timers.set_once(Timer::Client(id), now.saturating_add(MESSAGE_LIMIT))
            }
            (Stage::Waiting, false) => self.timers.clear(Timer::Client(id)),
        }
    }

    /// Whether the driver leaves local clients unheard, because the agent does not read: then none of
    /// them is to blame for being late.
    pub fn hold_clients(&mut self, held: bool) {
        self.clients_held = held;
    }

    /// A local client closed its connection, or broke it. Its call goes on, and so does its port.
    pub fn handle_client_closed(&mut self, id: ClientId) {
        self.forget_client(id);
    }

    pub(super) fn client_too_slow(&mut self, now: Now, id: ClientId) {
        if self.clients_held {
            return self.timers.set(Timer::Client(id), now.saturating_add(MESSAGE_LIMIT));
        }
        self.log(Level::Warn, "a local client was closed: it was too slow".to_owned());
        self.close_client(id);
    }

    pub(super) fn close_client(&mut self, id: ClientId) {
        if self.forget_client(id) {
            self.put(Output::CloseClient(id));
        }
    }

    pub(super) fn close_all_clients(&mut self) {
        let all: Vec<(ClientId, bool)> =
            self.clients.iter().map(|(id, client)| (*id, client.port.is_some())).collect();
        for (id, waits) in all {
            // Otherwise this would look like the end of the call. A client that does not know this word only sees its
            // connection close, as ever.
            if waits && let Ok(word) = to_agent(&Message::Refused(Ident::numbered(0))) {
                self.put(Output::SendClient(id, word));
            }
            self.close_client(id);
        }
    }

    fn forget_client(&mut self, id: ClientId) -> bool {
        self.timers.clear(Timer::Client(id));
        let Some(client) = self.clients.remove(&id) else { return false };
        if let Some(port) = client.port {
            self.waiting.remove(&port);
        }
        true
    }

    fn client_hello(&mut self, now: Now, id: ClientId, frame: &Frame) -> Result<(), Complaint> {
        if frame.ty != ty::HELLO {
            return Err(Breach::UnexpectedType(frame.ty).into());
        }
        let theirs = PeerInfo::decode(&frame.body)?.version;
        Version::negotiate_between(Version::LOCAL_DAEMON, Version::LOCAL_DAEMON, theirs)?;
        // Whoever connects has something to ask; one that does not only holds a descriptor.
        self.timers.set(Timer::Client(id), now.saturating_add(MESSAGE_LIMIT));
        self.set_stage(id, Stage::Asking);
        Ok(())
    }

    fn client_request(&mut self, now: Now, id: ClientId, frame: &Frame) -> Result<(), Complaint> {
        match Message::decode(frame.ty, &frame.body)? {
            Message::Exec { just, params } => self.exec_wanted(now, id, just, params)?,
            Message::ServiceConnect(params) => {
                let said = frame.body.iter().skip(EXEC_LEN).take(IDENT_LEN).copied().collect::<Vec<_>>();
                self.connect_wanted(now, id, params, &said)?;
            }
            _ => return Err(Breach::UnexpectedType(frame.ty).into()),
        }
        self.timers.clear(Timer::Client(id));
        self.set_stage(id, Stage::Waiting);
        Ok(())
    }

    /// A command for the VM: gets a port, and goes on to the agent with it.
    fn exec_wanted(
        &mut self,
        now: Now,
        id: ClientId,
        just: bool,
        params: ExecParams,
    ) -> Result<(), Complaint> {
        if params.cmdline.is_empty() {
            return Err(Complaint::NoCommand);
        }
        let cmdline = self.with_default_user(&params.cmdline);
        // Measured before a port is taken for it: fixed part, command line and NUL.
        let len = cmdline.len().saturating_add(EXEC_LEN).saturating_add(1);
        if len > MAX_CONTROL_BODY {
            return Err(TooLong { len, max: MAX_CONTROL_BODY }.into());
        }
        let ty = if just { ty::JUST_EXEC } else { ty::EXEC_CMDLINE };
        let port = self.port_for(id, ty, params.endpoint()).map_err(|complaint| match complaint {
            Complaint::TooManyCalls(too_many) => {
                Complaint::Refused(format!("{}: refused, {too_many}", self.description(&cmdline)))
            }
            other => other,
        })?;
        if params.connect_port == Port(0) {
            self.running.insert(port, Running { line: self.description(&cmdline), begun: now });
            if params.connect_domain == DomainId::DOM0 {
                let route = self.route(&cmdline);
                self.ledger.begins(now, Known::OfDom0(port), route);
            }
        }
        self.send_agent(&Message::Exec {
            just,
            params: ExecParams { connect_port: port, cmdline, ..params },
        });
        Ok(())
    }

    /// Somebody else in dom0 took a call of our VM over: the caller is told where to go. Its id goes on as it was
    /// `said`, padded or not: agents of some age may look at the length.
    fn connect_wanted(
        &mut self,
        now: Now,
        id: ClientId,
        params: ServiceParams,
        said: &[u8],
    ) -> Result<(), Complaint> {
        let ServiceParams { endpoint, ident } = params;
        let call = self.pending_call(ident).ok_or(Complaint::NotPending(ident))?;
        let port = self.port_for(id, ty::SERVICE_CONNECT, endpoint)?;
        let endpoint = Endpoint { port, ..endpoint };
        self.taken_over(now, call, endpoint, said);
        Ok(())
    }

    /// The port of a client's call: the one that it named, or one that is reserved for it, of which
    /// it is told.
    fn port_for(&mut self, id: ClientId, ty: u32, endpoint: Endpoint) -> Result<Port, Complaint> {
        let Endpoint { domain, port } = endpoint;
        if port != Port(0) {
            return if port.is_data() { Ok(port) } else { Err(Complaint::BadPort(port)) };
        }
        let reserve = || self.ports.reserve(domain).ok_or(Complaint::NoPort(domain));
        let port = self.served.begin(domain, reserve)?;
        self.waiting.insert(port, id);
        if let Some(client) = self.clients.get_mut(&id) {
            client.port = Some(port);
        }
        let told = Endpoint { domain: self.settings.id, port };
        self.put(Output::SendClient(id, with_endpoint(ty, told, &[])));
        Ok(port)
    }

    /// What a command line is for. Words for a shell are not logged.
    fn description(&self, cmdline: &[u8]) -> String {
        let vm = &self.settings.name;
        match Command::parse(cmdline).map(|command| command.kind) {
            Ok(CommandKind::Service(call)) => {
                let service = call.service.with_plus();
                let source = Escaped::new(call.source.as_str());
                format!("qrexec: {}: {source} -> {vm}", Escaped::new(&*service))
            }
            _ => format!("qrexec: a command: dom0 -> {vm}"),
        }
    }

    /// The same, for those who want to know what goes on.
    fn route(&self, cmdline: &[u8]) -> Route {
        let vm = self.settings.name.as_str();
        match Command::parse(cmdline).map(|command| command.kind) {
            Ok(CommandKind::Service(call)) => {
                Route::new(Way::Asked, 0, call.source.as_str(), vm, &call.service.with_plus())
            }
            _ => Route::new(Way::Asked, 0, "dom0", vm, "(a command)"),
        }
    }

    /// Nobody will tell when dom0's own calls end.
    pub(super) fn forget_dom0s_calls(&mut self) {
        for port in self.running.keys() {
            self.ledger.ended(self.latest, Known::OfDom0(*port), None, None);
        }
    }

    /// What ran on this port has ended, as the agent says.
    pub(super) fn port_released(&mut self, now: Now, port: Port) {
        if let Some(client) = self.waiting.remove(&port) {
            self.close_client(client);
        }
        self.ledger.ended(now, Known::OfDom0(port), None, None);
        if let Some(Running { line, begun }) = self.running.remove(&port) {
            let lasted = now.saturating_sub(begun).as_secs_f64();
            self.log(Level::Info, format!("{line}: ended after {lasted:.3} s, port {port}"));
        }
    }

    fn with_default_user(&self, cmdline: &[u8]) -> Vec<u8> {
        match cmdline.strip_prefix(DEFAULT_USER) {
            Some(command) => [self.settings.default_user.as_bytes(), b":", command].concat(),
            None => cmdline.to_vec(),
        }
    }

    fn set_stage(&mut self, id: ClientId, stage: Stage) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.stage = stage;
        }
    }
}
