//! A daemon among an agent, local clients, policy and other daemons, all of them saying anything at any time:
//! it sends nothing to those who are gone, closes nobody twice, asks a bounded number of questions, writes
//! log lines that stay lines, and serves the next agent whatever happened.
#![no_main]
#![allow(dead_code)] // not everything that the daemon's own tests share is needed

use arbitrary::{Result, Unstructured};
use daemon_core::{CallId, ClientId, Core, Now, Output, Settings, ports, question};
use libfuzzer_sys::fuzz_target;
use wire::control::Message;

#[path = "../../../daemon/core/src/tests/stage.rs"]
mod stage;
#[path = "../../../daemon/core/src/tests/world.rs"]
mod world;

use stage::{Stage, answer_frame, connect_message, exec, frame, terminated, trigger};
use world::{Step, World};

fuzz_target!(|data: &[u8]| {
    let mut u = Unstructured::new(data);
    let mut left = 200;
    let steps = std::iter::from_fn(|| {
        left -= 1;
        (left > 0 && !u.is_empty()).then(|| step(&mut u).ok()).flatten()
    });
    World::default().run(&mut Stage::empty(), steps);
});

fn step(u: &mut Unstructured<'_>) -> Result<Step> {
    let n = usize::from(u.arbitrary::<u8>()?);
    Ok(match u.int_in_range(0..=13)? {
        0 => Step::AgentComes(u.int_in_range(0..=6)?),
        1 => Step::AgentLost,
        2 => Step::AgentSays(message(u)?),
        3 => Step::AgentRaw(ty(u)?, body(u)?),
        4 => Step::ClientComes,
        5 => Step::ClientGoes(n),
        6 => Step::ClientSays(n, message(u)?),
        7 => Step::ClientRaw(n, ty(u)?, body(u)?),
        8 => Step::Decided(
            n,
            *u.choose(&[None, Some("vault"), Some("dom0"), Some("@dispvm:x"), Some("work")])?,
        ),
        9 => Step::TargetSays(n, frame(&message(u)?)),
        10 => Step::TargetSays(n, answer_frame(ty(u)?, u.int_in_range(0..=9)?, u.int_in_range(510..=520)?)),
        11 => Step::TargetGoes(n),
        12 if n < 64 => Step::Started(n, u.arbitrary()?),
        12 => Step::Ended(n),
        _ => Step::Time(u.int_in_range(0..=70)?),
    })
}

fn message(u: &mut Unstructured<'_>) -> Result<Message> {
    let (domain, number) = (u.int_in_range(0..=9)?, u.int_in_range(0..=5)?);
    let port = *u.choose(&[0, 1, 512, 513, 514, 515, 768, u32::MAX])?;
    Ok(match u.int_in_range(0..=4)? {
        0 => Message::Hello(u.int_in_range(0..=5)?),
        1 => {
            exec(u.arbitrary()?, domain, port, u.choose(&["DEFAULT:x", "user:nogui:QUBESRPC a+ b", "x", ""])?)
        }
        2 => connect_message(domain, port, number),
        3 => Message::Trigger(trigger(u.choose(&["vault", "dom0", "@default", "@dispvm"])?, number)),
        _ => terminated(domain, port),
    })
}

fn ty(u: &mut Unstructured<'_>) -> Result<u32> {
    Ok(match u.int_in_range(0..=2)? {
        0 => u.arbitrary()?,
        _ => *u.choose(&[0x190, 0x193, 0x200, 0x201, 0x202, 0x203, 0x210, 0x211, 0x212, 0x213, 0x300])?,
    })
}

fn body(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let len = u.int_in_range(0..=255)?;
    Ok(u.bytes(len.min(u.len()))?.to_vec())
}
