//! What calls need of the outside: policy, what starts targets, processes for services in dom0.

use daemon_core::question::{Question, Verdict};
use daemon_core::{CallId, LocalService, Preparation};
use engine::log_source::speaking_for;
use engine::process::fork_keeping;
use engine::reactor::Interest;
use wire::names::Target;

use super::Driver;
use super::helpers::NotUp;
use super::peers::forget;
use super::token::Token;
use super::traffic;
use crate::dom0_service;
use crate::policy_source::Readiness;

/// Why a call cannot be made to what it is for.
#[derive(Debug, thiserror::Error)]
enum Unprepared {
    #[error("the daemon of {qube}: it does not run, and {why}")]
    Qube { qube: Target, why: NotUp },
    #[error("no disposable of {template}, and {why}")]
    Disposable { template: Target, why: NotUp },
}

/// So many services run in dom0 that one more may not.
#[derive(Debug, thiserror::Error)]
#[error("{0} services run in dom0 already")]
struct TooManyServices(usize);

impl Driver {
    pub(super) fn ask(&mut self, id: CallId, question: Question) {
        let files = self.decider.files.as_mut();
        let decide = || files.and_then(|files| files.decide(&question));
        if let Some(verdict) = speaking_for(question.source.as_str(), decide) {
            return self.core.handle_decided(self.epoch.elapsed(), id, verdict);
        }
        self.decider.programs.ask(id, question);
        self.start_programs();
    }

    pub(super) fn cancel_question(&mut self, id: CallId) {
        let programs = &mut self.decider.programs;
        programs.cancel(id);
        // What it starts may outlive it and hold its output open; nobody reads that any more.
        if let Some(output) = programs.descriptor(id, Readiness::Output) {
            forget(&self.reactor, output);
            programs.close_output(id);
        }
        // A connection is gone with that, a program has yet to be reaped.
        let _ = programs.finished(id);
    }

    /// Asks the questions that wait for their turn.
    pub(super) fn start_programs(&mut self) {
        while let Some((id, started)) = self.decider.programs.start_next() {
            if let Err(verdict) = started.and_then(|()| self.watch_program(id)) {
                self.core.handle_decided(self.epoch.elapsed(), id, verdict);
            }
        }
    }

    fn watch_program(&mut self, id: CallId) -> Result<(), Verdict> {
        let programs = &mut self.decider.programs;
        let watched = programs.descriptors(id).try_for_each(|(readiness, fd)| {
            self.reactor.add(fd, Token::Program(id, readiness), Interest::Read)
        });
        watched.map_err(|error| {
            programs.abandon(id);
            Verdict::deny(format!("watching the policy program: {error}"))
        })
    }

    pub(super) fn program_ready(&mut self, id: CallId, readiness: Readiness) {
        let programs = &mut self.decider.programs;
        let over = match readiness {
            Readiness::Output => programs.read(id),
            Readiness::End => programs.reap(id),
        };
        if !over {
            return;
        }
        if let Some(fd) = programs.descriptor(id, readiness) {
            forget(&self.reactor, fd);
        }
        if readiness == Readiness::Output {
            programs.close_output(id);
        }
        if let Some(Some(verdict)) = programs.finished(id) {
            self.core.handle_decided(self.epoch.elapsed(), id, verdict);
        }
    }

    pub(super) fn prepare(&mut self, id: CallId, what: &Preparation) {
        let started = match self.may_start {
            true => self
                .helpers
                .room_for(what, &self.limits)
                .and_then(|()| self.helpers.start(&self.reactor, id, what)),
            false => Err(NotUp::NoHelper),
        };
        if let Err(why) = started {
            let error = match what.clone() {
                Preparation::Start(qube) => Unprepared::Qube { qube, why },
                Preparation::Disposable(template) => Unprepared::Disposable { template, why },
            };
            self.core.handle_prepared(self.now(), id, Err(error.into()));
        }
    }

    pub(super) fn helper_said(&mut self, id: CallId) {
        if let Some(result) = self.helpers.read(&self.reactor, id) {
            self.core.handle_prepared(self.now(), id, result.map_err(Into::into));
        }
        self.helpers.reap(&self.reactor, id);
    }

    pub(super) fn start_service(&mut self, id: CallId, service: &LocalService) {
        if self.services.len() >= self.limits.services {
            let error = TooManyServices(self.services.len());
            return self.core.handle_service_started(id, Err(error.into()));
        }
        let (transport, manner, traffic) = (&self.transport, self.manner, self.traffic.writer());
        let serve = || {
            let (status, moved) = dom0_service::run_service(service, transport, manner);
            moved.into_iter().for_each(|moved| traffic::tell(traffic, id, moved));
            status
        };
        let started = fork_keeping(&[traffic], serve).and_then(|child| {
            self.reactor.add(&child, Token::Service(id), Interest::Read)?;
            self.services.insert(id, child);
            Ok(())
        });
        self.core.handle_service_started(id, started.map_err(Into::into));
    }

    pub(super) fn service_ready(&mut self, id: CallId) {
        let Some(child) = self.services.get_mut(&id) else { return };
        let status = match child.try_wait() {
            Ok(Some(status)) => status,
            Ok(None) => return,
            Err(error) => {
                tracing::error!("waiting for a service: {error}");
                engine::process::EXIT_TROUBLE
            }
        };
        if let Some(child) = self.services.remove(&id) {
            forget(&self.reactor, &child);
        }
        let moved = self.traffic.take(id);
        self.core.handle_service_ended(self.now(), id, status, moved);
    }
}
