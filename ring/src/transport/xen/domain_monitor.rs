#![forbid(unsafe_code)]
//! One eye for a whole VM: which of the domains that its calls are with are still there?
//!
//! The agent keeps a [`DomainMonitor`]. A channel connects to its socket and writes the domain's number, four bytes, low half
//! first; a byte comes back when that domain is gone, another when this VM itself was restored from a saved one, and the
//! connection's end means that the agent is. A channel that maps pages of that domain writes their number too: the one
//! with which they would be too many is told so, and ends. The domain monitor watches one key of each domain (see [`super::liveness`]), and asks
//! the hypervisor once a second too, for domains that have none. While no call is with another VM, nothing happens.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::store::{Store, is_missing};
use super::store_messages::Request;
use super::{DOM0, PERIOD, liveness, watch};
use crate::error::Error;
use crate::xendev;
use sys::reactor::Reactor;
use sys::timer::{ClockLeaps, Timer};
use sys::unix;

mod member;
#[cfg(test)]
mod tests;

use member::Member;

/// Where the domain monitor listens, unless `QREXEC_PEERS_SOCKET` says otherwise.
const SOCKET: &str = "/var/run/qubes/qrexec-peers";
/// Every user's calls may ask.
const MODE: u32 = 0o666;
/// Calls that are told at once. One that finds no place asks for itself.
const MAX_MEMBERS: usize = 4096;
/// Domains that are looked after.
const MAX_DOMAINS: usize = 256;
/// Watches, of which xenstore gives a domain 128 for everything: the keys of further domains are read once a period.
const MAX_WATCHES: usize = 32;
/// Events of one domain's key within a period beyond which it is read once a period, and not watched any more: its
/// domain may write it as often as it likes.
const NOISE: u32 = 16;

const LISTENER: u64 = 0;
const TIMER: u64 = 1;
const STORE: u64 = 2;
const CLOCK: u64 = 3;
const FIRST_GUEST: u64 = 4;

/// What a member is told: its domain is gone.
const GONE: u8 = 1;
/// This VM is another one than before.
pub(super) const RESTORED: u8 = 2;
/// Too many pages of its domain would be mapped.
pub(super) const FULL: u8 = 3;

/// Asks the agent of this VM to tell when `domain` is gone.
pub(super) fn ask(domain: u32) -> io::Result<OwnedFd> {
    let fd = unix::connect_nonblocking(&socket())?;
    match rustix::io::write(&fd, &domain.to_le_bytes())? {
        4 => Ok(fd),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Tells it how many pages of that domain are mapped by this channel.
pub(super) fn count(agent: &OwnedFd, pages: u32) {
    // An agent that has gone counts nothing.
    let _ = rustix::io::write(agent, &pages.to_le_bytes());
}

fn socket() -> PathBuf {
    std::env::var_os("QREXEC_PEERS_SOCKET").map_or_else(|| SOCKET.into(), PathBuf::from)
}

/// Opens a connection to xenstore.
type Opener = Box<dyn Fn() -> Result<Store, Error> + Send>;

pub(in crate::transport) struct DomainMonitor {
    own: u32,
    events: Reactor,
    listener: OwnedFd,
    path: PathBuf,
    identity: unix::Identity,
    /// No descriptor was to be had for a member: the listener is not watched until the next tick.
    shut: bool,
    timer: Timer,
    ticking: bool,
    /// Ready when the clock leaps, as it does when a VM is restored.
    clock: ClockLeaps,
    restored: bool,
    members: BTreeMap<u64, Member>,
    next: u64,
    /// See [`member::ceiling`].
    ceiling: u64,
    domains: BTreeMap<u32, Watched>,
    knows: fn(u32) -> bool,
    open_store: Opener,
    store: Option<Store>,
    /// What xenstore is asked, and what comes next.
    asked: Option<Question>,
    questions: VecDeque<Question>,
}

/// What is known of one domain's key.
#[derive(Default)]
struct Watched {
    /// A watch was asked for and not refused.
    watched: bool,
    /// It was refused, or taken back for the noise: the key is read at each tick.
    blind: bool,
    /// It was read once.
    seen: bool,
    /// Since the last tick.
    events: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Question {
    /// This VM's own number.
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
        let watched = || -> rustix::io::Result<(Reactor, Timer, ClockLeaps)> {
            let events = Reactor::new()?;
            let (timer, clock) = (Timer::new()?, ClockLeaps::new()?);
            watch(&events, &listener, LISTENER)?;
            watch(&events, &timer, TIMER)?;
            watch(&events, &clock, CLOCK)?;
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
            next: FIRST_GUEST,
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
    /// number is another then, and nothing that was made with the old one is of use.
    pub(in crate::transport) fn on_ready(&mut self) -> Result<(), Error> {
        let mut ready = Vec::new();
        // What it fails for is tried again: what was ready stays so.
        let _ = self.events.wait(Some(Duration::ZERO), &mut ready);
        for event in ready {
            match event.token {
                LISTENER => self.admit(),
                TIMER => self.tick(),
                STORE => self.hear(),
                CLOCK => self.on_leap(),
                member => self.read_member(member),
            }
        }
        if self.restored { Err(Error::Restored) } else { Ok(()) }
    }

    fn admit(&mut self) {
        loop {
            match unix::accept(&self.listener) {
                Ok(None) => return,
                // Who is turned away asks for itself.
                Ok(Some(_)) if self.members.len() >= MAX_MEMBERS => {}
                Ok(Some(fd)) => {
                    if watch(&self.events, &fd, self.next).is_ok() {
                        self.members.insert(self.next, Member::new(fd));
                        self.next += 1;
                    }
                }
                Err(_) => {
                    self.shut = self.events.remove(&self.listener).is_ok();
                    return self.tick_every(PERIOD);
                }
            }
        }
    }

    /// A member says once which domain it means, and once how many pages it maps; whatever else it says, it goes.
    fn read_member(&mut self, id: u64) {
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

    /// Whether what its user's members map of its domain, this one's included, is no more than they may. Users are told
    /// apart since any of them can say any number; dom0 may do as it likes.
    fn is_within(&self, id: u64) -> bool {
        let Some(new) = self.members.get(&id).filter(|new| new.pages.is_some() && new.domain != Some(DOM0))
        else {
            return true;
        };
        let same =
            self.members.values().filter(|member| (member.domain, member.user) == (new.domain, new.user));
        same.filter_map(|member| member.pages).map(u64::from).sum::<u64>() <= self.ceiling
    }

    /// Dom0 is not looked for: its end is the machine's.
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

    /// Drops what nobody is interested in any more, asks the hypervisor for the rest, and looks where no watch does.
    fn tick(&mut self) {
        self.timer.take();
        if self.shut {
            self.shut = watch(&self.events, &self.listener, LISTENER).is_err();
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
            // The connection was lost.
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

    /// Puts the next question, if none is outstanding. A store that cannot be asked is opened again at the next tick.
    fn put_question(&mut self) {
        while self.asked.is_none() {
            let Some(question) = self.questions.pop_front() else { return };
            match (question, self.begin(question)) {
                (_, Ok(())) => self.asked = Some(question),
                // Linux says so itself, and no answer comes.
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
        watch(&self.events, &store, STORE)?;
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

    /// The key is read, whatever happened to it and how often.
    fn on_events(&mut self, domain: u32, events: u32) {
        let Some(watched) = self.domains.get_mut(&domain).filter(|watched| !watched.blind) else { return };
        watched.events = watched.events.saturating_add(events);
        if watched.events > NOISE {
            (watched.watched, watched.blind) = (false, true);
            self.questions.push_back(Question::Unwatch(domain));
        }
        self.read(domain);
    }

    /// The clock leapt: it was set, or this VM slept, or it is a restored one.
    fn on_leap(&mut self) {
        let _ = rustix::io::read(&self.clock, &mut [0u8; 8]);
        // It fails for impossible times and for what is no timer.
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
                // Who is not there any more needs not be told.
                let _ = rustix::io::write(&member.fd, &[GONE]);
            }
            !concerned
        });
    }

    /// Without calls there is no connection.
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

    /// A timer that runs goes on as it does: members who come all the time must not keep it from ending.
    fn tick_every(&mut self, period: Duration) {
        let wanted = !period.is_zero();
        if wanted != self.ticking {
            // It fails for impossible times and for what is no timer.
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
        // A stale file is replaced by the next domain monitor.
        let _ = unix::withdraw(&self.path, self.identity);
    }
}
