//! The loop: connections, requests, answers.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Display;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use daemon::policy_source::PolicyStore;
use engine::log_source::{speak_for, speaking_for};
use engine::process::Signals;
use engine::reactor::{self, Event, Interest, Reactor};
use engine::unix::Bound;
use policy::{Policy, SystemInfo};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::process::Signal;
use wire::escape::Escaped;

use super::request::{self, Evaluation, Heard, MAX_REQUEST};
use super::{PROGRAM, PolicyDaemonArgs};
use crate::policy_tools::asker::{Answer, Asker};
use crate::policy_tools::group;
use crate::policy_tools::judge::{Case, Closed, DENY, Question};
use crate::policy_tools::people::People;
use crate::policy_tools::places::{Notices, Place, Places};
use crate::policy_tools::system::{SystemSource, ask_qubesd};

/// How long a caller may take for its request.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// Callers that may be heard at once, each with a descriptor; others wait in the socket's queue.
const MAX_PEERS: usize = 512;
/// Questions that may wait for the user, for notices or for `qubesd` at once; more are denied.
const MAX_OPEN: usize = 512;
/// Of those, for one source: as many as its `qrexec-daemon` asks at once. One that asks without end denies itself.
const SHARE: usize = 64;
/// Connections taken before everybody else has a turn.
const ACCEPT_BATCH: usize = 64;
/// Permissions of the sockets: their group is that of the users who administer qubes.
const MODE: u32 = 0o660;
/// That group.
const GROUP: &str = "qubes";

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Policy,
    EvalSimple,
    EvalGui,
}

/// What the reactor knows the policy daemon's descriptors by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    /// A socket, by its place among the listeners.
    Listener(usize),
    Signals,
    /// A caller, by its number.
    Peer(u64),
}

/// Listeners have their places, smaller than this; then come the signals, then callers.
const MOST_LISTENERS: u64 = 3;

impl reactor::Token for Token {
    fn number(self) -> u64 {
        match self {
            Self::Listener(place) => place as u64,
            Self::Signals => MOST_LISTENERS,
            Self::Peer(number) => number.saturating_add(MOST_LISTENERS + 1),
        }
    }

    fn from_number(number: u64) -> Option<Self> {
        match number.checked_sub(MOST_LISTENERS) {
            None => usize::try_from(number).ok().map(Self::Listener),
            Some(0) => Some(Self::Signals),
            Some(peer) => Some(Self::Peer(peer - 1)),
        }
    }
}

/// A caller whose request is not complete yet.
struct Peer {
    kind: Kind,
    stream: UnixStream,
    input: Vec<u8>,
}

pub(super) struct Server {
    reactor: Reactor<Token>,
    signals: Signals,
    listeners: Vec<(Kind, Bound)>,
    listening: bool,
    peers: BTreeMap<u64, Peer>,
    /// When each peer's time is over, the first to end first.
    limits: VecDeque<(Instant, u64)>,
    next: u64,
    policy: PolicyStore,
    system: SystemSource,
    /// Asks `qubesd`, if no file says what qubes there are.
    asker: Option<Asker>,
    user: User,
    open: Arc<Places>,
}

/// The way to the user, for every thread that may need it.
#[derive(Clone)]
struct User {
    people: Arc<People>,
    notices: Arc<Notices>,
}

impl Server {
    pub(super) fn new(args: &PolicyDaemonArgs) -> io::Result<Self> {
        let reactor = Reactor::new()?;
        // Before any thread, so that all of them leave the signals to this one.
        let signals = Signals::block(&[Signal::TERM, Signal::INT])?;
        reactor.add(&signals, Token::Signals, Interest::Read)?;
        let mut policy = PolicyStore::watching(args.folders.clone());
        let rules = policy.current().rules().len();
        if !policy.is_watched() {
            tracing::info!("the policy cannot be watched: its files are looked at for every question");
        }
        let mut server = Self {
            reactor,
            signals,
            listeners: Vec::new(),
            listening: false,
            peers: BTreeMap::new(),
            limits: VecDeque::new(),
            next: 0,
            policy,
            system: SystemSource::new(args.system_info.clone()),
            asker: None,
            user: User { people: Arc::new(People::from_env()), notices: Arc::default() },
            open: Places::new(MAX_OPEN, SHARE),
        };
        if matches!(server.system, SystemSource::Qubesd) {
            server.asker = Some(Asker::start(|| ask_qubesd().map(Arc::new).map_err(Arc::new))?);
        }
        server.listen(Kind::EvalSimple, args.eval_socket.as_deref())?;
        server.listen(Kind::EvalGui, args.gui_socket.as_deref())?;
        // Last, so that whoever finds it finds all of them.
        server.listen(Kind::Policy, Some(&args.socket))?;
        server.set_listening(true)?;
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
            tracing::warn!("cannot tell the service manager that the socket is there: {error}");
        }
        tracing::info!("{PROGRAM} with {rules} rules on {}", args.socket.display());
        Ok(server)
    }

    fn listen(&mut self, kind: Kind, path: Option<&Path>) -> io::Result<()> {
        let Some(path) = path else { return Ok(()) };
        let failed = |error: io::Error| {
            let folder = path.parent().filter(|folder| !folder.exists());
            let hint = folder.map(|folder| match folder.starts_with("/run/qubes") {
                true => format!(" (make {}: systemd-tmpfiles --create)", folder.display()),
                false => format!(" (there is no folder {})", folder.display()),
            });
            io::Error::other(format!("{}: {error}{}", path.display(), hint.unwrap_or_default()))
        };
        let group = group(GROUP).filter(|_| rustix::process::geteuid().is_root());
        let socket = Bound::new_for(path, MODE, group).map_err(failed)?;
        self.listeners.push((kind, socket));
        Ok(())
    }

    /// Takes callers, or leaves them in the queue.
    fn set_listening(&mut self, wanted: bool) -> io::Result<()> {
        if wanted == self.listening {
            return Ok(());
        }
        for (place, (_, socket)) in self.listeners.iter().enumerate() {
            if wanted {
                self.reactor.add(socket, Token::Listener(place), Interest::Read)?;
            } else {
                self.reactor.remove(socket)?;
            }
        }
        self.listening = wanted;
        Ok(())
    }

    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = Vec::new();
        loop {
            let limit = self.limits.front().map(|(at, _)| at.saturating_duration_since(Instant::now()));
            self.reactor.wait(limit, &mut events)?;
            for event in &events {
                if !self.dispatch(*event) {
                    return self.end();
                }
            }
            self.drop_slow();
            self.set_listening(self.peers.len() < MAX_PEERS)?;
        }
    }

    /// Removes the sockets. Whoever waits for the user is denied by the end of the process.
    fn end(mut self) -> io::Result<()> {
        while let Ok(Some(signal)) = self.signals.take_next() {
            tracing::info!("ended by signal {signal}");
        }
        for (_, socket) in &self.listeners {
            if let Err(error) = socket.withdraw() {
                tracing::warn!("{}: {error}", socket.path().display());
            }
        }
        Ok(())
    }

    /// `false`: it is time to end.
    fn dispatch(&mut self, event: Event<Token>) -> bool {
        match event.token {
            Token::Signals => return false,
            Token::Peer(number) => {
                if let Some(peer) = self.peers.remove(&number) {
                    // Whoever answers holds it open: what its caller does meanwhile must not keep this loop awake.
                    let _ = self.reactor.remove(&peer.stream);
                    if let Some(peer) = self.hear(peer)
                        && self.reactor.add(&peer.stream, Token::Peer(number), Interest::Read).is_ok()
                    {
                        self.peers.insert(number, peer);
                    }
                }
            }
            Token::Listener(place) => self.accept(place),
        }
        true
    }

    fn accept(&mut self, place: usize) {
        for _ in 0..ACCEPT_BATCH {
            let Some((kind, listener)) = self.listeners.get(place) else { return };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let stream = match rustix::net::accept_with(listener, flags) {
                Ok(stream) => UnixStream::from(stream),
                Err(Errno::AGAIN | Errno::INTR) => return,
                Err(error) => return tracing::warn!("taking a connection: {error}"),
            };
            // Who connects has mostly said everything already.
            let peer = Peer { kind: *kind, stream, input: Vec::new() };
            if let Some(peer) = self.hear(peer) {
                self.keep(peer);
            }
            if self.peers.len() >= MAX_PEERS {
                return;
            }
        }
    }

    fn keep(&mut self, peer: Peer) {
        let id = self.next;
        self.next = self.next.saturating_add(1);
        if let Err(error) = self.reactor.add(&peer.stream, Token::Peer(id), Interest::Read) {
            return tracing::warn!("watching a connection: {error}");
        }
        if let Some(limit) = Instant::now().checked_add(REQUEST_LIMIT) {
            self.limits.push_back((limit, id));
        }
        self.peers.insert(id, peer);
    }

    fn drop_slow(&mut self) {
        let now = Instant::now();
        while let Some((at, id)) = self.limits.front().copied() {
            if at > now && self.peers.contains_key(&id) {
                return;
            }
            self.limits.pop_front();
            if self.peers.remove(&id).is_some() {
                tracing::warn!("a request was dropped: it took too long");
            }
        }
    }

    /// Reads what there is; gives the peer back if its request is not complete.
    fn hear(&mut self, mut peer: Peer) -> Option<Peer> {
        let mut buffer = [0_u8; 4096];
        let ended = loop {
            match peer.stream.read(&mut buffer) {
                Ok(0) => break true,
                Ok(count) => peer.input.extend_from_slice(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
            if peer.input.len() > MAX_REQUEST {
                break false;
            }
            // A request is known by its end; asking for more would cost as much as answering.
            if peer.kind == Kind::Policy && peer.input.ends_with(b"\n\n") {
                break false;
            }
        };
        if ended && peer.input.is_empty() {
            return None;
        }
        match peer.kind {
            Kind::Policy => match request::lines(&peer.input, ended) {
                Heard::Incomplete => return Some(peer),
                Heard::Question(question) => self.decide(peer.stream, question),
                Heard::Nonsense(why) => refuse(peer.stream, &why),
            },
            Kind::EvalSimple | Kind::EvalGui => {
                let name = if peer.kind == Kind::EvalGui { "policy.EvalGUI" } else { "policy.EvalSimple" };
                match request::evaluation(&peer.input, ended, name) {
                    None => return Some(peer),
                    Some(Ok(asked)) => self.evaluate(peer.stream, asked, peer.kind == Kind::EvalGui),
                    Some(Err(why)) => tracing::warn!("{name}: {why}"),
                }
            }
        }
        None
    }

    fn decide(&mut self, stream: UnixStream, question: Question) {
        let policy = Arc::clone(self.policy.current());
        let Some(place) = self.place(&question.source, &stream) else { return };
        let (source, user) = (question.source.clone(), self.user.clone());
        self.with_system(&source, move |system| match system {
            Ok(system) => match Case::new(&policy, system, question).settle() {
                Ok(answer) => {
                    // Before the answer: whoever has it may ask again.
                    drop(place);
                    say(&stream, &answer);
                }
                Err(case) => user.close(*case, stream, place),
            },
            Err(why) => refuse(stream, &why),
        });
    }

    fn evaluate(&mut self, stream: UnixStream, asked: Evaluation, for_gui: bool) {
        let policy = Arc::clone(self.policy.current());
        let Some(place) = self.place(&asked.caller, &stream) else { return };
        let caller = asked.caller.clone();
        self.with_system(&caller, move |system| {
            match system {
                Ok(system) => evaluate(&stream, &policy, system, asked, for_gui),
                Err(why) => tracing::warn!("evaluating: {why}"),
            }
            drop(place);
        });
    }

    /// Goes on with what qubes there are: at once, or when `qubesd` has said it and it is the turn of `source`.
    fn with_system(&mut self, source: &str, then: impl FnOnce(Answer) + Send + 'static) {
        match &self.asker {
            Some(asker) => {
                let theirs = source.to_owned();
                asker.ask(source, move |system| speaking_for(&theirs, || then(system)));
            }
            None => speaking_for(source, || then(self.system.current().map_err(Arc::new))),
        }
    }

    /// A place for a question of `source`; without one it is refused.
    fn place(&self, source: &str, stream: &UnixStream) -> Option<Place> {
        let place = self.open.take(source);
        if place.is_none() {
            let why = format!("too many questions of {} wait already", Escaped::new(source));
            speaking_for(source, || refuse_at(stream, &why));
        }
        place
    }
}

impl User {
    /// Asks the user if they have to be, answers, and tells them if they are to be told, in a thread of its own. The place is for
    /// the question: notices have others, of which there are few.
    fn close(self, case: Case, stream: UnixStream, place: Place) {
        let work = move || {
            speak_for(case.source());
            let Closed { answer, told, .. } = case.close(&self.people, Some(stream.as_fd()));
            // Before the answer: whoever has it may ask again.
            drop(place);
            say(&stream, &answer);
            drop(stream);
            if let Some(told) = told {
                self.notices.show(&told.notice, || told.show(&self.people));
            }
        };
        if let Err(error) = std::thread::Builder::new().spawn(work) {
            // The caller went with the thread, which denies.
            tracing::warn!("starting a thread: {error}");
        }
    }
}

fn evaluate(stream: &UnixStream, policy: &Policy, system: Arc<SystemInfo>, asked: Evaluation, for_gui: bool) {
    let Evaluation { question, caller } = asked;
    let shown_by = format!("guivm-{caller}");
    let shows = |qube: &str| system.get(qube).is_some_and(|domain| domain.has_tag(&shown_by));
    if for_gui && !(shows(&question.source) && shows(&question.target)) {
        return tracing::warn!("policy.EvalGUI: {caller:?} does not show the windows of both qubes");
    }
    if let Ok(answer) = Case::new(policy, system, question).settle() {
        say(stream, &format!("{answer}\n"));
    }
}

fn refuse(stream: UnixStream, why: &dyn Display) {
    refuse_at(&stream, why);
}

fn refuse_at(stream: &UnixStream, why: &dyn Display) {
    tracing::warn!("a request is refused: {why}");
    say(stream, DENY);
}

/// An answer fits into a connection's buffer; a caller that is gone needs none.
fn say(mut stream: &UnixStream, answer: &str) {
    if let Err(error) = stream.write_all(answer.as_bytes()) {
        tracing::debug!("answering: {error}");
    }
}
