//! Any order of events: nothing panics, nobody is closed twice, nothing is sent to those who are gone.

use proptest::prelude::*;
use wire::control::Message;

use super::stage::{Stage, answer_frame, connect_message, exec, frame, terminated, trigger};
use super::world::{Step, World};

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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_core_keeps_its_word(steps in proptest::collection::vec(step(), 0..120)) {
        World::default().run(&mut Stage::empty(), steps);
    }
}
