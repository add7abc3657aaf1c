//! An agent between a daemon and programs that say anything at any time: every answer finds the program that
//! asked, each once; what goes to the daemon is what its version takes; a port is given back once, and only
//! on the link that named it.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};

use agent_core::{CallId, ClientId, Core, Output};
use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use wire::control::{Endpoint, ExecParams, MAX_CONTROL_BODY, Message, ServiceParams, check_trigger_version};
use wire::frame::LocalTriggerDecoder;
use wire::names::{DomainId, Ident, Port};
use wire::version::Version;

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    LinkMet,
    LinkUp(u8),
    LinkLost,
    /// The daemon says this, whatever it is.
    Raw(u16, &'a [u8]),
    Exec {
        just: bool,
        at: (u8, u8),
        cmdline: &'a [u8],
    },
    Connect {
        client: u8,
        at: (u8, u8),
    },
    Refuse {
        client: u8,
    },
    /// A program asks in these bytes.
    Ask {
        bytes: &'a [u8],
        busy: bool,
    },
    ClientGone(u8),
    CallEnded(u8),
}

#[derive(Default)]
struct World {
    core: Core,
    link: Option<Version>,
    met: bool,
    /// Those that asked between the two, in their order.
    held: Vec<ClientId>,
    next_client: u64,
    waiting: BTreeSet<ClientId>,
    connected: BTreeMap<ClientId, Option<Endpoint>>,
    running: BTreeMap<CallId, Option<Endpoint>>,
}

fuzz_target!(|steps: Vec<Step<'_>>| {
    let mut world = World::default();
    steps.into_iter().take(300).for_each(|step| world.play(step));
});

fn endpoint((domain, port): (u8, u8)) -> Endpoint {
    Endpoint { domain: DomainId(domain.into()), port: Port(508 + u32::from(port % 16)) }
}

impl World {
    fn play(&mut self, step: Step<'_>) {
        match step {
            Step::LinkUp(version) if self.link.is_none() => {
                let version = fuzz::pick(fuzz::VERSIONS, version);
                self.link = Some(version);
                let held = std::mem::take(&mut self.held);
                self.core.handle_link_up(version);
                let mut actions = self.outputs().into_iter();
                held.into_iter().for_each(|id| self.check_asked(id, actions.next()));
                assert_eq!(actions.next(), None);
                self.met = false;
            }
            Step::LinkMet if self.link.is_none() && !self.met => {
                self.met = true;
                self.core.handle_link_met();
            }
            Step::LinkLost if self.link.is_some() || self.met => self.lose(),
            Step::Raw(ty, body) => match Message::decode(ty.into(), body) {
                Ok(message) => self.hear(message),
                Err(_) if self.link.is_some() => self.lose(),
                Err(_) => {}
            },
            Step::Exec { just, at, cmdline } => {
                let Endpoint { domain, port } = endpoint(at);
                let params =
                    ExecParams { connect_domain: domain, connect_port: port, cmdline: cmdline.to_vec() };
                self.hear(Message::Exec { just, params });
            }
            Step::Connect { client, at } => {
                let ident = Ident::numbered(client.into());
                self.hear(Message::ServiceConnect(ServiceParams { endpoint: endpoint(at), ident }));
            }
            Step::Refuse { client } => self.hear(Message::Refused(Ident::numbered(client.into()))),
            Step::Ask { bytes, busy } => self.ask(bytes, busy),
            Step::ClientGone(client) => self.client_gone(ClientId(client.into())),
            Step::CallEnded(call) => {
                let id = CallId(call.into());
                if let Some(endpoint) = self.running.remove(&id) {
                    self.core.handle_call_ended(id);
                    let actions = self.outputs();
                    self.check_terminated(&actions, endpoint);
                }
            }
            Step::LinkMet | Step::LinkUp(_) | Step::LinkLost => {}
        }
    }

    /// What is to be done, apart from lines for the log.
    fn outputs(&mut self) -> Vec<Output> {
        let outputs = std::iter::from_fn(|| self.core.poll_output());
        outputs.filter(|output| !matches!(output, Output::Log(..))).collect()
    }

    fn lose(&mut self) {
        self.core.handle_link_lost();
        let actions = self.outputs();
        (self.link, self.met) = (None, false);
        self.held.clear();
        self.connected.values_mut().chain(self.running.values_mut()).for_each(|endpoint| *endpoint = None);
        assert_eq!(actions.len(), self.waiting.len(), "each waiting program is told");
        self.check(actions);
        assert!(self.waiting.is_empty());
    }

    fn hear(&mut self, message: Message) {
        if self.link.is_none() {
            return;
        }
        let answer = match &message {
            Message::ServiceConnect(params) => Some(*params),
            _ => None,
        };
        let heard = self.core.handle_message(message).map(|()| self.outputs());
        match (heard, answer) {
            // The port of a call whose program is gone is given back at once.
            (Ok(actions), Some(params)) if matches!(actions.as_slice(), [Output::Send(_)]) => {
                let id = params.ident.number().map(ClientId);
                assert!(id.is_none_or(|id| !self.waiting.contains(&id) && !self.connected.contains_key(&id)));
                self.check_terminated(&actions, Some(params.endpoint));
            }
            (Ok(actions), _) => {
                assert!(actions.len() <= 1);
                self.check(actions);
            }
            (Err(_), _) => self.lose(),
        }
    }

    fn ask(&mut self, bytes: &[u8], busy: bool) {
        let mut decoder = LocalTriggerDecoder::new();
        let Ok(Some(request)) = decoder.feed(bytes) else { return };
        let id = ClientId(self.next_client);
        self.next_client += 1;
        self.core.handle_request(id, request, busy);
        let mut actions = self.outputs().into_iter();
        match actions.next() {
            None => {
                assert!(self.met, "only the HELLO is waited for");
                self.held.push(id);
                self.waiting.insert(id);
            }
            action => self.check_asked(id, action),
        }
        assert_eq!(actions.next(), None);
    }

    /// What becomes of a request: the daemon is asked in words that it knows, or it is refused.
    fn check_asked(&mut self, id: ClientId, action: Option<Output>) {
        match action {
            Some(Output::Send(message)) => {
                let version = self.link.expect("somebody to ask");
                let frame = fuzz::unframe(&message);
                assert!(frame.body.len() <= MAX_CONTROL_BODY);
                assert_eq!(check_trigger_version(frame.ty, version), Ok(()));
                let Ok(Message::Trigger(said)) = Message::decode(frame.ty, &frame.body) else {
                    panic!("{frame:?} is no request");
                };
                assert_eq!(said.ident.number(), Some(id.0));
                self.waiting.insert(id);
            }
            Some(Output::Refuse(refused, _)) => {
                assert_eq!(refused, id);
                self.waiting.remove(&id);
            }
            other => panic!("{other:?}"),
        }
    }

    fn client_gone(&mut self, id: ClientId) {
        self.core.handle_client_gone(id);
        let actions = self.outputs();
        match self.connected.remove(&id) {
            Some(endpoint) => self.check_terminated(&actions, endpoint),
            None => assert!(actions.is_empty()),
        }
        self.waiting.remove(&id);
        self.held.retain(|held| *held != id);
    }

    fn check(&mut self, actions: Vec<Output>) {
        for action in actions {
            match action {
                Output::Send(message) => panic!("{message:?} was not asked for"),
                Output::Log(..) => {}
                Output::Connect(id, endpoint) => {
                    assert!(self.waiting.remove(&id) && endpoint.port.is_data());
                    self.connected.insert(id, Some(endpoint));
                }
                Output::Withdraw(id) => assert!(self.connected.contains_key(&id)),
                Output::Refuse(id, _) => assert!(self.waiting.remove(&id)),
                Output::Start(id, start) => {
                    assert!(start.params.connect_port.is_data());
                    assert_eq!(self.running.insert(id, Some(start.params.endpoint())), None);
                }
            }
        }
    }

    /// The daemon is told that this port is free again, if it is the daemon that named it.
    fn check_terminated(&self, actions: &[Output], endpoint: Option<Endpoint>) {
        match (actions, endpoint) {
            ([], None) => {}
            ([Output::Send(message)], Some(endpoint)) => {
                let frame = fuzz::unframe(message);
                let said = Message::decode(frame.ty, &frame.body);
                assert_eq!(said, Ok(Message::ConnectionTerminated(endpoint)));
            }
            other => panic!("{other:?}"),
        }
    }
}
