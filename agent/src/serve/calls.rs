//! Starting what the daemon asked for, and seeing it end.

use std::io;
use std::os::fd::OwnedFd;

use engine::process::fork_pump;
use engine::step;
use wire::command::ServiceCall;

use super::{Agent, Thing};
use crate::core::{CallId, Start};
use crate::job::Job;
use crate::{call, fork_server};

impl Agent {
    pub(super) fn start(&mut self, call: CallId, start: Start) {
        step::reached("told to start");
        let job = Job::new(&self.services, start);
        tracing::info!("{}", job.label);
        let awaited = job.awaited_session().map(|(user, call)| (user.to_owned(), call.clone()));
        match awaited {
            None => self.launch(call, job),
            Some((user, for_call)) => {
                if self.sessions.wait(&user, (call, job)) {
                    self.await_session(user, &for_call);
                }
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

    /// Runs a call: in the user's fork server if there is one, else in a process of its own.
    fn launch(&mut self, call: CallId, job: Job) {
        let thing = match self.hand_over(&job) {
            Some(socket) => Ok(Thing::Handed(call, socket)),
            None => {
                let child = fork_pump(|| {
                    self.files.restore();
                    call::run(&self.transport, &self.services, job)
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

    fn hand_over(&self, job: &Job) -> Option<OwnedFd> {
        let pattern = self.fork_server.as_deref()?;
        let (user, command) = job.for_fork_server()?;
        match fork_server::hand_over(pattern, user, self.services.embedded, job.just, job.endpoint, command) {
            Ok(socket) => Some(socket),
            Err(error) => {
                if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) {
                    tracing::warn!("the fork server of {user} does not take calls: {error}");
                }
                None
            }
        }
    }

    pub(super) fn call_ended(&mut self, call: CallId) {
        let actions = self.core.call_ended(call);
        self.act(actions);
    }
}
