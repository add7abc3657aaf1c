//! Any order of events: nothing panics, nobody is closed twice, nothing is sent to those who are gone.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use wire::control::Message;
use wire::frame::Frame;

use super::stage::{Stage, allow, answer_frame, connect_message, exec, frame, terminated, trigger};
use crate::core::{CallId, ClientId, Output};
use crate::question::Verdict;

#[derive(Debug, Clone)]
enum Step {
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

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        (1..5_u32).prop_map(Message::Hello),
        (any::<bool>(), 0..10_u32, prop_oneof![Just(0_u32), 510..516_u32])
            .prop_map(|(just, domain, port)| exec(just, domain, port, "DEFAULT:x")),
        (0..10_u32, 510..520_u32, 0..6_u64).prop_map(|(d, p, n)| connect_message(d, p, n)),
        (0..6_u64).prop_map(|n| Message::Trigger(trigger("vault", n))),
        (0..10_u32, 510..520_u32).prop_map(|(d, p)| terminated(d, p)),
    ]
}

fn raw() -> impl Strategy<Value = (u32, Vec<u8>)> {
    let ty = prop_oneof![0x200..0x214_u32, Just(0x300_u32), any::<u32>()];
    (ty, proptest::collection::vec(any::<u8>(), 0..200))
}

fn step() -> impl Strategy<Value = Step> {
    let target = prop_oneof![Just(None), Just(Some("vault")), Just(Some("dom0")), Just(Some("@dispvm:x"))];
    prop_oneof![
        2 => (1..5_u32).prop_map(Step::AgentComes),
        1 => Just(Step::AgentLost),
        8 => message().prop_map(Step::AgentSays),
        1 => raw().prop_map(|(ty, body)| Step::AgentRaw(ty, body)),
        4 => Just(Step::ClientComes),
        2 => any::<usize>().prop_map(Step::ClientGoes),
        8 => (any::<usize>(), message()).prop_map(|(n, m)| Step::ClientSays(n, m)),
        1 => (any::<usize>(), raw()).prop_map(|(n, (ty, body))| Step::ClientRaw(n, ty, body)),
        6 => (any::<usize>(), target).prop_map(|(n, t)| Step::Decided(n, t)),
        6 => (any::<usize>(), prop_oneof![
            message().prop_map(|m| frame(&m)),
            (0..10_u32, 510..520_u32).prop_map(|(d, p)| answer_frame(0x200, d, p)),
        ]).prop_map(|(n, f)| Step::TargetSays(n, f)),
        2 => any::<usize>().prop_map(Step::TargetGoes),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(n, ok)| Step::Started(n, ok)),
        2 => any::<usize>().prop_map(Step::Ended),
        2 => (0..70_u64).prop_map(Step::Time),
    ]
}

/// What the driver would have open.
#[derive(Default)]
struct World {
    agent: bool,
    serving: bool,
    clients: BTreeSet<ClientId>,
    targets: BTreeSet<CallId>,
    questions: BTreeSet<CallId>,
    calls: Vec<CallId>,
}

impl World {
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
                stage.core.agent_lost();
            }
            Step::AgentSays(message) if self.agent => stage.agent(&message),
            Step::AgentRaw(ty, body) if self.agent => stage.core.agent_frame(now, &Frame { ty, body }),
            Step::ClientComes if self.serving => {
                let id = stage.core.client_connected(now);
                self.clients.insert(id);
            }
            Step::ClientGoes(n) => {
                if let Some(id) = self.client(n) {
                    self.clients.remove(&id);
                    stage.core.client_closed(id);
                }
            }
            Step::ClientSays(n, message) => {
                self.client(n).into_iter().for_each(|id| stage.client(id, &message));
            }
            Step::ClientRaw(n, ty, body) => {
                if let Some(id) = self.client(n) {
                    stage.core.client_frame(now, id, &Frame { ty, body });
                    stage.core.client_read(now, id, n % 2 == 0);
                }
            }
            Step::Decided(n, target) => {
                if let Some(id) = call(n) {
                    self.questions.remove(&id);
                    stage.core.decided(now, id, target.map_or_else(|| Verdict::deny("no"), allow));
                }
            }
            Step::TargetSays(n, frame) => {
                if let Some(id) = call(n) {
                    stage.core.target_frame(now, id, &frame);
                }
            }
            Step::TargetGoes(n) => {
                if let Some(id) = call(n) {
                    self.targets.remove(&id);
                    stage.core.target_closed(now, id, "gone");
                }
            }
            Step::Started(n, ok) => {
                let result = if ok { Ok(()) } else { Err("no".to_owned()) };
                call(n).into_iter().for_each(|id| stage.core.service_started(id, result.clone()));
            }
            Step::Ended(n) => call(n).into_iter().for_each(|id| stage.core.service_ended(now, id, 1)),
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_core_keeps_its_word(steps in proptest::collection::vec(step(), 0..120)) {
        let mut stage = Stage::empty();
        let mut world = World::default();
        for step in steps {
            world.play(&mut stage, step);
            for output in stage.all_outputs() {
                world.check(&output);
            }
        }
        // Whatever happened, another agent can come and is served.
        if world.agent {
            stage.core.agent_lost();
        }
        stage.outputs();
        stage.agent_comes(4);
        let outputs = stage.outputs();
        prop_assert_eq!(outputs.last(), Some(&Output::Serve));
    }
}
