//! An agent that is a script: the server of the control link, and callers' ends of data links.

use std::time::{Duration, Instant};

use engine::link::Framed;
use ring::{Channel, Listener, Sizes, Transport};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wire::control::{Endpoint, Message, ServiceParams};
use wire::frame::Frame;
use wire::header::{Header, ty};
use wire::names::{DomainId, Ident, Port, ServiceName, Target};
use wire::trigger::Trigger;
use wire::version::Version;

use crate::world::{PATIENCE, World};

const CONTROL: Sizes = Sizes { left: 4096, right: 4096 };

/// An agent whose daemon is still to come.
pub(crate) struct Listening {
    listener: Listener,
    transport: Transport,
}

/// An agent with its control link.
pub(crate) struct Agent {
    link: Framed<Channel>,
    /// Its messages have the form of this version.
    version: Version,
    transport: Transport,
}

impl Agent {
    pub(crate) fn listen(world: &World, id: u32) -> Listening {
        let transport = world.transport(id);
        let listener = transport.listen(0, Port::CONTROL.0, CONTROL).unwrap();
        Listening { listener, transport }
    }

    /// Sends, and waits until the daemon has made room for all of it.
    pub(crate) fn send_bytes(&mut self, bytes: Vec<u8>) {
        self.try_send(bytes);
        assert_eq!(self.link.queued(), 0, "the daemon does not read");
    }

    /// Sends, as long as the link is there.
    fn try_send(&mut self, bytes: Vec<u8>) {
        let deadline = Instant::now() + PATIENCE;
        self.link.send(bytes).unwrap();
        self.link.flush().unwrap();
        while self.link.queued() > 0 && self.link.get_ref().is_open() {
            // With something to be read there is no sleep; then this asks again and again.
            if self.link.arm().unwrap() {
                std::thread::yield_now();
            } else if self.link.queued() > 0 {
                // Arming sends, too: what has all left wakes nobody.
                sleep(&self.link, deadline);
            }
            self.link.on_ready().unwrap();
        }
    }

    pub(crate) fn send(&mut self, message: &Message) {
        self.send_bytes(message.encode(self.version).unwrap());
    }

    /// Sends the same again and again, and reads nothing, until the daemon has had enough.
    pub(crate) fn send_until_dropped(&mut self, message: &Message) {
        let bytes = message.encode(Version::V4).unwrap();
        while self.link.get_ref().is_open() {
            self.try_send(bytes.clone());
        }
    }

    pub(crate) fn ask(&mut self, target: &str, service: &str, number: u64) {
        self.trigger(None, target, service, number);
    }

    /// The same on behalf of another.
    pub(crate) fn ask_for(&mut self, source: &str, target: &str, service: &str, number: u64) {
        self.trigger(Some(Target::new(source).unwrap()), target, service, number);
    }

    fn trigger(&mut self, source: Option<Target>, target: &str, service: &str, number: u64) {
        self.send(&Message::Trigger(Trigger {
            source,
            target: Target::sanitize(target.as_bytes()),
            service: ServiceName::sanitize(service.as_bytes()).unwrap(),
            ident: Ident::numbered(number),
        }));
    }

    pub(crate) fn terminated(&mut self, domain: u32, port: u32) {
        let endpoint = Endpoint { domain: DomainId(domain), port: Port(port) };
        self.send(&Message::ConnectionTerminated(endpoint));
    }

    /// The daemon's next message; `None` once it has closed the link.
    pub(crate) fn next_within(&mut self, limit: Duration) -> Option<Frame> {
        let deadline = Instant::now() + limit;
        loop {
            match self.link.next() {
                Ok(Some(frame)) => return Some(frame),
                Ok(None) if !self.link.is_open() => return None,
                Ok(None) => {}
                Err(error) => panic!("control link: {error}"),
            }
            if !self.link.arm().unwrap() {
                sleep(&self.link, deadline);
                self.link.on_ready().unwrap();
            }
        }
    }

    pub(crate) fn next(&mut self) -> Message {
        let frame = self.next_within(PATIENCE).expect("the control link is open");
        Message::decode(frame.ty, &frame.body).unwrap()
    }

    pub(crate) fn refused(&mut self, number: u64) {
        assert_eq!(self.next(), Message::Refused(Ident::numbered(number)));
    }

    pub(crate) fn connected(&mut self, number: u64) -> Endpoint {
        match self.next() {
            Message::ServiceConnect(ServiceParams { endpoint, ident }) => {
                assert_eq!(ident, Ident::numbered(number));
                endpoint
            }
            other => panic!("{other:?}"),
        }
    }

    /// What the daemon wants run, and where its data link is.
    pub(crate) fn exec(&mut self) -> (String, Endpoint) {
        match self.next() {
            Message::Exec { params, .. } => {
                let endpoint = params.endpoint();
                (String::from_utf8(params.cmdline).unwrap(), endpoint)
            }
            other => panic!("{other:?}"),
        }
    }

    /// The caller's end of the data link to a service in dom0: sends `input`, gives output and code.
    pub(crate) fn call_dom0(&self, port: u32, input: &[u8]) -> (Vec<u8>, i32) {
        let listener = self.transport.listen(0, port, Sizes { left: 65_536, right: 65_536 }).unwrap();
        let (channel, _) = engine::datalink::greet(listener.accept_within(PATIENCE).unwrap()).unwrap();
        let mut link = Framed::new(channel, 65_536);
        let chunk =
            |bytes: &[u8]| [&Header::new(ty::DATA_STDIN, bytes.len() as u32).to_bytes()[..], bytes].concat();
        link.send(chunk(input)).unwrap();
        link.send(chunk(b"")).unwrap();
        let mut data = Self { link, version: self.version, transport: self.transport.clone() };
        let mut output = Vec::new();
        loop {
            let frame = data.next_within(PATIENCE).expect("an exit code before the end of the link");
            match frame.ty {
                ty::DATA_STDOUT => output.extend(frame.body),
                ty::DATA_STDERR => assert!(frame.body.is_empty(), "the error output of dom0 stays there"),
                ty::DATA_EXIT_CODE => {
                    return (output, i32::from_le_bytes(frame.body.try_into().unwrap()));
                }
                other => panic!("message type {other:#x}"),
            }
        }
    }
}

impl Listening {
    /// The daemon comes, both say HELLO.
    pub(crate) fn greeted(self) -> Agent {
        self.greeted_as(Version::V4)
    }

    /// The same with an agent of this version, which hears its own number.
    pub(crate) fn greeted_as(self, version: Version) -> Agent {
        let mut agent = self.met();
        agent.version = version;
        agent.send(&Message::Hello(version.number()));
        assert_eq!(agent.next(), Message::Hello(version.number()));
        agent
    }

    /// The daemon comes; nobody has said anything.
    pub(crate) fn met(self) -> Agent {
        let channel = self.listener.accept_within(PATIENCE).unwrap();
        Agent { link: Framed::new(channel, 65_535), version: Version::V4, transport: self.transport }
    }
}

fn sleep(link: &Framed<Channel>, deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    assert!(!left.is_zero(), "the daemon says nothing");
    let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
    let out = if link.wants_out() { PollFlags::OUT } else { PollFlags::empty() };
    poll(&mut [PollFd::new(link, PollFlags::IN | out)], Some(&timeout)).unwrap();
}
