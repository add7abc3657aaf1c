//! What the tests share: a daemon for VM 5, `work`, and ways to play its surroundings.

use std::time::Duration;

use wire::control::{Endpoint, ExecParams, Message, ServiceParams};
use wire::frame::{Decoder, Frame};
use wire::header::Header;
use wire::names::{DomainId, DomainName, Ident, Port, ServiceName, Target};
use wire::trigger::Trigger;
use wire::version::Version;

use crate::ports::LAST_BY_DEFAULT;
use crate::question::{Allow, User, Verdict};
use crate::{CallId, ClientId, Core, Now, Output, Settings};

pub(super) const OWN: DomainId = DomainId(5);

/// How many calls may be open at once.
pub(super) const MAX_OPEN: usize = 8;

pub(super) fn settings(id: DomainId, name: &str) -> Settings {
    Settings {
        id,
        name: DomainName::new(name).unwrap(),
        default_user: "user".to_owned(),
        last_port: LAST_BY_DEFAULT,
        max_open: MAX_OPEN,
        max_watched: 4,
    }
}

/// A daemon with a clock.
pub(super) struct Stage {
    pub(super) core: Core,
    pub(super) now: Now,
}

impl Stage {
    /// A daemon whose agent is still to come.
    pub(super) fn empty() -> Self {
        Self { core: Core::new(settings(OWN, "work")), now: Duration::from_secs(1000) }
    }

    /// A daemon whose agent said HELLO.
    pub(super) fn with_agent(version: Version) -> Self {
        let mut stage = Self::empty();
        stage.agent_comes(version.number());
        assert_eq!(stage.outputs().last(), Some(&Output::Serve));
        stage
    }

    pub(super) fn agent_comes(&mut self, version: u32) {
        self.core.handle_agent_connected(self.now);
        self.agent(&Message::Hello(version));
    }

    /// All outputs but the log.
    pub(super) fn outputs(&mut self) -> Vec<Output> {
        self.all_outputs().into_iter().filter(|output| !matches!(output, Output::Log(..))).collect()
    }

    pub(super) fn all_outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.core.poll_output()).collect()
    }

    pub(super) fn agent(&mut self, message: &Message) {
        self.core.handle_agent_frame(self.now, &frame(message));
    }

    pub(super) fn client(&mut self, id: ClientId, message: &Message) {
        self.core.handle_client_frame(self.now, id, &frame(message));
    }

    /// A local client after its HELLO; what was to be done before is taken as done.
    pub(super) fn greeted_client(&mut self) -> ClientId {
        self.outputs();
        let id = self.core.handle_client_connected(self.now);
        self.client(id, &Message::Hello(3));
        assert_eq!(self.outputs(), [Output::SendClient(id, hello(3))]);
        id
    }

    pub(super) fn passes(&mut self, time: Duration) {
        self.now += time;
        self.core.handle_timeout(self.now);
    }

    /// The VM asks for `demo.Add+1` in `target`; the id of its call. What was to be done before is
    /// taken as done.
    pub(super) fn call(&mut self, target: &str, number: u64) -> CallId {
        self.outputs();
        self.agent(&Message::Trigger(trigger(target, number)));
        match self.outputs().as_slice() {
            [Output::Ask(id, question)] => {
                assert_eq!((question.source.as_str(), question.target.as_str()), ("work", target));
                *id
            }
            other => panic!("{other:?}"),
        }
    }

    /// A call that was allowed to `vault` and whose daemon answered with port 513 of VM 9.
    pub(super) fn running_call(&mut self, number: u64) -> CallId {
        let id = self.call("vault", number);
        self.core.handle_decided(self.now, id, allow("vault"));
        self.core.handle_target_frame(self.now, id, &frame(&Message::Hello(3)));
        self.core.handle_target_frame(self.now, id, &answer_frame(0x200, 9, 513));
        assert_eq!(self.outputs().last(), Some(&connect(9, 513, number)));
        id
    }
}

pub(super) fn trigger(target: &str, number: u64) -> Trigger {
    Trigger {
        source: None,
        target: Target::new(target).unwrap(),
        service: ServiceName::new("demo.Add+1").unwrap(),
        ident: Ident::numbered(number),
    }
}

pub(super) fn allow(target: &str) -> Verdict {
    Verdict::Allow(Box::new(Allow {
        user: User::default(),
        target: Target::new(target).unwrap(),
        target_uuid: None,
        autostart: true,
        requested_target: Target::new(target).unwrap(),
        service: None,
        policy_source: None,
        rule: None,
    }))
}

/// The one message in `bytes`.
pub(super) fn unframe(bytes: &[u8]) -> Frame {
    let mut decoder = Decoder::new(65_535);
    decoder.push(bytes);
    let frame = decoder.next().unwrap().expect("a whole message");
    assert!(!decoder.is_mid_message());
    frame
}

pub(super) fn bytes(message: &Message) -> Vec<u8> {
    message.encode(Version::V4).unwrap()
}

pub(super) fn frame(message: &Message) -> Frame {
    unframe(&bytes(message))
}

pub(super) fn hello(version: u32) -> Vec<u8> {
    bytes(&Message::Hello(version))
}

pub(super) fn exec(just: bool, domain: u32, port: u32, cmdline: &str) -> Message {
    let params = ExecParams {
        connect_domain: DomainId(domain),
        connect_port: Port(port),
        cmdline: cmdline.as_bytes().to_vec(),
    };
    Message::Exec { just, params }
}

pub(super) fn endpoint(domain: u32, port: u32) -> Endpoint {
    Endpoint { domain: DomainId(domain), port: Port(port) }
}

/// A daemon's answer to a local client: domain and port alone.
pub(super) fn answer_bytes(ty: u32, domain: u32, port: u32) -> Vec<u8> {
    [&Header::new(ty, 8).to_bytes()[..], &endpoint(domain, port).to_bytes()].concat()
}

pub(super) fn answer_frame(ty: u32, domain: u32, port: u32) -> Frame {
    unframe(&answer_bytes(ty, domain, port))
}

pub(super) fn connect_message(domain: u32, port: u32, number: u64) -> Message {
    let ident = Ident::numbered(number);
    Message::ServiceConnect(ServiceParams { endpoint: endpoint(domain, port), ident })
}

pub(super) fn connect(domain: u32, port: u32, number: u64) -> Output {
    Output::SendAgent(bytes(&connect_message(domain, port, number)))
}

pub(super) fn refused(number: u64) -> Output {
    Output::SendAgent(bytes(&Message::Refused(Ident::numbered(number))))
}

pub(super) fn terminated(domain: u32, port: u32) -> Message {
    Message::ConnectionTerminated(endpoint(domain, port))
}
