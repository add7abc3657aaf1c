//! Connections to the daemons of targets.
//!
//! A daemon that takes no connections, because it is stopped or has too many, must not cost the one that asks more than
//! a few descriptors and a look now and then: of the calls to one target only so many are connected before it has
//! greeted them, the others wait their turn, and where its queue is full one of them tries, with growing pauses.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::Path;
use std::time::Duration;

use daemon_core::{CallId, Now};
use engine::reactor::Reactor;
use wire::names::Target;

use super::Driver;
use super::peers::{Heard, Peers};
use super::token::Token;
use crate::local_socket;

/// Pause before a daemon whose queue of connections is full is tried again, doubled each time. The core's own limit for
/// the HELLO ends that for each call.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Connections to one target that it has not greeted yet. It takes as many in one turn.
const MAX_UNGREETED: usize = 64;

/// All of them, by target.
pub(super) struct Targets {
    peers: Peers<CallId, Token>,
    queues: BTreeMap<Target, Queue>,
    /// Calls that wait in one of these, or have not been greeted.
    places: BTreeMap<CallId, Target>,
}

/// The calls to one target that it has not greeted.
#[derive(Default)]
struct Queue {
    connected: BTreeSet<CallId>,
    waiting: VecDeque<CallId>,
    pause: Duration,
    /// When the next may try, if its queue of connections was full.
    retry_at: Option<Now>,
}

impl Queue {
    /// The next call to try, if one may.
    fn next(&mut self, now: Now) -> Option<CallId> {
        let may = self.connected.len() < MAX_UNGREETED && self.retry_at.is_none_or(|at| at <= now);
        if may { self.waiting.pop_front() } else { None }
    }

    /// It could not: nobody else need try before that.
    fn put_off(&mut self, id: CallId, now: Now) {
        self.waiting.push_front(id);
        self.pause = self.pause.saturating_mul(2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.retry_at = Some(now.saturating_add(self.pause));
    }

    fn connected(&mut self, id: CallId) {
        self.connected.insert(id);
        (self.pause, self.retry_at) = (Duration::ZERO, None);
    }
}

impl Targets {
    pub(super) fn new() -> Self {
        Self { peers: Peers::new(Token::Target), queues: BTreeMap::new(), places: BTreeMap::new() }
    }

    /// When somebody is to try again.
    pub(super) fn retry_at(&self) -> Option<Now> {
        self.queues
            .values()
            .filter(|queue| !queue.waiting.is_empty())
            .filter_map(|queue| queue.retry_at)
            .min()
    }

    fn wait(&mut self, id: CallId, to: &Target) {
        self.queues.entry(to.clone()).or_default().waiting.push_back(id);
        self.places.insert(id, to.clone());
    }

    /// A call needs no place any more: it has been greeted, or is over. Gives the target where one is free now.
    fn leave(&mut self, id: CallId) -> Option<Target> {
        let to = self.places.remove(&id)?;
        let queue = self.queues.get_mut(&to)?;
        if !queue.connected.remove(&id) {
            queue.waiting.retain(|waiting| *waiting != id);
        }
        if queue.connected.is_empty() && queue.waiting.is_empty() {
            self.queues.remove(&to);
            return None;
        }
        Some(to)
    }

    /// Connects. `false`: the daemon's queue is full.
    fn connect(
        &mut self,
        reactor: &Reactor<Token>,
        folder: &Path,
        id: CallId,
        to: &Target,
    ) -> io::Result<bool> {
        match engine::unix::connect_nonblocking(&local_socket::path(folder, to.as_str())) {
            Ok(socket) => self.peers.insert(reactor, id, socket).map(|()| true).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Driver {
    pub(super) fn open_target(&mut self, id: CallId, to: &Target) {
        self.targets.wait(id, to);
        self.connect_targets(to);
    }

    /// Connects as many of the calls that wait for this target as may be.
    fn connect_targets(&mut self, to: &Target) {
        loop {
            let now = self.now();
            let Some(queue) = self.targets.queues.get_mut(to) else { return };
            let Some(id) = queue.next(now) else { return };
            match self.targets.connect(&self.reactor, &self.socket_dir, id, to) {
                Ok(connected) => {
                    let Some(queue) = self.targets.queues.get_mut(to) else { return };
                    if !connected {
                        return queue.put_off(id, now);
                    }
                    queue.connected(id);
                }
                Err(error) => {
                    self.targets.leave(id);
                    match error.kind() {
                        // There is none.
                        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                            self.core.handle_target_absent(now, id);
                        }
                        _ => self.core.handle_target_closed(now, id, &error.to_string()),
                    }
                }
            }
        }
    }

    /// Tries again to connect to daemons whose queue was full.
    pub(super) fn retry_targets(&mut self) {
        let now = self.now();
        let due = self.targets.queues.iter().filter(|(_, queue)| queue.retry_at.is_some_and(|at| at <= now));
        let due: Vec<Target> = due.map(|(to, _)| to.clone()).collect();
        for to in due {
            self.connect_targets(&to);
        }
    }

    pub(super) fn close_target(&mut self, id: CallId) {
        self.targets.peers.close(&self.reactor, id);
        self.place_is_free(id);
    }

    fn place_is_free(&mut self, id: CallId) {
        if let Some(to) = self.targets.leave(id) {
            self.connect_targets(&to);
        }
    }

    pub(super) fn send_target(&mut self, id: CallId, message: Vec<u8>) {
        if let Err(error) = self.targets.peers.send(&self.reactor, id, message) {
            self.close_target(id);
            self.core.handle_target_closed(self.now(), id, &error.to_string());
        }
    }

    pub(super) fn target_ready(&mut self, id: CallId) {
        if let Err(error) = self.targets.peers.on_ready(&self.reactor, id) {
            self.close_target(id);
            return self.core.handle_target_closed(self.now(), id, &error.to_string());
        }
        while let Some(heard) = self.targets.peers.hear(&self.reactor, id) {
            let now = self.now();
            // Whatever came, it has taken the connection.
            if !matches!(heard, Heard::Nothing { .. }) {
                self.place_is_free(id);
            }
            match heard {
                Heard::Message(frame) => self.core.handle_target_frame(now, id, &frame),
                // The core has a limit for each answer as a whole.
                Heard::Nothing { .. } => return,
                Heard::Closed => return self.core.handle_target_closed(now, id, "it closed the connection"),
                Heard::Broken(error) => return self.core.handle_target_closed(now, id, &error.to_string()),
            }
            self.settle();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tries_with_growing_pauses_and_only_so_many_are_connected() {
        let mut targets = Targets::new();
        let to = Target::new("vault").unwrap();
        (0..200).for_each(|id| targets.wait(CallId(id), &to));
        let mut now = Duration::ZERO;
        let queue = |targets: &mut Targets| std::mem::take(targets.queues.get_mut(&to).unwrap());
        // Its queue is full from the start.
        let mut full = queue(&mut targets);
        let mut tries = 0;
        while now < Duration::from_secs(10) {
            if let Some(id) = full.next(now) {
                tries += 1;
                assert_eq!(id, CallId(0), "the first that asked");
                full.put_off(id, now);
            }
            now += Duration::from_millis(1);
        }
        assert!((10..30).contains(&tries), "{tries}");
        // Then it takes them.
        now += Duration::from_secs(1);
        while let Some(id) = full.next(now) {
            full.connected(id);
        }
        assert_eq!((full.connected.len(), full.waiting.len()), (MAX_UNGREETED, 200 - MAX_UNGREETED));
        targets.queues.insert(to.clone(), full);
        // A greeted one makes room for the next.
        assert_eq!(targets.leave(CallId(3)), Some(to.clone()));
        let mut full = queue(&mut targets);
        assert_eq!(full.next(now), Some(CallId(64)));
        full.connected(CallId(64));
        assert_eq!(full.next(now), None);
        assert_eq!(full.waiting.len(), 135, "whoever may not try keeps its place");
        targets.queues.insert(to.clone(), full);
        (0..200).for_each(|id| drop(targets.leave(CallId(id))));
        assert!(targets.queues.is_empty() && targets.places.is_empty() && targets.retry_at().is_none());
    }
}
