//! The agent: the control link, the programs that ask, and the processes of calls.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::windows::io::AsRawHandle;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use agent_core::{CallId, ClientId, Core, Output, Refusal, Start};
use wire::control::Message;
use wire::error::{Breach, PeerError};
use wire::handshake;
use wire::names::{DomainId, Port};
use wire::version::Version;

use crate::callers::{self, Answer, Asked, Caller, Happened};
use crate::install::folder;
use crate::link::{LinkError, MAX_QUEUED, MessageLink};
use crate::sys::event::{Event, wait_for};
use crate::sys::job::Job;
use crate::sys::service;
use crate::sys::vchan::{Presence, VchanError, VchanLibrary};
use crate::{call, codes, hand_over, install, log};

/// Ring sizes of the control link, as in every agent.
const RINGS: usize = 4096;
/// Time until the next attempt to offer the link.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the daemon may take for its HELLO, and for the rest of a message that it has begun.
const MESSAGE_LIMIT: Duration = Duration::from_secs(10);
/// Windows' error for wrong arguments.
const BAD_WORDS: i32 = 87;

const USAGE: &str = "usage: qrexec-agent -i | -u | --run
  -i     installs the service
  -u     stops and removes it
  --run  runs the agent without a service manager, with its log on stderr
Without an option it is the service.";

static STOP: LazyLock<Option<Event>> = LazyLock::new(|| Event::new().ok());

/// Runs the program. Returns its exit status.
#[must_use]
pub fn main() -> i32 {
    let words: Vec<_> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => as_service(),
        ["--run"] => run(),
        ["--call"] => folder().map_or(codes::TROUBLE, |folder| call::main(&folder)),
        ["-i"] => install::say(install::install()),
        ["-u"] => install::say(install::uninstall()),
        _ => {
            eprintln!("{USAGE}");
            BAD_WORDS
        }
    }
}

fn as_service() -> i32 {
    let Some(stop) = &*STOP else { return codes::TROUBLE };
    let work = || {
        let logs = install::log_folder();
        // Without a log file the agent does its work all the same.
        let _ = logs.and_then(|folder| log::to_folder(&folder, "qrexec-agent"));
        run();
    };
    match service::run(stop, work) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("qrexec-agent: no service manager has started this: {error}\n{USAGE}");
            BAD_WORDS
        }
    }
}

fn run() -> i32 {
    let Some(stop) = &*STOP else { return codes::TROUBLE };
    match Agent::new(stop).and_then(|mut agent| agent.run()) {
        Ok(()) => 0,
        Err(error) => {
            log::line(format_args!("the agent ends: {error}"));
            1
        }
    }
}

struct Agent {
    folder: PathBuf,
    stop: &'static Event,
    asked: Asked,
    happened: Receiver<Happened>,
    core: Core,
    callers: BTreeMap<ClientId, Caller>,
    job: Job,
    library: Option<VchanLibrary>,
    /// The last reason why the link could not be offered, which is logged once.
    trouble: String,
}

/// The state of a link.
struct Linked {
    link: MessageLink,
    state: LinkState,
    deadline: Option<Instant>,
}

enum LinkState {
    Offered,
    Met,
    Up,
}

impl Agent {
    fn new(stop: &'static Event) -> io::Result<Self> {
        let (sender, happened) = channel();
        let asked = Asked { happened: sender, wake: Arc::new(Event::new()?) };
        callers::begin(asked.clone())?;
        Ok(Self {
            folder: folder()?,
            stop,
            asked,
            happened,
            core: Core::default(),
            callers: BTreeMap::new(),
            job: Job::new()?,
            library: None,
            trouble: String::new(),
        })
    }

    /// Runs until it is stopped, and offers the link again whenever it was lost.
    fn run(&mut self) -> io::Result<()> {
        log::line("the agent begins");
        loop {
            let mut again = None;
            match self.offer() {
                Ok(mut linked) => match self.link(&mut linked) {
                    Ok(()) => return Ok(()),
                    Err(error) => {
                        log::line(format_args!("the link to dom0 is lost: {error}"));
                        drop(linked);
                        self.core.handle_link_lost();
                        self.act(None);
                    }
                },
                Err(error) => {
                    // The same reason is logged once, and not every second.
                    let text = error.to_string();
                    if self.trouble != text {
                        log::line(format_args!("no link to dom0: {text}; trying again"));
                        self.trouble = text;
                    }
                    again = Some(Instant::now() + PAUSE);
                }
            }
            // Programs are answered while waiting.
            while let Some(until) = again {
                let handles = [self.stop.as_raw_handle(), self.asked.wake.as_raw_handle()];
                match wait_for(&handles, Some(until))? {
                    Some(0) => return Ok(()),
                    Some(_) => {
                        self.hear(false);
                        self.act(None);
                    }
                    None => again = None,
                }
            }
        }
    }

    fn offer(&mut self) -> Result<Linked, VchanError> {
        let library = match self.library {
            Some(library) => library,
            None => VchanLibrary::load(&self.folder)?,
        };
        self.library = Some(library);
        let vchan = library.offer(DomainId::DOM0.0, Port::CONTROL.0, RINGS)?;
        if !std::mem::take(&mut self.trouble).is_empty() {
            log::line("the link to dom0 is offered");
        }
        Ok(Linked { link: MessageLink::new(vchan), state: LinkState::Offered, deadline: None })
    }

    /// Runs one link, until it is lost or the agent is stopped.
    fn link(&mut self, linked: &mut Linked) -> Result<(), LinkError> {
        loop {
            self.receive(linked)?;
            let busy = linked.link.queued() >= MAX_QUEUED / 2;
            self.hear(busy);
            for message in self.act(Some(&*linked)) {
                linked.link.send(&message)?;
            }
            linked.link.flush()?;
            let vchan = linked.link.vchan.event();
            let handles = [self.stop.as_raw_handle(), self.asked.wake.as_raw_handle(), vchan];
            match wait_for(&handles, linked.deadline)? {
                Some(0) => return Ok(()),
                Some(_) => {}
                None => return Err(LinkError::Late),
            }
        }
    }

    fn receive(&mut self, linked: &mut Linked) -> Result<(), LinkError> {
        if matches!(linked.state, LinkState::Offered) {
            match linked.link.vchan.presence() {
                Presence::Waiting => return Ok(()),
                Presence::Closed if linked.link.vchan.ready() == 0 => return Err(LinkError::Closed),
                _ => {}
            }
            linked.link.vchan.met();
            linked.link.send(&handshake::hello(Version::OURS))?;
            linked.state = LinkState::Met;
            self.core.handle_link_met();
        }
        while let Some(frame) = linked.link.next()? {
            linked.deadline = None;
            match (&linked.state, Message::decode(frame.ty, &frame.body)?) {
                (LinkState::Up, message) => {
                    self.core.handle_message(message).map_err(|error| io::Error::other(error.to_string()))?;
                }
                (_, Message::Hello(theirs)) => {
                    let version = Version::negotiate(theirs)?;
                    log::line(format_args!("dom0 is there, protocol {version}"));
                    linked.state = LinkState::Up;
                    self.core.handle_link_up(version);
                }
                _ => return Err(PeerError::from(Breach::UnexpectedType(frame.ty)).into()),
            }
        }
        let owes = matches!(linked.state, LinkState::Met) || linked.link.is_mid_message();
        linked.deadline = owes.then(|| linked.deadline.unwrap_or_else(|| Instant::now() + MESSAGE_LIMIT));
        Ok(())
    }

    /// Handles what programs and calls have reported.
    fn hear(&mut self, busy: bool) {
        while let Ok(happened) = self.happened.try_recv() {
            match happened {
                Happened::Asked(id, request, caller) => {
                    self.callers.insert(id, caller);
                    self.core.handle_request(id, request, busy);
                }
                Happened::CallerGone(id) => {
                    self.callers.remove(&id);
                    self.core.handle_client_gone(id);
                }
                Happened::CallEnded(call) => self.core.handle_call_ended(call),
            }
        }
    }

    /// Does what the core has decided. Returns the messages for dom0.
    fn act(&mut self, linked: Option<&Linked>) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Send(message) => messages.extend(linked.map(|_| message)),
                Output::Connect(id, endpoint) => self.tell(id, Answer::Connect(endpoint)),
                Output::Withdraw(id) => self.tell(id, Answer::Close),
                Output::Refuse(id, refusal) => {
                    if refusal != Refusal::Denied {
                        log::line(format_args!("a request is refused: {refusal}"));
                    }
                    self.tell(id, Answer::Close);
                }
                Output::Start(id, start) => {
                    if let Err(error) = self.start(id, &start) {
                        log::line(format_args!("a call cannot be started: {error}"));
                        self.core.handle_call_ended(id);
                    }
                }
                Output::Log(_, line) => log::line(line),
            }
        }
        messages
    }

    fn tell(&self, id: ClientId, answer: Answer) {
        if let Some(caller) = self.callers.get(&id) {
            caller.tell(answer);
        }
    }

    /// Starts the process of a call, which ends with the agent, however the agent ends.
    fn start(&self, id: CallId, start: &Start) -> io::Result<()> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--call")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log::for_child())
            .spawn()?;
        let joined = self.job.add(child.as_raw_handle());
        let (stdin, bytes, asked) =
            (child.stdin.take(), hand_over::encode(start.just, &start.params), self.asked.clone());
        // Without a thread the process ends at once: nobody writes what it is to do.
        std::thread::Builder::new().spawn(move || {
            // A process that does not read this description ends, which is noticed later.
            let _ = stdin.map(|mut stdin| stdin.write_all(&bytes));
            let _ = child.wait();
            asked.tell(Happened::CallEnded(id));
        })?;
        joined
    }
}
