//! The process that keeps sessions ready: one thread that moves them between those who give and those who want, and one more
//! for each session that it opens.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use cli::failure::Failure;
use engine::process::FileLimit;
use engine::unix::Bound;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wire::escape::filter_terminal;
use wire::remote::request;

use super::message::{self, Message};
use super::plan::Loads;
use super::socket;
use crate::beside::beside;
use crate::link::Link;
use crate::session::Session;
use crate::{bytes, log, master};

/// So many sessions are ready, however few calls there are.
const FEWEST: usize = 2;
/// So many are kept of those that were given back.
const MOST: usize = 64;
/// For so long, if nobody wants them.
const KEPT: Duration = Duration::from_secs(20);
/// What was taken is replaced after this time: a short call gives it back before.
const REST: Duration = Duration::from_millis(20);
/// After a connection has refused a session, the next try.
const REFUSED: Duration = Duration::from_secs(2);
/// The process ends after so long without calls.
const UNUSED: Duration = Duration::from_secs(600);
/// And after so long without calls and without sessions.
const EMPTY: Duration = Duration::from_secs(30);
/// What an idle session may say on stderr.
const TALK: usize = 16 << 10;

/// A session that waits.
struct Idle {
    session: Session,
    master: u8,
    since: Instant,
    may_say: usize,
}

/// A call that is connected with us.
struct Caller {
    socket: OwnedFd,
    /// Where it runs.
    master: Option<u8>,
    bulk: bool,
    waits: bool,
}

/// What came of opening a session.
type Opened = (u8, Option<Session>);

struct Pool<'a> {
    link: &'a Link,
    idle: Vec<Idle>,
    callers: Vec<Caller>,
    /// The connections on which sessions are being opened.
    opening: BTreeSet<u8>,
    results: Receiver<Opened>,
    /// For whoever opens one; the pipe wakes us.
    sender: Sender<Opened>,
    bell: OwnedFd,
    refill: Option<Instant>,
    /// When a session could not be opened last.
    failed: Option<Instant>,
    used: Instant,
}

/// Keeps sessions of `link` ready until nobody wants any.
///
/// # Errors
/// The socket cannot be made.
pub fn run(link: &Link) -> Result<(), Failure> {
    // Those who call are started anew each time, and what ends with their terminal or group is not us.
    let _ = rustix::process::setsid();
    let _limit = FileLimit::raise();
    let during = || Failure::during(format!("waiting for calls of link {}", link.name()));
    let socket = Bound::new(&socket(link), 0o600).map_err(during())?;
    let (wakes, bell) = bytes::pipe().map_err(during())?;
    let (sender, results) = channel();
    let mut pool = Pool {
        link,
        idle: Vec::new(),
        callers: Vec::new(),
        opening: BTreeSet::new(),
        results,
        sender,
        bell,
        // The call that has started us opens a session of its own, and is not the last one.
        refill: Some(Instant::now() + REST),
        failed: None,
        used: Instant::now(),
    };
    while let Some(limit) = pool.rest() {
        let ready = pool.wait(&socket, &wakes, limit).map_err(during())?;
        pool.act(&ready);
        if ready.socket {
            while let Ok(Some(socket)) = socket.accept() {
                pool.callers.push(Caller { socket, master: None, bulk: false, waits: false });
            }
        }
        if ready.bell {
            let _ = bytes::read(&wakes, &mut [0; 64]);
        }
        pool.take_results();
        pool.trim();
        pool.refill();
    }
    Ok(())
}

/// Who has something to say.
struct Ready {
    socket: bool,
    bell: bool,
    callers: Vec<bool>,
    /// Of each idle session its stdout and stderr.
    idle: Vec<(bool, bool)>,
}

impl Pool<'_> {
    /// How long there is nothing to do unless somebody says something; `None` if it is time to end.
    fn rest(&self) -> Option<Option<Duration>> {
        let now = Instant::now();
        let left = |from: Instant, after: Duration| (from + after).saturating_duration_since(now);
        let mut rests: Vec<Duration> =
            self.refill.iter().map(|at| at.saturating_duration_since(now)).collect();
        if self.callers.is_empty() && self.opening.is_empty() {
            let end = left(self.used, if self.idle.is_empty() { EMPTY } else { UNUSED });
            if end.is_zero() {
                return None;
            }
            rests.push(end);
        }
        rests.extend(self.spare().map(|at| self.idle.get(at).map_or(KEPT, |idle| left(idle.since, KEPT))));
        Some(rests.into_iter().min())
    }

    fn wait(&self, socket: &Bound, wakes: &OwnedFd, limit: Option<Duration>) -> io::Result<Ready> {
        let limit = limit.and_then(|limit| Timespec::try_from(limit + Duration::from_millis(1)).ok());
        let mut fds = vec![PollFd::new(socket, PollFlags::IN), PollFd::new(wakes, PollFlags::IN)];
        fds.extend(self.callers.iter().map(|caller| PollFd::new(&caller.socket, PollFlags::IN)));
        for idle in &self.idle {
            fds.push(PollFd::from_borrowed_fd(idle.session.from.as_fd(), PollFlags::IN));
            fds.push(PollFd::from_borrowed_fd(idle.session.stderr.as_fd(), PollFlags::IN));
        }
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        Ok(Ready {
            socket: ready.next().unwrap_or(false),
            bell: ready.next().unwrap_or(false),
            callers: ready.by_ref().take(self.callers.len()).collect(),
            idle: std::iter::from_fn(|| Some((ready.next()?, ready.next()?))).collect(),
        })
    }

    fn act(&mut self, ready: &Ready) {
        // A session that says something between two calls, or ends, is no good for the next one.
        let mut states = ready.idle.iter();
        let link = self.link;
        self.idle.retain_mut(|idle| match states.next() {
            Some((true, _)) => false,
            Some((false, true)) => idle.hear(link),
            _ => true,
        });
        let mut freed = Vec::new();
        let loads = self.loads();
        let mut callers = std::mem::take(&mut self.callers);
        let mut states = ready.callers.iter();
        callers.retain_mut(|caller| {
            !states.next().is_some_and(|ready| *ready) || self.hear(caller, &loads, &mut freed)
        });
        // Those who have connected meanwhile, if any, come behind.
        callers.append(&mut self.callers);
        self.callers = callers;
        for (master, session) in freed {
            self.pass_on(master, session);
        }
        let rested = self.failed.is_none_or(|at| at.elapsed() > REFUSED);
        if rested
            && self.callers.iter().any(|caller| caller.bulk)
            && let Some(further) = self.loads().further()
        {
            self.open(further);
        }
    }

    /// Hears a caller. Whether it is still there.
    fn hear(&mut self, caller: &mut Caller, loads: &Loads, freed: &mut Vec<Opened>) -> bool {
        match message::receive(&caller.socket) {
            Ok(Some(Message::Want)) => {
                self.used = Instant::now();
                match self.pick(loads) {
                    Some(idle) => return self.give(caller, idle.master, idle.session),
                    None => {
                        caller.waits = true;
                        return message::send(&caller.socket, &Message::Nothing(loads.best())).is_ok();
                    }
                }
            }
            Ok(Some(Message::Own(master))) => {
                caller.waits = false;
                caller.master = Some(master);
                self.refill.get_or_insert_with(|| Instant::now() + REST);
            }
            Ok(Some(Message::Bulk)) => caller.bulk = true,
            Ok(Some(Message::Back(master, session))) => {
                caller.master = None;
                caller.bulk = false;
                freed.push((master, Some(session)));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(Some(Message::Nothing(_) | Message::Take(..)) | None) | Err(_) => return false,
        }
        true
    }

    fn give(&mut self, caller: &mut Caller, master: u8, session: Session) -> bool {
        caller.waits = false;
        caller.master = Some(master);
        self.refill.get_or_insert_with(|| Instant::now() + REST);
        message::send(&caller.socket, &Message::Take(master, session)).is_ok()
    }

    /// Gives a session to the call that has waited longest, or keeps it.
    fn pass_on(&mut self, master: u8, session: Option<Session>) {
        let Some(session) = session else { return };
        match self.callers.iter().position(|caller| caller.waits) {
            Some(at) => {
                let mut caller = self.callers.swap_remove(at);
                if self.give(&mut caller, master, session) {
                    self.callers.push(caller);
                }
            }
            None if self.idle.len() < MOST => {
                self.idle.push(Idle { session, master, since: Instant::now(), may_say: TALK });
            }
            None => {}
        }
    }

    /// The session for the next call: on the connection that has the least to do, the one that was used last.
    fn pick(&mut self, loads: &Loads) -> Option<Idle> {
        let best = self.idle.iter().map(|idle| (loads.of(idle.master), idle.master)).min()?;
        let at = self.idle.iter().rposition(|idle| idle.master == best.1)?;
        Some(self.idle.remove(at))
    }

    fn loads(&self) -> Loads {
        let mut loads = Loads::default();
        for caller in &self.callers {
            if let Some(master) = caller.master {
                loads.add(master, caller.bulk);
            }
        }
        for idle in &self.idle {
            loads.know(idle.master);
        }
        loads
    }

    /// Opens one more session beside us.
    fn open(&mut self, master: u8) {
        if !self.opening.insert(master) {
            return;
        }
        let (link, sender) = (self.link.clone(), self.sender.clone());
        let started =
            self.bell.try_clone().map_err(Failure::during("one more descriptor")).and_then(|bell| {
                beside(move || {
                    let _ = sender.send((master, master::open_on(&link, master, request::READY)));
                    let _ = bytes::write(&bell, &[0]);
                })
            });
        if started.is_err() {
            // No session, as if the master had refused one: calls open their own meanwhile.
            self.opened(master, None);
        }
    }

    fn take_results(&mut self) {
        while let Ok((master, session)) = self.results.try_recv() {
            self.opened(master, session);
        }
    }

    /// The attempt to open a session is over.
    fn opened(&mut self, master: u8, session: Option<Session>) {
        self.opening.remove(&master);
        match session {
            Some(session) => self.pass_on(master, Some(session)),
            None => {
                self.failed = Some(Instant::now());
                self.refill = Some(Instant::now() + REFUSED);
            }
        }
    }

    /// Opens a session if too few are ready where the next call shall go.
    fn refill(&mut self) {
        if self.refill.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.refill = None;
        let loads = self.loads();
        let best = loads.best();
        let ready = self.idle.iter().filter(|idle| loads.of(idle.master).bulk == loads.of(best).bulk).count();
        if ready < FEWEST {
            self.refill = Some(Instant::now() + REST);
            self.open(best);
        }
    }

    /// The session that is ended next: of a further connection, or one too many of the first.
    fn spare(&self) -> Option<usize> {
        let further = self.idle.iter().position(|idle| idle.master > 0);
        further.or_else(|| (self.idle.len() > FEWEST).then_some(0))
    }

    fn trim(&mut self) {
        while let Some(at) = self.spare()
            && self.idle.get(at).is_some_and(|idle| idle.since.elapsed() >= KEPT)
        {
            self.idle.remove(at);
        }
    }
}

impl Idle {
    /// Writes into the log what it says on stderr. Whether it may stay.
    fn hear(&mut self, link: &Link) -> bool {
        let mut buffer = [0; 4096];
        let len = bytes::read(&self.session.stderr, &mut buffer).unwrap_or(0);
        self.may_say = self.may_say.saturating_sub(len);
        match buffer.get_mut(..len) {
            Some(said) if len > 0 && self.may_say > 0 => {
                filter_terminal(said);
                log::add(link, said);
                true
            }
            _ => false,
        }
    }
}
