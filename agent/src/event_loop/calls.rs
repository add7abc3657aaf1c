//! Starting what the daemon asked for, and seeing it end.

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use agent_core::{CallId, Start};
use engine::datalink::WAIT_VM;
use engine::exec::ExecError;
use engine::log_source::speaking_for;
use engine::process::{Child, EXIT_TROUBLE, fork_keeping, fork_pump};
use engine::step;
use wire::command::ServiceCall;
use wire::names::DomainId;

use super::{Agent, Watched};
use crate::admission::{Admission, Word};
use crate::fork_server::Request;
use crate::ground::Ground;
use crate::job::Job;
use crate::waiting_calls::{Left, WaitingCalls};
use crate::{call, fork_server};

/// How long a call waits for a fork server whose queue is full: upstream's has five places. If the server does not
/// move, the call still has most of the ten seconds for which a caller in dom0 waits.
const QUEUE: Duration = Duration::from_secs(3);

/// How long calls from dom0 wait for a session. Their callers have limits of their own, which the agent does not know.
const DOM0_SESSION: Duration = Duration::from_secs(3600);

/// Reads of the pipe in which processes of calls write before other descriptors are handled: 1 KiB each of its 64.
const PIPE_READS: usize = 64;

/// Exit statuses of processes that were ended by a signal.
const SIGNALS: RangeInclusive<i32> = 129..=192;

/// The result of handing a call over.
enum Handed {
    Over(OwnedFd),
    /// The queue of the fork server is full.
    Busy,
    /// There is no fork server for it.
    Not,
}

impl Agent {
    pub(super) fn start(&mut self, call: CallId, start: Start) {
        step::reached("told to start");
        if let Some(meminfo) = &mut self.meminfo {
            meminfo.call_begins();
        }
        let job = Job::new(&self.services, start);
        speaking_for(&job.log_source(), || self.start_or_refuse(call, job));
    }

    fn ground(&self) -> Ground<'_> {
        Ground { transport: &self.transport, services: &self.services, confinement: self.confinement }
    }

    /// Starts a call, or refuses it if its source has as many calls as it may have.
    fn start_or_refuse(&mut self, call: CallId, job: Job) {
        let label = job.label.clone();
        match self.callers.admit(call, job.endpoint.domain, job) {
            Admission::Served(job) => {
                tracing::debug!("{label}");
                self.board.serves(&self.services, call, &job);
                self.launch_in_session(call, job);
            }
            Admission::Refused(too_many) => {
                tracing::warn!("{label}: exit code {EXIT_TROUBLE}: {too_many}");
                self.tell_refused();
            }
            Admission::Dropped(too_many) => {
                tracing::warn!("{label}: not answered: {too_many}");
                self.call_ended(call);
            }
        }
    }

    /// Tells as many callers as possible now that they are refused.
    fn tell_refused(&mut self) {
        while let Some((call, job)) = self.callers.next_refusal() {
            let child = fork_pump(|| {
                self.files.restore();
                call::refuse(self.ground(), &job)
            });
            if let Err(error) = child.and_then(|child| Ok(self.watch(Watched::Process(call, child))?)) {
                tracing::error!("cannot refuse a call: {error}");
                self.callers.over(call);
                self.core.handle_call_ended(call);
                self.act();
            }
        }
    }

    fn launch_in_session(&mut self, call: CallId, job: Job) {
        let awaited = job.awaited_session().map(|(user, call)| (user.to_owned(), call.clone()));
        let Some((user, for_call)) = awaited else { return self.launch(call, job) };
        let source = job.endpoint.domain;
        let limit = if source == DomainId::DOM0 { DOM0_SESSION } else { WAIT_VM };
        match self.sessions.wait(&user, source, Instant::now() + limit, (call, job)) {
            Ok(true) => self.await_session(user, &for_call),
            Ok(false) => {}
            Err((call, mut job)) => {
                job.task = Err(ExecError::TooManyCalls);
                self.launch(call, job);
            }
        }
    }

    /// Starts the service that ends when the user's session is there.
    fn await_session(&mut self, user: String, for_call: &ServiceCall) {
        self.files.restore();
        let waiting = self.services.begin_session_wait(&user, &for_call.source);
        self.files.raise_again();
        match waiting {
            Ok(wait) => {
                if self.watch(Watched::Session { user: user.clone(), wait }).is_err() {
                    self.session_ended(&user);
                }
            }
            Err(error) => {
                tracing::error!("cannot wait for the session of {user}: {error}");
                self.session_ended(&user);
            }
        }
    }

    pub(super) fn session_ended(&mut self, user: &str) {
        for (call, job) in self.sessions.ended(user) {
            speaking_for(&job.log_source(), || self.launch(call, job));
        }
    }

    pub(super) fn give_up_waiting(&mut self, now: Instant) {
        for (call, job) in self.sessions.late(now) {
            let late = || tracing::warn!("{}: the session did not come while its caller waited", job.label);
            speaking_for(&job.log_source(), late);
            self.call_ended(call);
        }
    }

    /// Runs a call: in the user's fork server if there is one, or else in a process of its own.
    fn launch(&mut self, call: CallId, job: Job) {
        let handed = self.hand_over(&job, None);
        if let Handed::Over(socket) = handed {
            return self.watch_call(call, Ok(Watched::Handed(call, socket)));
        }
        let busy = matches!(handed, Handed::Busy);
        // A process waits only briefly for the caller; after that the agent waits here.
        let waits = self.waiting_calls.is_some() && !busy && !job.waited;
        let meter = self.board.meter(call);
        let told = self.callers.writer();
        let mut job = Some(job);
        let child = fork_keeping(&[told], || {
            let Some(job) = job.take() else { return EXIT_TROUBLE };
            self.files.restore();
            // A process of the call's own may wait until the fork server has accepted others.
            match busy.then(|| self.hand_over(&job, Some(QUEUE))) {
                Some(Handed::Over(socket)) => fork_server::await_end(&socket),
                _ => {
                    let agent = call::Agent { told, call, waits, meter };
                    call::run(self.ground(), job, Some(agent))
                }
            }
        });
        step::reached("forked");
        // The new process has its own copy.
        if let (Some(job), true) = (job, self.waiting_calls.is_some() && !busy) {
            self.looking.insert(call, job);
        }
        self.watch_process(call, child);
    }

    fn watch_process(&mut self, call: CallId, child: io::Result<Child>) {
        self.watch_call(call, child.map(|child| Watched::Process(call, child)));
    }

    fn watch_call(&mut self, call: CallId, what: io::Result<Watched>) {
        if let Err(error) = what.and_then(|what| Ok(self.watch(what)?)) {
            tracing::error!("cannot run a call: {error}");
            self.call_ended(call);
        }
    }

    /// The processes of calls have written something. Reads no more than the pipe holds: a process that a peer has taken
    /// over may go on writing, and must not keep the agent from everything else.
    pub(super) fn hear_calls(&mut self) {
        for _ in 0..PIPE_READS {
            let told = self.callers.told();
            if told.is_empty() {
                return;
            }
            for (call, word) in told {
                match word {
                    // Only such a call can say so; the set must not grow by numbers that are none.
                    Word::NotMet if self.looking.contains_key(&call) => {
                        self.not_met.insert(call);
                    }
                    Word::NotMet => {}
                    Word::LinkOver => {
                        self.core.handle_call_ended(call);
                        self.act();
                    }
                }
            }
        }
    }

    /// The process of a call has ended. So has the call, unless its caller is still to come.
    pub(super) fn process_ended(&mut self, call: CallId, status: Option<i32>) {
        // It may have written something just before.
        self.hear_calls();
        self.board.exits(call, status);
        let job = self.looking.remove(&call);
        let not_met = self.not_met.remove(&call);
        if let Some(job) = &job
            && status.is_some_and(|status| SIGNALS.contains(&status))
            && self.transport.kind() == ring::Kind::Shm
        {
            return self.tell_lost(call, job);
        }
        let (true, Some(mut job), Some(waiting_calls)) = (not_met, job, &mut self.waiting_calls) else {
            return self.call_ended(call);
        };
        job.waited = true;
        if let Some((call, job)) = waiting_calls.wait(job.endpoint, job.until, Instant::now(), (call, job)) {
            self.launch_for_caller(call, job);
        }
    }

    /// A call's process was killed. If its caller had not met it yet, it would wait for as long as callers do.
    fn tell_lost(&mut self, call: CallId, job: &Job) {
        let child = fork_pump(|| {
            self.files.restore();
            call::lost(self.ground(), job)
        });
        self.watch_process(call, child);
    }

    /// The caller has come, but may be gone again: its process waits for the time that is left.
    fn launch_for_caller(&mut self, call: CallId, job: Job) {
        speaking_for(&job.log_source(), || self.launch(call, job));
    }

    /// Callers have come for which calls wait.
    pub(super) fn callers_came(&mut self) {
        let met = self.waiting_calls.as_mut().map(WaitingCalls::on_ready).unwrap_or_default();
        for (call, job) in met {
            self.launch_for_caller(call, job);
        }
    }

    /// Looks for callers where no event tells that they have come, and gives up those that are too late.
    pub(super) fn look_for_callers(&mut self, now: Instant) {
        let left =
            self.waiting_calls.as_mut().map(|waiting_calls| waiting_calls.on_time(now)).unwrap_or_default();
        for left in left {
            match left {
                Left::Met((call, job)) => self.launch_for_caller(call, job),
                Left::Late((call, job)) => {
                    let (label, domain, port) = (&job.label, job.endpoint.domain.0, job.endpoint.port.0);
                    speaking_for(&job.log_source(), || {
                        tracing::error!(
                            "{label}: no data link to domain {domain}, port {port}: its caller did not come"
                        );
                    });
                    self.call_ended(call);
                }
            }
        }
    }

    /// Hands a call over to the user's fork server, and waits for it at most this long.
    fn hand_over(&self, job: &Job, wait: Option<Duration>) -> Handed {
        let Some(pattern) = self.fork_server.as_deref() else { return Handed::Not };
        let of_one = !fork_server::is_per_user(pattern);
        let Some((user, command)) = job.for_fork_server(of_one) else { return Handed::Not };
        // In a lab only a fork server of this process's user is trusted.
        let is_own = match self.services.users.account(Some(user)) {
            Ok(account) => self.services.installation.is_lab() && account.is_none(),
            Err(_) => return Handed::Not,
        };
        let request = Request { just: job.just, endpoint: job.endpoint, command };
        match fork_server::hand_over(pattern, user, is_own, &request, wait) {
            Ok(socket) => Handed::Over(socket),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock if wait.is_none() => Handed::Busy,
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Handed::Not,
                _ => {
                    tracing::warn!("the fork server of {user} does not take calls: {error}");
                    Handed::Not
                }
            },
        }
    }

    pub(super) fn call_ended(&mut self, call: CallId) {
        self.callers.over(call);
        self.board.over(call);
        self.looking.remove(&call);
        self.not_met.remove(&call);
        self.tell_refused();
        self.core.handle_call_ended(call);
        self.act();
    }
}
