//! The surroundings of a core, as far as it may count on them: what it must and must not do in them.

use std::collections::BTreeSet;
use std::time::Duration;

use wire::control::Message;
use wire::frame::Frame;

use super::stage::{MAX_OPEN, Stage, allow};
use crate::question::Verdict;
use crate::{CallId, ClientId, Output};

/// One event.
#[derive(Debug, Clone)]
pub(super) enum Step {
    AgentComes(u32),
    AgentLost,
    AgentSays(Message),
    AgentRaw(u32, Vec<u8>),
    ClientComes,
    ClientGoes(usize),
    ClientSays(usize, Message),
    ClientRaw(usize, u32, Vec<u8>),
    Decided(usize, Option<&'static str>),
    TargetSays(usize, Frame),
    TargetGoes(usize),
    Started(usize, bool),
    Ended(usize),
    Time(u64),
}

/// What the driver would have open.
#[derive(Default)]
pub(super) struct World {
    agent: bool,
    serving: bool,
    clients: BTreeSet<ClientId>,
    targets: BTreeSet<CallId>,
    questions: BTreeSet<CallId>,
    calls: Vec<CallId>,
}

impl World {
    /// Plays these steps, and then that another agent comes: whatever happened, it is served.
    pub(super) fn run(mut self, stage: &mut Stage, steps: impl IntoIterator<Item = Step>) {
        for step in steps {
            self.play(stage, step);
            for output in stage.all_outputs() {
                self.check(&output);
            }
        }
        if self.agent {
            stage.core.handle_agent_lost();
        }
        stage.outputs();
        stage.agent_comes(4);
        assert_eq!(stage.outputs().last(), Some(&Output::Serve));
    }

    fn pick<T: Copy>(from: &[T], n: usize) -> Option<T> {
        (!from.is_empty()).then(|| from[n % from.len()])
    }

    fn client(&self, n: usize) -> Option<ClientId> {
        Self::pick(&self.clients.iter().copied().collect::<Vec<_>>(), n)
    }

    fn play(&mut self, stage: &mut Stage, step: Step) {
        let now = stage.now;
        let call = |n| Self::pick(&self.calls, n);
        match step {
            Step::AgentComes(version) if !self.agent => {
                self.agent = true;
                stage.agent_comes(version);
            }
            Step::AgentLost if self.agent => {
                self.agent = false;
                stage.core.handle_agent_lost();
            }
            Step::AgentSays(message) if self.agent => stage.agent(&message),
            Step::AgentRaw(ty, body) if self.agent => stage.core.handle_agent_frame(now, &Frame { ty, body }),
            Step::ClientComes if self.serving => {
                let id = stage.core.handle_client_connected(now);
                self.clients.insert(id);
            }
            Step::ClientGoes(n) => {
                if let Some(id) = self.client(n) {
                    self.clients.remove(&id);
                    stage.core.handle_client_closed(id);
                }
            }
            Step::ClientSays(n, message) => {
                self.client(n).into_iter().for_each(|id| stage.client(id, &message));
            }
            Step::ClientRaw(n, ty, body) => {
                if let Some(id) = self.client(n) {
                    stage.core.handle_client_frame(now, id, &Frame { ty, body });
                    stage.core.handle_client_read(now, id, n % 2 == 0);
                }
            }
            Step::Decided(n, target) => {
                if let Some(id) = call(n) {
                    self.questions.remove(&id);
                    stage.core.handle_decided(now, id, target.map_or_else(|| Verdict::deny("no"), allow));
                }
            }
            Step::TargetSays(n, frame) => {
                if let Some(id) = call(n) {
                    stage.core.handle_target_frame(now, id, &frame);
                }
            }
            Step::TargetGoes(n) => {
                if let Some(id) = call(n) {
                    self.targets.remove(&id);
                    stage.core.handle_target_closed(now, id, "gone");
                }
            }
            Step::Started(n, ok) => {
                if let Some(id) = call(n) {
                    stage.core.handle_service_started(id, if ok { Ok(()) } else { Err("no".into()) });
                }
            }
            Step::Ended(n) => {
                call(n).into_iter().for_each(|id| stage.core.handle_service_ended(now, id, 1, None))
            }
            Step::Time(seconds) => stage.passes(Duration::from_secs(seconds)),
            _ => {}
        }
    }

    fn check(&mut self, output: &Output) {
        match output {
            Output::SendAgent(_) => assert!(self.agent),
            Output::DropAgent(_) => assert!(std::mem::replace(&mut self.agent, false)),
            Output::Serve => assert!(!std::mem::replace(&mut self.serving, true)),
            Output::Withdraw => assert!(std::mem::replace(&mut self.serving, false)),
            Output::SendClient(id, _) => assert!(self.clients.contains(id)),
            Output::CloseClient(id) => assert!(self.clients.remove(id)),
            Output::Ask(id, _) => {
                self.calls.push(*id);
                assert!(self.questions.insert(*id));
                assert!(self.questions.len() <= MAX_OPEN);
            }
            Output::CancelQuestion(id) => assert!(self.questions.remove(id)),
            Output::OpenTarget(id, _) => assert!(self.targets.insert(*id)),
            Output::SendTarget(id, _) => assert!(self.targets.contains(id)),
            Output::CloseTarget(id) => {
                self.targets.remove(id);
            }
            Output::StartService(..) => assert!(self.agent),
            Output::Prepare(..) | Output::Release(_) => {}
            Output::Log(_, line) => {
                assert!(line.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{line:?}")
            }
        }
    }
}
