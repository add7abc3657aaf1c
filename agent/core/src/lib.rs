//! The agent's decisions, without a file, a socket, a process or a clock.
//!
//! Events go in through the methods of [`Core`] whose names begin with `handle_`; [`Core::poll_output`] gives what is
//! to be done, in order. Nothing depends on time: the caller keeps all deadlines. The daemon is trusted no more than
//! necessary: its messages are checked like anything from outside, and if it breaks the protocol it loses the link,
//! and nothing else happens.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};

use wire::control::{Endpoint, ExecParams, MAX_CONTROL_BODY, Message};
use wire::error::{Breach, PeerError};
use wire::header::ty;
use wire::names::{Ident, Port};
use wire::trigger::{BadTrigger, Trigger};
use wire::version::Version;

/// A program on the agent's socket. The number is also that of its request id, so it is never used twice, not even by
/// the agent that is started after this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// A command or service that the daemon asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// How important a line in the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Something happened as it should.
    Info,
    /// Something happened that should not.
    Warn,
}

/// What the caller of the core has to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send the daemon these bytes, one whole message.
    Send(Vec<u8>),
    /// Tell a client where its service will be. The client closes the connection.
    Connect(ClientId, Endpoint),
    /// Tell a client that its service will not come.
    Withdraw(ClientId),
    /// Close a client's connection, because its request is refused.
    Refuse(ClientId, Refusal),
    /// Start a call.
    Start(CallId, Start),
    /// A line for the log; nothing in it needs escaping.
    Log(Level, String),
}

/// What the daemon wants started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// `JUST_EXEC`: without streams.
    pub just: bool,
    /// Where to connect, and the command line.
    pub params: ExecParams,
}

/// Why a client's request is refused. The client only sees its connection close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The daemon refused it, by policy.
    #[error("refused by dom0")]
    Denied,
    /// There is no daemon to ask.
    #[error("there is no connection to dom0")]
    NoLink,
    /// The link to the daemon was lost before it answered.
    #[error("the connection to dom0 was lost")]
    LinkLost,
    /// The request is malformed.
    #[error(transparent)]
    Bad(#[from] BadTrigger),
    /// The request is longer than the daemon accepts.
    #[error("the request is too long: {0}")]
    TooLong(#[from] wire::error::TooLong),
    /// The request names a source, which the daemon's protocol version cannot carry; without it policy would decide
    /// about a call that was not meant.
    #[error("dom0 speaks protocol {0}, which cannot pass on --source-qube")]
    NoSource(Version),
    /// More bytes wait for the daemon than it reads.
    #[error("dom0 does not read its requests")]
    Busy,
}

/// Why a message breaks the link, in addition to what the messages themselves can get wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A message that is malformed or may not come here.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// A port that cannot be a data link's.
    #[error("port {0} is not for data links")]
    Port(Port),
}

/// The state of a client whose request was passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestState {
    /// The daemon has not answered yet.
    Waiting,
    /// It was told where its service will be. `None`: by a link that was lost, so nobody is told when the client is
    /// gone.
    Connected(Option<Endpoint>),
}

/// Most requests that are kept while the HELLOs are exchanged; all of them together fit the link's queue.
const MAX_HELD: usize = 64;

/// The state of one agent.
#[derive(Debug, Default)]
pub struct Core {
    /// The version that is spoken with the daemon, while there is a link.
    link: Option<Version>,
    /// Requests that wait, in this order, for the HELLO of a daemon that has connected.
    held: Option<Vec<(ClientId, Trigger)>>,
    clients: BTreeMap<ClientId, RequestState>,
    /// Running calls, with what the daemon is told when they end. A port has a meaning only on the link that named it:
    /// `None` once that link was lost.
    calls: BTreeMap<CallId, Option<Endpoint>>,
    next_call: u64,
    outputs: VecDeque<Output>,
}

impl Core {
    /// What is to be done next; to be called until `None` after every event.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The daemon has connected and has not sent its HELLO yet. For the daemon the agent is ready, so programs may ask
    /// from now on: their requests wait, and are not refused.
    pub fn handle_link_met(&mut self) {
        self.held = Some(Vec::new());
    }

    /// The HELLOs were exchanged.
    pub fn handle_link_up(&mut self, version: Version) {
        self.link = Some(version);
        for (client, request) in self.held.take().into_iter().flatten() {
            self.handle_request(client, Ok(request), false);
        }
    }

    /// The daemon is gone, or broke the protocol. Clients that wait for its answer are refused; calls that run
    /// continue.
    pub fn handle_link_lost(&mut self) {
        self.link = None;
        self.held = None;
        // Messages for this daemon are not sent to the next one.
        self.outputs.retain(|output| !matches!(output, Output::Send(_)));
        self.calls.values_mut().for_each(|endpoint| *endpoint = None);
        let outputs = &mut self.outputs;
        self.clients.retain(|&id, client| match client {
            RequestState::Waiting => {
                outputs.push_back(Output::Refuse(id, Refusal::LinkLost));
                false
            }
            RequestState::Connected(endpoint) => {
                *endpoint = None;
                true
            }
        });
    }

    /// The daemon has sent a message.
    ///
    /// # Errors
    /// The message breaks the protocol: the link is to be closed, and then [`Core::handle_link_lost`] called.
    pub fn handle_message(&mut self, message: Message) -> Result<(), Violation> {
        let unexpected = |ty| Err(PeerError::from(Breach::UnexpectedType(ty)).into());
        match message {
            Message::Exec { just, params } => self.exec(just, params),
            Message::ServiceConnect(params) => self.connect(params.ident, params.endpoint),
            Message::Refused(ident) => {
                self.refused(ident);
                Ok(())
            }
            Message::Hello(_) => unexpected(ty::HELLO),
            Message::Trigger(_) | Message::BadTrigger(_) => unexpected(ty::TRIGGER_SERVICE4),
            Message::ConnectionTerminated(_) => unexpected(ty::CONNECTION_TERMINATED),
        }
    }

    /// A client asks for a service; `busy`: many bytes wait for the daemon already.
    pub fn handle_request(&mut self, client: ClientId, request: Result<Trigger, BadTrigger>, busy: bool) {
        if let (Some(held), Ok(request)) = (&mut self.held, &request)
            && held.len() < MAX_HELD
        {
            held.push((client, request.clone()));
            self.clients.insert(client, RequestState::Waiting);
            return;
        }
        match self.forward(client, request, busy) {
            Ok(message) => {
                self.clients.insert(client, RequestState::Waiting);
                self.put(Output::Send(message));
            }
            Err(refusal) => {
                self.clients.remove(&client);
                self.put(Output::Refuse(client, refusal));
            }
        }
    }

    /// A client closed its connection. Nothing is done for one without a request.
    pub fn handle_client_gone(&mut self, client: ClientId) {
        if let Some(held) = &mut self.held {
            held.retain(|(id, _)| *id != client);
        }
        match self.clients.remove(&client) {
            Some(RequestState::Connected(endpoint)) => self.terminated(endpoint),
            // The daemon's answer will find no client.
            Some(RequestState::Waiting) | None => {}
        }
    }

    /// A call has ended, or could not be started.
    pub fn handle_call_ended(&mut self, call: CallId) {
        let endpoint = self.calls.remove(&call).flatten();
        self.terminated(endpoint);
    }

    fn exec(&mut self, just: bool, params: ExecParams) -> Result<(), Violation> {
        let endpoint = params.endpoint();
        check(endpoint)?;
        let call = CallId(self.next_call);
        self.next_call = self.next_call.wrapping_add(1);
        self.calls.insert(call, Some(endpoint));
        self.put(Output::Start(call, Start { just, params }));
        Ok(())
    }

    fn connect(&mut self, ident: Ident, endpoint: Endpoint) -> Result<(), Violation> {
        check(endpoint)?;
        if let Some((id, client)) = self.waiting(ident) {
            *client = RequestState::Connected(Some(endpoint));
            self.put(Output::Connect(id, endpoint));
        } else if ident.number().is_some_and(|number| self.clients.contains_key(&ClientId(number))) {
            // It was answered before, and may be using the port.
            self.log(Level::Warn, format!("dom0 answered request {ident} twice"));
        } else {
            self.log(Level::Info, format!("dom0 allowed request {ident}, whose client is gone"));
            // The port will not be used, and only the agent knows.
            self.terminated(Some(endpoint));
        }
        Ok(())
    }

    /// The daemon refuses a request, or withdraws one that it allowed.
    fn refused(&mut self, ident: Ident) {
        let connected =
            |number| matches!(self.clients.get(&ClientId(number)), Some(RequestState::Connected(_)));
        if let Some(number) = ident.number().filter(|number| connected(*number)) {
            return self.put(Output::Withdraw(ClientId(number)));
        }
        match self.waiting(ident).map(|(id, _)| id) {
            Some(id) => {
                self.clients.remove(&id);
                self.put(Output::Refuse(id, Refusal::Denied));
            }
            None => self.log(Level::Info, format!("dom0 refused request {ident}, whose client is gone")),
        }
    }

    /// The client whose request has this id and was not answered yet.
    fn waiting(&mut self, ident: Ident) -> Option<(ClientId, &mut RequestState)> {
        let id = ClientId(ident.number()?);
        let client = self.clients.get_mut(&id).filter(|client| **client == RequestState::Waiting)?;
        Some((id, client))
    }

    /// The message that passes a request on.
    fn forward(
        &self,
        client: ClientId,
        request: Result<Trigger, BadTrigger>,
        busy: bool,
    ) -> Result<Vec<u8>, Refusal> {
        let request = request?;
        let version = self.link.ok_or(Refusal::NoLink)?;
        if busy {
            return Err(Refusal::Busy);
        }
        if request.source.is_some() && version < Version::V4 {
            return Err(Refusal::NoSource(version));
        }
        let request = Trigger { ident: Ident::numbered(client.0), ..request };
        Ok(Message::Trigger(request).encode_within(version, MAX_CONTROL_BODY)?)
    }

    /// Tells the daemon that a port is free again, if the link that named it still exists.
    fn terminated(&mut self, endpoint: Option<Endpoint>) {
        let message = self.link.zip(endpoint).and_then(|(version, endpoint)| {
            // Eight bytes always fit.
            Message::ConnectionTerminated(endpoint).encode(version).ok()
        });
        self.outputs.extend(message.map(Output::Send));
    }

    fn put(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    fn log(&mut self, level: Level, line: String) {
        self.put(Output::Log(level, line));
    }
}

fn check(endpoint: Endpoint) -> Result<(), Violation> {
    if endpoint.port.is_data() { Ok(()) } else { Err(Violation::Port(endpoint.port)) }
}

#[cfg(test)]
mod tests;
