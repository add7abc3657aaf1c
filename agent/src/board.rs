//! What the agent tells `qrexec-top`: the calls that programs of this VM make, and those that it serves.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent_core::CallId;
use engine::exec::{Account, Services};
use engine::meter::{Meter, Meters};
use engine::reactor::{Reactor, Token};
use engine::top_socket::TopSocket;
use wire::command::CommandKind;
use wire::top::{Answer, BESIDE_AGENT, LastWord, Ledger, Route, Way};
use wire::trigger::Trigger;

use crate::job::Job;

/// The exit status of a caller that is refused.
const EXIT_REFUSED: i32 = 126;
/// Most users whose numbers are remembered, so that not every call has to look its user up.
const USERS: usize = 64;
/// Stands for the user of a call without one: only root sees the call.
const NOBODY: u32 = u32::MAX;

/// Identifies a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Known {
    /// A call of a program of this VM, by its token.
    Asked(u64),
    Served(CallId),
}

/// Everything that is told to `qrexec-top`.
#[derive(Debug)]
pub(crate) struct Board {
    ledger: Ledger<Known>,
    meters: Meters,
    metered: BTreeMap<CallId, Meter>,
    /// Exit codes of calls that have not ended completely.
    exits: BTreeMap<CallId, i32>,
    users: BTreeMap<String, u32>,
    since: Instant,
    socket: Option<TopSocket>,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            ledger: Ledger::default(),
            meters: Meters::default(),
            metered: BTreeMap::new(),
            exits: BTreeMap::new(),
            users: BTreeMap::new(),
            since: Instant::now(),
            socket: None,
        }
    }
}

impl Board {
    /// Listens beside the agent's own socket. If that fails, calls work as usual.
    pub(crate) fn listen<T: Token>(&mut self, agent: &Path, reactor: &Reactor<T>, token: T) {
        let mut path = OsString::from(agent);
        path.push(BESIDE_AGENT);
        let path = PathBuf::from(path);
        let socket = TopSocket::open(&path, None, reactor, token);
        self.socket = socket
            .inspect_err(|error| tracing::warn!("nothing for qrexec-top: {}: {error}", path.display()))
            .ok();
    }

    /// Answers those who have connected.
    pub(crate) fn answer(&mut self, now: Instant) {
        let (ledger, metered, at) = (&self.ledger, &self.metered, now.saturating_duration_since(self.since));
        let Some(socket) = &mut self.socket else { return };
        socket.answer(now, |viewer| {
            let moved = |known| match known {
                Known::Served(call) => metered.get(&call)?.read(),
                // Its bytes pass through the program's own process only, which reports them at its end.
                Known::Asked(_) => None,
            };
            let (rows, left_out) = ledger.rows(at, viewer, moved);
            Answer { machine: String::new(), rows, left_out }.encode()
        });
    }

    fn now(&self) -> Duration {
        self.since.elapsed()
    }

    // ---- calls of programs of this VM --------------------------------------------------------

    /// A program has asked for a service.
    pub(crate) fn asks(&mut self, token: u64, user: u32, request: &Trigger) {
        let source = request.source.as_ref().map_or("", |source| source.as_str());
        let route =
            Route::new(Way::Asked, user, source, request.target.as_str(), &request.service.with_plus());
        self.ledger.begins(self.now(), Known::Asked(token), route);
    }

    /// The call was refused.
    pub(crate) fn refused(&mut self, token: u64) {
        self.ledger.refused(self.now(), Known::Asked(token), EXIT_REFUSED);
    }

    /// The program is gone; it may have left its last word.
    pub(crate) fn gone(&mut self, token: u64, last: Option<LastWord>) {
        let (exit, moved) = last.map_or((None, None), |last| (Some(last.exit), Some(last.moved)));
        self.ledger.ended(self.now(), Known::Asked(token), exit, moved);
    }

    // ---- calls that are served here ----------------------------------------------------------

    /// A call is served.
    pub(crate) fn serves(&mut self, services: &Services, call: CallId, job: &Job) {
        let (source, service, user) = match &job.task {
            Ok(task) => {
                let user = self.user(services, task.user.as_deref());
                match &task.kind {
                    CommandKind::Service(called) => {
                        (called.source.to_string(), called.service.with_plus().into_owned(), user)
                    }
                    // Commands for a shell may be confidential.
                    CommandKind::Shell(_) => ("dom0".to_owned(), "(a command)".to_owned(), user),
                }
            }
            Err(_) => (job.log_source(), "(no service)".to_owned(), NOBODY),
        };
        let route = Route::new(Way::Served, user, &source, "", &service);
        self.ledger.begins(self.now(), Known::Served(call), route);
    }

    /// Where its process shows how much it moves. To be called before that process is forked.
    pub(crate) fn meter(&mut self, call: CallId) -> Option<Meter> {
        if let Some(meter) = self.metered.get(&call) {
            return Some(*meter);
        }
        let meter = self.meters.take()?;
        self.metered.insert(call, meter);
        Some(meter)
    }

    /// Its process has ended with this status; the call may continue in another process.
    pub(crate) fn exits(&mut self, call: CallId, status: Option<i32>) {
        self.exits.extend(status.map(|status| (call, status)));
    }

    /// Everything that belongs to it has ended.
    pub(crate) fn over(&mut self, call: CallId) {
        let exit = self.exits.remove(&call);
        let meter = self.metered.remove(&call);
        let moved = meter.and_then(Meter::read);
        meter.into_iter().for_each(|meter| self.meters.give_back(meter));
        self.ledger.ended(self.now(), Known::Served(call), exit, moved);
    }

    /// The number of the user that a call runs as.
    fn user(&mut self, services: &Services, name: Option<&str>) -> u32 {
        let own = rustix::process::geteuid().as_raw();
        let Some(name) = name else { return own };
        if let Some(user) = self.users.get(name) {
            return *user;
        }
        let user = services.users.account(Some(name)).map(|account| {
            let number = |account: Account| account.uid.as_raw();
            account.map_or(own, number)
        });
        let Ok(user) = user else { return NOBODY };
        if self.users.len() < USERS {
            self.users.insert(name.to_owned(), user);
        }
        user
    }
}

#[cfg(test)]
mod tests {
    use wire::names::{Ident, ServiceName, Target};
    use wire::top::{Moved, Viewer};

    use super::*;

    #[test]
    fn a_program_says_at_its_end_what_it_moved() {
        let mut board = Board::default();
        let request = Trigger {
            source: None,
            target: Target::new("vault").unwrap(),
            service: ServiceName::new("test.Add").unwrap(),
            ident: Ident::new("SOCKET").unwrap(),
        };
        (1..=3).for_each(|token| board.asks(token, 1000, &request));
        board.refused(1);
        board.gone(1, None);
        let moved = Moved { to_service: 3, to_caller: 4 };
        board.gone(2, Some(LastWord { exit: 7, moved }));
        let (rows, _) = board.ledger.rows(board.now(), Viewer::User(1000), |_| None);
        let row = &rows[0];
        assert_eq!((row.running, row.begun, row.refused, row.moved), (1, 3, 1, Some(moved)));
        assert_eq!(row.last.map(|last| last.exit), Some(Some(7)));
        assert!(board.ledger.rows(board.now(), Viewer::User(1001), |_| None).0.is_empty());
    }

    #[test]
    fn a_meter_stays_the_calls_own_until_nothing_is_left_of_it() {
        let mut board = Board::default();
        let meter = board.meter(CallId(1)).unwrap();
        meter.show(5, 6);
        assert_eq!(board.meter(CallId(1)).unwrap().read(), Some(Moved { to_service: 5, to_caller: 6 }));
        board.exits(CallId(1), Some(3));
        board.over(CallId(1));
        assert!(board.metered.is_empty() && board.exits.is_empty());
        assert_eq!(board.meter(CallId(2)).unwrap().read(), None);
    }
}
