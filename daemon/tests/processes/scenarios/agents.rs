//! The control link.

use std::time::Duration;

use wire::control::Message;
use wire::header::{Header, ty};
use wire::version::Version;

use crate::agent::Agent;
use crate::world::{World, eventually};

pub(crate) fn a_restart_is_survived() {
    let world = World::new("* * work dom0 allow\n");
    world.script("services/demo.Slow", "cat");
    let (mut daemon, mut agent) = world.vm(3, "work");
    let mut client = world.client("work");
    client.exec(false, 0, "user:first");
    client.port();
    agent.exec();
    drop(agent);
    // Who waits for this call's link is told that it will not come.
    assert_eq!(client.next().map(|(ty, _)| ty), Some(ty::SERVICE_REFUSED));
    client.closed();
    eventually("no local socket", || !world.socket("work").exists() && !world.socket("3").exists());
    for round in 0..3 {
        let mut agent = Agent::listen(&world, 3).greeted();
        let mut client = world.client("work");
        client.exec(false, 0, "user:again");
        // What the old agents' calls had is still reserved.
        assert_eq!(client.port().port.0, 514 + round);
        agent.exec();
    }
    assert!(daemon.runs());
}

pub(crate) fn hostile_ones_are_dropped_and_may_come_back() {
    let world = World::new("");
    let (mut daemon, agent) = world.vm(3, "work");
    world.client("work");
    drop(agent);
    let message = |ty: u32, body: &[u8]| [&Header::new(ty, body.len() as u32).to_bytes()[..], body].concat();
    // Each costs the daemon a pause; what breaks the protocol is a matter of the core's own tests.
    let breaches = [vec![0xff; 100], message(ty::TRIGGER_SERVICE4, &[0; 10])];
    for breach in breaches {
        let mut agent = Agent::listen(&world, 3).greeted();
        eventually("the local socket", || world.socket("work").exists());
        agent.send_bytes(breach);
        assert_eq!(agent.next_within(Duration::from_secs(10)), None);
        eventually("no local socket", || !world.socket("work").exists());
    }
    let mut agent = Agent::listen(&world, 3).met();
    agent.send_bytes(vec![0xff; 12]);
    assert_eq!(agent.next_within(Duration::from_secs(10)), None);
    let _agent = Agent::listen(&world, 3).greeted();
    world.client("work");
    assert!(daemon.runs());
}

pub(crate) fn a_flood_of_calls_is_answered() {
    let world = World::new("");
    let (mut daemon, mut agent) = world.vm(3, "work");
    for batch in 0..100 {
        for number in 0..50 {
            agent.ask("vault", "demo.Add", batch * 50 + number);
        }
        for number in 0..50 {
            agent.refused(batch * 50 + number);
        }
    }
    assert!(daemon.runs());
}

pub(crate) fn one_that_does_not_read_is_dropped() {
    let world = World::new("");
    let (mut daemon, mut agent) = world.vm(3, "work");
    // More refusals than the daemon keeps for it: 40 bytes each, 1 MiB.
    let ask = Message::Trigger(wire::trigger::Trigger {
        source: None,
        target: wire::names::Target::new("vault").unwrap(),
        service: wire::names::ServiceName::new("a").unwrap(),
        ident: wire::names::Ident::numbered(1),
    });
    agent.send_until_dropped(&ask);
    daemon.logged("does not read");
    drop(agent);
    let _agent = Agent::listen(&world, 3).greeted();
    world.client("work");
    assert!(daemon.runs());
}

/// Each calls dom0 in its own form, and runs what a local client wants.
pub(crate) fn of_every_version() {
    for version in [Version::V2, Version::V3, Version::V4] {
        let world = World::new("* * work dom0 allow\n");
        world.script("services/demo.Sum", "read a b; echo $((a + b))");
        let agent = Agent::listen(&world, 3);
        let daemon = world.daemon(3, "work");
        let mut agent = agent.greeted_as(version);
        let mut client = world.client("work");
        daemon.logged(&format!("protocol {version}"));
        agent.ask("dom0", "demo.Sum", 0);
        let port = agent.connected(0).port.0;
        assert_eq!(agent.call_dom0(port, b"1 2\n"), (b"3\n".to_vec(), 0));
        agent.terminated(0, port);
        client.exec(false, 0, "user:command");
        client.port();
        assert_eq!(agent.exec().0, "user:command");
    }
}
