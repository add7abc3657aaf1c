#![forbid(unsafe_code)]
//! One process of a VM that finds out, for all its calls, which of the domains that they are with still exist.
//!
//! The agent keeps a [`DomainMonitor`]. A channel connects to its socket and writes the domain's number, four bytes,
//! low half first; a byte comes back when that domain is gone, another when this VM itself was restored from a saved
//! one, and the end of the connection means that the agent has ended. A channel that maps pages of that domain writes
//! their number too; if they would be too many, another byte comes back, and the channel ends. The domain monitor
//! watches one key of each domain in xenstore (see [`super::liveness`]), and also asks the hypervisor once a second,
//! for domains that have no such key. While no call is with another VM, it does nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::store::{Store, is_missing};
use super::store_messages::Request;
use super::{DOM0, PERIOD, liveness};
use crate::error::Error;
use crate::xendev;
use sys::reactor::{Interest, Reactor};
use sys::timer::{ClockLeaps, Timer};
use sys::unix;

mod member;
#[cfg(test)]
mod tests;
mod token;

use member::Member;
use token::{MemberId, Token};

/// Where the domain monitor listens, unless `QREXEC_PEERS_SOCKET` says otherwise.
const SOCKET: &str = "/var/run/qubes/qrexec-peers";
/// Calls of every user may connect.
const MODE: u32 = 0o666;
/// Calls that are told at once. One that is refused watches the domain by itself.
const MAX_MEMBERS: usize = 4096;
/// Domains that are watched.
const MAX_DOMAINS: usize = 256;
/// Watches in xenstore, which allows a domain 128 in all: the keys of further domains are read once a period.
const MAX_WATCHES: usize = 32;
/// If a domain's key changes more often than this within a period, it is read once a period and not watched any more:
/// that domain may write it as often as it likes.
const NOISE: u32 = 16;
/// Questions that may wait for a xenstore that does not answer: then the connection is given up. Members that come and
/// go cause some for each domain at each tick.
const MAX_QUESTIONS: usize = 4 * MAX_DOMAINS;

/// The byte for: the domain of this member is gone.
const GONE: u8 = 1;
/// The byte for: this VM was restored from a saved one.
pub(super) const RESTORED: u8 = 2;
/// The byte for: too many pages of the domain would be mapped.
pub(super) const FULL: u8 = 3;

/// Asks the agent of this VM to tell when `domain` is gone.
pub(super) fn ask(domain: u32) -> io::Result<OwnedFd> {
    let fd = unix::connect_nonblocking(&socket())?;
    match rustix::io::write(&fd, &domain.to_le_bytes())? {
        4 => Ok(fd),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Tells the agent how many pages of that domain this channel has mapped.
pub(super) fn count(agent: &OwnedFd, pages: u32) {
    // If the agent has gone, nobody counts them.
    let _ = rustix::io::write(agent, &pages.to_le_bytes());
}

fn socket() -> PathBuf {
    std::env::var_os("QREXEC_PEERS_SOCKET").map_or_else(|| SOCKET.into(), PathBuf::from)
}

/// Opens a connection to xenstore.
type Opener = Box<dyn Fn() -> Result<Store, Error> + Send>;

pub(in crate::transport) struct DomainMonitor {
    own: u32,
    events: Reactor<Token>,
    listener: OwnedFd,
    path: PathBuf,
    identity: unix::Identity,
    /// No descriptor was free for a member: the listener is not watched until the next tick.
    shut: bool,
    timer: Timer,
    ticking: bool,
    /// Ready when the clock leaps, as it does when a VM is restored.
    clock: ClockLeaps,
    restored: bool,
    members: BTreeMap<MemberId, Member>,
    next: MemberId,
    /// See [`member::ceiling`].
    ceiling: u64,
    domains: BTreeMap<u32, Watched>,
    knows: fn(u32) -> bool,
    open_store: Opener,
    store: Option<Store>,
    /// The question that xenstore has not answered yet, and the next ones.
    asked: Option<Question>,
    questions: VecDeque<Question>,
}

/// What is known of one domain's key.
#[derive(Default)]
struct Watched {
    /// A watch was asked for and not refused.
    watched: bool,
    /// The watch was refused, or ended because of [`NOISE`]: the key is read at each tick.
    blind: bool,
    /// The key was read at least once.
    seen: bool,
    /// How often the key has changed since the last tick.
    events: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Question {
    /// What number this VM has.
    Own,
    Watch(u32),
    Unwatch(u32),
    Read(u32),
}

impl DomainMonitor {
    pub(in crate::transport) fn new(own: u32) -> Result<DomainMonitor, Error> {
        liveness::announce(own)?;
        DomainMonitor::at(&socket(), own, xendev::knows, Box::new(Store::open))
    }

    fn at(path: &Path, own: u32, knows: fn(u32) -> bool, open_store: Opener) -> Result<DomainMonitor, Error> {
        let (listener, identity) = unix::listen_identified(path, MODE)
            .map_err(Error::io(format!("listening at {}", path.display())))?;
        let watched = || -> rustix::io::Result<(Reactor<Token>, Timer, ClockLeaps)> {
            let events = Reactor::new()?;
            let (timer, clock) = (Timer::new()?, ClockLeaps::new()?);
            events.add(&listener, Token::Listener, Interest::Read)?;
            events.add(&timer, Token::Timer, Interest::Read)?;
            events.add(&clock, Token::Clock, Interest::Read)?;
            Ok((events, timer, clock))
        };
        let (events, timer, clock) =
            watched().map_err(|error| Error::io("watching for calls")(error.into()))?;
        Ok(DomainMonitor {
            own,
            events,
            listener,
            path: path.to_owned(),
            identity,
            shut: false,
            timer,
            ticking: false,
            clock,
            restored: false,
            members: BTreeMap::new(),
            next: MemberId::FIRST,
            ceiling: member::ceiling(),
            domains: BTreeMap::new(),
            knows,
            open_store,
            store: None,
            asked: None,
            questions: VecDeque::new(),
        })
    }

    /// To be called when the descriptor is ready; never blocks. Fails once this VM was restored from a saved one: its
    /// number is another one then, and everything that was made with the old one is void.
    pub(in crate::transport) fn on_ready(&mut self) -> Result<(), Error> {
        let mut ready = Vec::new();
        // If it fails it is tried again: what was ready stays ready.
        let _ = self.events.wait(Some(Duration::ZERO), &mut ready);
        for event in ready {
            match event.token {
                Token::Listener => self.admit(),
                Token::Timer => self.tick(),
                Token::Store => self.hear(),
                Token::Clock => self.on_leap(),
                Token::Member(id) => self.read_member(id),
            }
        }
        if self.restored { Err(Error::Restored) } else { Ok(()) }
    }

    fn admit(&mut self) {
        loop {
            match unix::accept(&self.listener) {
                Ok(None) => return,
                // A call that is refused watches its domain by itself.
                Ok(Some(_)) if self.members.len() >= MAX_MEMBERS => {}
                Ok(Some(fd)) => {
                    if self.events.add(&fd, Token::Member(self.next), Interest::Read).is_ok() {
                        self.members.insert(self.next, Member::new(fd));
                        self.next = self.next.following();
                    }
                }
                Err(_) => {
                    self.shut = self.events.remove(&self.listener).is_ok();
                    return self.tick_every(PERIOD);
                }
            }
        }
    }

    /// A member says once which domain it means, and once how many pages it maps; one that says anything else is
    /// dropped.
    fn read_member(&mut self, id: MemberId) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let mut said = [0u8; member::WORDS + 1];
        let understood = match rustix::io::read(&member.fd, &mut said) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return,
            Ok(n) => said.get(..n).is_some_and(|said| member.hear(said)),
            Err(_) => false,
        };
        if !understood || !member.domain.is_some_and(|domain| self.take_up(domain)) {
            self.members.remove(&id);
        } else if !self.is_within(id)
            && let Some(member) = self.members.remove(&id)
        {
            let _ = rustix::io::write(&member.fd, &[FULL]);
        }
    }

    /// Whether the members of its user together map no more pages of its domain than allowed, with this member's.
    /// Users are counted apart, since each of them can claim any number; for dom0's pages there is no limit.
    fn is_within(&self, id: MemberId) -> bool {
        let Some(new) = self.members.get(&id).filter(|new| new.pages.is_some() && new.domain != Some(DOM0))
        else {
            return true;
        };
        let same =
            self.members.values().filter(|member| (member.domain, member.user) == (new.domain, new.user));
        same.filter_map(|member| member.pages).map(u64::from).sum::<u64>() <= self.ceiling
    }

    /// Dom0 is not watched: when it ends, so does this machine.
    fn take_up(&mut self, domain: u32) -> bool {
        if domain == DOM0 || self.domains.contains_key(&domain) {
            return true;
        }
        if self.domains.len() >= MAX_DOMAINS {
            return false;
        }
        self.domains.insert(domain, Watched::default());
        self.begin_to_watch(domain);
        self.put_question();
        self.tick_every(PERIOD);
        true
    }

    fn begin_to_watch(&mut self, domain: u32) {
        let full = self.domains.values().filter(|one| one.watched).count() >= MAX_WATCHES;
        let Some(watched) = self.domains.get_mut(&domain) else { return };
        (watched.watched, watched.blind) = (!full, full);
        if !full {
            self.questions.push_back(Question::Watch(domain));
        }
        self.read(domain);
    }

    /// Drops domains without a member, asks the hypervisor for the others, and reads the keys that are not watched.
    fn tick(&mut self) {
        self.timer.take();
        if self.shut {
            self.shut = self.events.add(&self.listener, Token::Listener, Interest::Read).is_err();
        }
        let wanted: BTreeSet<u32> = self.members.values().filter_map(|member| member.domain).collect();
        let known: Vec<u32> = self.domains.keys().copied().collect();
        for domain in known {
            if !wanted.contains(&domain) {
                self.drop_domain(domain);
            } else if !(self.knows)(domain) {
                self.tell(domain);
            } else {
                self.look_again(domain);
            }
        }
        if self.questions.len() > MAX_QUESTIONS {
            self.forget_store();
        }
        if self.domains.is_empty() && !self.shut {
            self.tick_every(Duration::ZERO);
        }
        self.put_question();
        self.rest();
    }

    fn look_again(&mut self, domain: u32) {
        let Some(watched) = self.domains.get_mut(&domain) else { return };
        watched.events = 0;
        if watched.blind {
            self.read(domain);
        } else if !watched.watched {
            // The connection to xenstore was lost, and the watch with it.
            self.begin_to_watch(domain);
        }
    }

    fn read(&mut self, domain: u32) {
        let question = Question::Read(domain);
        if !self.questions.contains(&question) {
            self.questions.push_back(question);
        }
    }

    fn drop_domain(&mut self, domain: u32) {
        if self.domains.remove(&domain).is_some_and(|watched| watched.watched) {
            self.questions.push_back(Question::Unwatch(domain));
        }
    }

    /// Asks the next question, if none is unanswered. If xenstore cannot be asked, it is opened again at the next
    /// tick.
    fn put_question(&mut self) {
        while self.asked.is_none() {
            let Some(question) = self.questions.pop_front() else { return };
            match (question, self.begin(question)) {
                (_, Ok(())) => self.asked = Some(question),
                // Linux refuses a watch by itself, and then no answer comes.
                (Question::Watch(_), Err(error)) if self.store.is_some() => {
                    self.understand(question, Err(error))
                }
                (_, Err(_)) => return self.forget_store(),
            }
        }
    }

    fn begin(&mut self, question: Question) -> io::Result<()> {
        let path = match question {
            Question::Own => "domid".to_owned(),
            Question::Watch(domain) | Question::Unwatch(domain) | Question::Read(domain) => {
                liveness::of(domain)
            }
        };
        let request = match question {
            Question::Own | Question::Read(_) => Request::Read(&path),
            Question::Watch(domain) => Request::Watch(&path, domain),
            Question::Unwatch(domain) => Request::Unwatch(&path, domain),
        };
        if let Some(store) = &mut self.store {
            return store.begin(request);
        }
        let store = (self.open_store)().map_err(io::Error::other)?;
        self.events.add(&store, Token::Store, Interest::Read)?;
        self.store.insert(store).begin(request)
    }

    fn hear(&mut self) {
        while let Some(store) = &mut self.store {
            match store.heard() {
                Ok(Some(answer)) => {
                    if let Some(question) = self.asked.take() {
                        self.understand(question, answer);
                    }
                }
                Ok(None) => break,
                Err(_) => return self.forget_store(),
            }
        }
        let changes = self.store.as_mut().map(Store::take_changes).unwrap_or_default();
        changes.into_iter().for_each(|(domain, events)| self.on_events(domain, events));
        self.put_question();
        self.rest();
    }

    fn understand(&mut self, question: Question, answer: io::Result<Vec<u8>>) {
        match (question, answer) {
            (Question::Own, Ok(number)) if number != self.own.to_string().as_bytes() => self.end_all(),
            (Question::Watch(domain), Err(_)) => {
                if let Some(watched) = self.domains.get_mut(&domain) {
                    (watched.watched, watched.blind) = (false, true);
                }
            }
            (Question::Read(domain), answer) => {
                let Some(watched) = self.domains.get_mut(&domain) else { return };
                let missing = answer.as_ref().is_err_and(is_missing);
                if missing && watched.seen {
                    self.tell(domain);
                } else {
                    watched.seen |= answer.is_ok();
                }
            }
            _ => {}
        }
    }

    /// One look at the key is enough, however often it has changed.
    fn on_events(&mut self, domain: u32, events: u32) {
        let Some(watched) = self.domains.get_mut(&domain).filter(|watched| !watched.blind) else { return };
        watched.events = watched.events.saturating_add(events);
        if watched.events > NOISE {
            (watched.watched, watched.blind) = (false, true);
            self.questions.push_back(Question::Unwatch(domain));
        }
        self.read(domain);
    }

    /// The clock was set, or this VM slept, or was restored.
    fn on_leap(&mut self) {
        let _ = rustix::io::read(&self.clock, &mut [0u8; 8]);
        // It fails only for impossible times and for what is no timer.
        let _ = self.clock.rearm();
        self.questions.push_back(Question::Own);
        self.put_question();
    }

    fn end_all(&mut self) {
        self.restored = true;
        for member in std::mem::take(&mut self.members).values() {
            let _ = rustix::io::write(&member.fd, &[RESTORED]);
        }
    }

    fn tell(&mut self, gone: u32) {
        self.drop_domain(gone);
        self.members.retain(|_, member| {
            let concerned = member.domain == Some(gone);
            if concerned {
                // If the member has gone, nobody needs to be told.
                let _ = rustix::io::write(&member.fd, &[GONE]);
            }
            !concerned
        });
    }

    /// Closes the connection to xenstore when there are no calls.
    fn rest(&mut self) {
        if self.domains.is_empty() && self.asked.is_none() && self.questions.is_empty() {
            self.forget_store();
        }
    }

    fn forget_store(&mut self) {
        self.store = None;
        self.asked = None;
        self.questions.clear();
        self.domains.values_mut().for_each(|watched| watched.watched = false);
    }

    /// A timer that runs is not set again: if members come all the time, it must still expire.
    fn tick_every(&mut self, period: Duration) {
        let wanted = !period.is_zero();
        if wanted != self.ticking {
            // It fails only for impossible times and for what is no timer.
            let _ = self.timer.set_period(period);
            self.ticking = wanted;
        }
    }
}

impl AsFd for DomainMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl Drop for DomainMonitor {
    fn drop(&mut self) {
        // If the file stays, the next domain monitor replaces it.
        let _ = unix::withdraw(&self.path, self.identity);
    }
}
