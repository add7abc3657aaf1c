//! Starting what the daemon asked for, and seeing it end.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use engine::datalink::WAIT_VM;
use engine::exec::ExecError;
use engine::process::fork_pump;
use engine::step;
use wire::command::ServiceCall;
use wire::names::DomainId;

use super::{Agent, Thing};
use crate::core::{CallId, Start};
use crate::fork_server::Request;
use crate::job::Job;
use crate::{call, fork_server};

/// How long a call waits for a fork server that has more calls than it can queue: the field's has five places. A server
/// that is stuck leaves the call most of the ten seconds that a caller in dom0 has.
const QUEUE: Duration = Duration::from_secs(3);

/// How long calls from dom0 wait for a session. Their callers say themselves how long they wait, which nobody hears here.
const DOM0_SESSION: Duration = Duration::from_secs(3600);

/// What became of handing a call over.
enum Handed {
    Over(OwnedFd),
    /// There is no place in the queue now.
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
        tracing::info!("{}", job.label);
        let awaited = job.awaited_session().map(|(user, call)| (user.to_owned(), call.clone()));
        let Some((user, for_call)) = awaited else { return self.launch(call, job) };
        let source = job.endpoint.domain;
        let limit = if source == DomainId::DOM0 { DOM0_SESSION } else { WAIT_VM };
        match self.sessions.wait(&user, source, Instant::now() + limit, (call, job)) {
            Ok(true) => self.await_session(user, &for_call),
            Ok(false) => {}
            Err((call, mut job)) => {
                job.task = Err(ExecError::Crowd);
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
                if self.watch(Thing::Session { user: user.clone(), wait }).is_err() {
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
            self.launch(call, job);
        }
    }

    pub(super) fn give_up_waiting(&mut self, now: Instant) {
        for (call, job) in self.sessions.late(now) {
            tracing::warn!("{}: the session did not come while its caller waited", job.label);
            self.call_ended(call);
        }
    }

    /// Runs a call: in the user's fork server if there is one, else in a process of its own.
    fn launch(&mut self, call: CallId, job: Job) {
        let handed = self.hand_over(&job, None);
        let thing = match handed {
            Handed::Over(socket) => Ok(Thing::Handed(call, socket)),
            Handed::Busy | Handed::Not => {
                let child = fork_pump(|| {
                    self.files.restore();
                    // This process may wait until others have been let in.
                    match matches!(handed, Handed::Busy).then(|| self.hand_over(&job, Some(QUEUE))) {
                        Some(Handed::Over(socket)) => fork_server::await_end(&socket),
                        _ => call::run(&self.transport, &self.services, job),
                    }
                });
                step::reached("forked");
                child.map(|child| Thing::Process(call, child))
            }
        };
        if let Err(error) = thing.and_then(|thing| Ok(self.watch(thing)?)) {
            tracing::error!("cannot run a call: {error}");
            self.call_ended(call);
        }
    }

    /// Hands a call over to the user's fork server, for which it may wait so long.
    fn hand_over(&self, job: &Job, wait: Option<Duration>) -> Handed {
        let Some(pattern) = self.fork_server.as_deref() else { return Handed::Not };
        let of_one = !fork_server::is_per_user(pattern);
        let Some((user, command)) = job.for_fork_server(of_one) else { return Handed::Not };
        // In an embedded installation ours is nobody's but our own.
        let is_own = match self.services.users.account(Some(user)) {
            Ok(account) => self.services.embedded && account.is_none(),
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
        let actions = self.core.call_ended(call);
        self.act(actions);
    }
}
