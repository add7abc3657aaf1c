//! Programs on the local socket.

use std::io::Write;
use std::os::unix::net::UnixStream;

use rustix::process::{Resource, Rlimit, setrlimit};
use wire::header::{Header, ty};

use crate::agent::Agent;
use crate::client::TestClient;
use crate::world::{World, eventually};

pub(crate) fn a_command_reaches_the_agent() {
    let world = World::new("");
    let (_daemon, mut agent) = world.vm(3, "work");
    for (just, port) in [(false, 513), (true, 514)] {
        let mut client = world.client("work");
        client.exec(just, 0, "DEFAULT:echo hello");
        let told = client.port();
        assert_eq!((told.domain.0, told.port.0), (3, port));
        let (cmdline, endpoint) = agent.exec();
        assert_eq!((cmdline.as_str(), endpoint.domain.0, endpoint.port.0), ("user:echo hello", 0, port));
        agent.terminated(0, port);
        client.closed();
    }
}

pub(crate) fn hostile_ones_cost_only_themselves() {
    let world = World::new("");
    let (mut daemon, mut agent) = world.vm(3, "work");
    world.client("work");
    let idle: Vec<_> = (0..50).map(|_| TestClient::connect(&world.socket("work"))).collect();
    let half: Vec<_> = (0..50)
        .map(|_| {
            let mut client = world.client("work");
            client.0.write_all(&Header::new(ty::EXEC_CMDLINE, 5000).to_bytes()).unwrap();
            client.0.write_all(&[1; 100]).unwrap();
            client
        })
        .collect();
    for garbage in
        [&[0xff_u8; 64][..], b"GET / HTTP/1.0\r\n\r\n", &[0; 8], &[0x90, 1, 0, 0, 0xff, 0xff, 0xff, 0xff]]
    {
        let mut client = world.client("work");
        client.0.write_all(garbage).unwrap();
        client.closed();
        let mut early = TestClient::connect(&world.socket("work"));
        early.0.write_all(garbage).unwrap();
        early.next();
        early.closed();
    }
    let mut good = world.client("work");
    good.exec(false, 0, "user:true");
    assert_eq!(good.port().port.0, 513);
    assert_eq!(agent.exec().0, "user:true");
    drop((idle, half));
    agent.terminated(0, 513);
    good.closed();
    // Inputs and outputs, log, epolls, signalfd, socket, control link, and nothing of the clients.
    eventually("no descriptors of clients left", || daemon.descriptors() < 14);
    assert!(daemon.runs());
}

pub(crate) fn more_than_there_are_descriptors() {
    let world = World::new("");
    let agent = Agent::listen(&world, 3);
    let mut command = world.command(&["-D", "3", "work"]);
    let few = Rlimit { current: Some(40), maximum: Some(40) };
    let before = rustix::process::getrlimit(Resource::Nofile);
    // Inherited by the daemon; this process takes its own back at once. It has few open.
    setrlimit(Resource::Nofile, Rlimit { current: few.current, maximum: before.maximum }).unwrap();
    command.env("QREXEC_TEST", "few");
    let shell = std::process::Command::new("/bin/sh");
    let daemon = limited(&world, shell, &command);
    setrlimit(Resource::Nofile, before).unwrap();
    let mut agent = agent.greeted();
    world.client("work");
    let crowd: Vec<_> = (0..100).map(|_| UnixStream::connect(world.socket("work")).unwrap()).collect();
    daemon.logged("has to wait");
    drop(crowd);
    let mut client = world.client("work");
    client.exec(false, 0, "user:true");
    client.port();
    assert_eq!(agent.exec().0, "user:true");
}

/// The daemon with a hard limit of 40 descriptors, which it cannot raise.
fn limited(
    world: &World,
    mut shell: std::process::Command,
    daemon: &std::process::Command,
) -> crate::world::Daemon {
    shell
        .arg("-c")
        .arg("ulimit -H -n 40; exec \"$@\"")
        .arg("sh")
        .arg(daemon.get_program())
        .args(daemon.get_args());
    for (name, value) in daemon.get_envs() {
        if let Some(value) = value {
            shell.env(name, value);
        }
    }
    world.spawn(shell, "work")
}

pub(crate) fn a_slow_agent_makes_them_wait() {
    let world = World::new("");
    let (mut daemon, mut agent) = world.vm(3, "work");
    let command = format!("user:{}", "x".repeat(3000));
    let mut clients: Vec<_> = (0..200).map(|_| world.client("work")).collect();
    clients.iter_mut().for_each(|client| client.exec(true, 0, &command));
    // 600 kB for a ring of 4 kB whose reader sleeps: they wait, and nobody is lost.
    daemon.logged("protocol 4");
    for _ in 0..200 {
        assert_eq!(agent.exec().0, command);
    }
    for client in &mut clients {
        client.port();
    }
    assert!(daemon.runs());
}

pub(crate) fn three_hundred_at_once() {
    let world = World::new("");
    let (_daemon, mut agent) = world.vm(3, "work");
    let mut clients: Vec<_> = (0..300).map(|_| world.client("work")).collect();
    clients.iter_mut().for_each(|client| client.exec(true, 0, "user:true"));
    let mut ports: Vec<u32> = (0..300).map(|_| agent.exec().1.port.0).collect();
    ports.sort_unstable();
    assert_eq!(ports, (513..813).collect::<Vec<_>>());
    for client in &mut clients {
        agent.terminated(0, client.port().port.0);
        client.closed();
    }
}
