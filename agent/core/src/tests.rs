use super::*;
use wire::control::ServiceParams;
use wire::header::{HEADER_LEN, Header};
use wire::names::{DomainId, ServiceName, Target};

const ENDPOINT: Endpoint = Endpoint { domain: DomainId(7), port: Port(514) };

fn trigger(source: Option<&str>) -> Trigger {
    Trigger {
        source: source.map(|name| Target::new(name).expect("name")),
        target: Target::new("work").expect("name"),
        service: ServiceName::new("test.Add+1").expect("name"),
        ident: Ident::new("SOCKET").expect("ident"),
    }
}

fn sent(action: &Output) -> Message {
    let Output::Send(bytes) = action else { panic!("{action:?} is no message") };
    let (header, body) = bytes.split_first_chunk::<HEADER_LEN>().expect("a header");
    let header = Header::from_bytes(*header);
    assert_eq!(header.len as usize, body.len());
    Message::decode(header.ty, body).expect("well formed")
}

/// What is to be done, without lines for the log.
fn outputs(core: &mut Core) -> Vec<Output> {
    let outputs = std::iter::from_fn(|| core.poll_output());
    outputs.filter(|output| !matches!(output, Output::Log(..))).collect()
}

/// One event, and what is to be done because of it.
impl Core {
    fn link_up(&mut self, version: Version) -> Vec<Output> {
        self.handle_link_up(version);
        outputs(self)
    }

    fn link_lost(&mut self) -> Vec<Output> {
        self.handle_link_lost();
        outputs(self)
    }

    fn message(&mut self, message: Message) -> Result<Vec<Output>, Violation> {
        self.handle_message(message)?;
        Ok(outputs(self))
    }

    fn request(&mut self, client: ClientId, request: Result<Trigger, BadTrigger>, busy: bool) -> Vec<Output> {
        self.handle_request(client, request, busy);
        outputs(self)
    }

    fn client_gone(&mut self, client: ClientId) -> Vec<Output> {
        self.handle_client_gone(client);
        outputs(self)
    }

    fn call_ended(&mut self, call: CallId) -> Vec<Output> {
        self.handle_call_ended(call);
        outputs(self)
    }
}

fn linked(version: Version) -> Core {
    let mut core = Core::default();
    core.link_up(version);
    core
}

/// A core with a client that waits for an answer.
fn asking(client: ClientId) -> Core {
    let mut core = linked(Version::V4);
    let actions = core.request(client, Ok(trigger(None)), false);
    let expected = Trigger { ident: Ident::numbered(client.0), ..trigger(None) };
    assert_eq!(sent(&actions[0]), Message::Trigger(expected));
    core
}

fn answer(client: ClientId) -> Message {
    let ident = Ident::numbered(client.0);
    Message::ServiceConnect(ServiceParams { endpoint: ENDPOINT, ident })
}

fn exec() -> Message {
    let params = ExecParams {
        connect_domain: ENDPOINT.domain,
        connect_port: ENDPOINT.port,
        cmdline: b"user:true".to_vec(),
    };
    Message::Exec { just: false, params }
}

fn start(core: &mut Core) -> CallId {
    match core.message(exec()).expect("fine").as_slice() {
        [Output::Start(call, start)] => {
            assert_eq!(start.params.cmdline, b"user:true");
            *call
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_allowed_request_is_connected_and_its_end_is_told() {
    let id = ClientId(5);
    let mut core = asking(id);
    assert_eq!(core.message(answer(id)).expect("fine"), [Output::Connect(id, ENDPOINT)]);
    // A second answer has no effect; a refusal after an answer withdraws it, for a client that still waits.
    assert_eq!(core.message(answer(id)).expect("fine"), []);
    let refused = Message::Refused(Ident::numbered(5));
    assert_eq!(core.message(refused.clone()).expect("fine"), [Output::Withdraw(id)]);
    let ended = core.client_gone(id);
    assert_eq!(sent(&ended[0]), Message::ConnectionTerminated(ENDPOINT));
    assert_eq!(core.client_gone(id), []);
    assert_eq!(core.message(refused).expect("fine"), []);
}

#[test]
fn a_refused_request_is_closed_once() {
    let id = ClientId(5);
    let mut core = asking(id);
    let refused = Message::Refused(Ident::numbered(5));
    assert_eq!(core.message(refused.clone()).expect("fine"), [Output::Refuse(id, Refusal::Denied)]);
    assert_eq!(core.message(refused).expect("fine"), []);
    assert_eq!(core.client_gone(id), []);
}

#[test]
fn an_answer_for_nobody_gives_its_port_back() {
    let id = ClientId(5);
    let mut core = asking(id);
    assert_eq!(core.client_gone(id), []);
    for ident in ["SOCKET5", "SOCKET6", "SOCKET05", "SOCKET", "other", ""] {
        let params = ServiceParams { endpoint: ENDPOINT, ident: Ident::new(ident).expect("ident") };
        let actions = core.message(Message::ServiceConnect(params)).expect("fine");
        assert_eq!(actions.len(), 1, "{ident}");
        assert_eq!(sent(&actions[0]), Message::ConnectionTerminated(ENDPOINT), "{ident}");
    }
}

#[test]
fn a_second_answer_is_dropped() {
    let id = ClientId(5);
    let mut core = asking(id);
    assert_eq!(core.message(answer(id)).expect("fine"), [Output::Connect(id, ENDPOINT)]);
    assert_eq!(core.message(answer(id)).expect("fine"), []);
}

#[test]
fn requests_that_cannot_be_asked_are_refused_here() {
    let refusal = |core: &mut Core, request, busy| match core.request(ClientId(1), request, busy).as_slice() {
        [Output::Refuse(ClientId(1), refusal)] => *refusal,
        other => panic!("{other:?}"),
    };
    let bad = BadTrigger { ident: Ident::numbered(1).to_bytes(), reason: Breach::Trailing };
    assert_eq!(refusal(&mut linked(Version::V4), Err(bad), false), Refusal::Bad(bad));
    assert_eq!(refusal(&mut Core::default(), Ok(trigger(None)), false), Refusal::NoLink);
    assert_eq!(refusal(&mut linked(Version::V4), Ok(trigger(None)), true), Refusal::Busy);
    let old = refusal(&mut linked(Version::V3), Ok(trigger(Some("vault"))), false);
    assert_eq!(old, Refusal::NoSource(Version::V3));
    let service = ServiceName::new(&format!("s+{}", "x".repeat(4000))).expect("name");
    let long = Trigger { service, ..trigger(None) };
    assert!(matches!(refusal(&mut linked(Version::V4), Ok(long), false), Refusal::TooLong(_)));
}

#[test]
fn requests_are_passed_on_in_the_form_of_the_link() {
    for version in [Version::V2, Version::V3, Version::V4] {
        let actions = linked(version).request(ClientId(1), Ok(trigger(None)), false);
        assert!(matches!(sent(&actions[0]), Message::Trigger(asked) if asked.source.is_none()));
    }
    let actions = linked(Version::V4).request(ClientId(1), Ok(trigger(Some("vault"))), false);
    assert!(matches!(sent(&actions[0]), Message::Trigger(asked) if asked.source.is_some()));
}

#[test]
fn a_call_is_started_and_its_end_is_told() {
    let mut core = linked(Version::V4);
    let (first, second) = (start(&mut core), start(&mut core));
    assert_ne!(first, second);
    let ended = core.call_ended(first);
    assert_eq!(sent(&ended[0]), Message::ConnectionTerminated(ENDPOINT));
    assert_eq!(core.call_ended(first), []);
}

#[test]
fn a_lost_link_refuses_who_waits_and_leaves_what_runs() {
    let (waits, runs) = (ClientId(5), ClientId(6));
    let mut core = asking(waits);
    core.request(runs, Ok(trigger(None)), false);
    core.message(answer(runs)).expect("fine");
    let call = start(&mut core);
    assert_eq!(core.link_lost(), [Output::Refuse(waits, Refusal::LinkLost)]);

    // The next daemon does not know those ports, and may have given them to other calls.
    core.link_up(Version::V4);
    let next = start(&mut core);
    assert_eq!(core.call_ended(call), []);
    assert_eq!(core.client_gone(runs), []);
    assert_eq!(core.client_gone(waits), []);
    assert_eq!(core.call_ended(next).len(), 1);
}

#[test]
fn requests_wait_for_the_handshake_and_no_longer() {
    let met = |ids: std::ops::Range<u64>| {
        let mut core = Core::default();
        core.handle_link_met();
        for id in ids {
            assert_eq!(core.request(ClientId(id), Ok(trigger(None)), false), []);
        }
        core
    };
    let idents = |actions: &[Output]| -> Vec<u64> {
        let ident = |action: &Output| match sent(action) {
            Message::Trigger(asked) => asked.ident.number().expect("a number"),
            other => panic!("{other:?}"),
        };
        actions.iter().map(ident).collect()
    };
    let mut core = met(5..8);
    assert_eq!(core.client_gone(ClientId(6)), []);
    assert_eq!(idents(&core.link_up(Version::V4)), [5, 7]);
    assert_eq!(core.message(answer(ClientId(7))).expect("fine"), [Output::Connect(ClientId(7), ENDPOINT)]);

    // A request that the daemon's version cannot carry is refused then, and so are all if the daemon is gone again.
    let mut core = met(5..5);
    assert_eq!(core.request(ClientId(9), Ok(trigger(Some("vault"))), false), []);
    let refused = Output::Refuse(ClientId(9), Refusal::NoSource(Version::V3));
    assert_eq!(core.link_up(Version::V3), [refused]);
    assert_eq!(core.link_lost(), []);
    assert_eq!(met(5..6).link_lost(), [Output::Refuse(ClientId(5), Refusal::LinkLost)]);

    // Requests that do not fit the link's queue do not wait.
    let mut core = met(0..MAX_HELD as u64);
    let refused = Output::Refuse(ClientId(99), Refusal::NoLink);
    assert_eq!(core.request(ClientId(99), Ok(trigger(None)), false), [refused]);
    assert_eq!(core.link_up(Version::V4).len(), MAX_HELD);
}

#[test]
fn what_a_daemon_must_not_say() {
    let mut core = asking(ClientId(5));
    let low = Endpoint { domain: DomainId(7), port: Port(512) };
    let params = ExecParams { connect_domain: low.domain, connect_port: low.port, cmdline: Vec::new() };
    for message in [
        Message::Hello(4),
        Message::Trigger(trigger(None)),
        Message::ConnectionTerminated(ENDPOINT),
        Message::Exec { just: true, params },
        Message::ServiceConnect(ServiceParams { endpoint: low, ident: Ident::numbered(5) }),
    ] {
        assert!(core.message(message.clone()).is_err(), "{message:?}");
    }
    // The request stays until the caller has closed the link.
    assert_eq!(core.link_lost(), [Output::Refuse(ClientId(5), Refusal::LinkLost)]);
}

/// Messages for a daemon that is gone are not sent to the next one, whose ports belong to other calls.
#[test]
fn what_a_lost_link_did_not_hear_is_dropped() {
    let mut core = linked(Version::V4);
    let call = start(&mut core);
    core.handle_call_ended(call);
    core.handle_link_lost();
    core.handle_link_up(Version::V4);
    assert_eq!(core.poll_output(), None);
}

#[test]
fn answers_for_nobody_are_logged() {
    let mut core = linked(Version::V4);
    core.handle_message(Message::Refused(Ident::numbered(9))).expect("fine");
    let line = "dom0 refused request SOCKET9, whose client is gone";
    assert_eq!(core.poll_output(), Some(Output::Log(Level::Info, line.into())));
    assert_eq!(core.poll_output(), None);
}
