//! Coming up and going away.

use std::fs;
use std::io::Read;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use wire::control::Message;

use crate::agent::Agent;
use crate::world::{World, eventually};

/// The pid of a daemon that is nobody's child any more.
fn pid_of(world: &World) -> Option<rustix::process::Pid> {
    let wanted = world.path("sockets").into_os_string().into_encoded_bytes();
    let folders = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let mut pids = folders.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let pid = pids.find(|pid| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        *pid != std::process::id() as i32 && environment.windows(wanted.len()).any(|window| window == wanted)
    })?;
    rustix::process::Pid::from_raw(pid)
}

pub(crate) fn in_the_background_until_told_to_end() {
    let world = World::new("");
    let agent = Agent::listen(&world, 3);
    let command = world.command(&["-q", "-u", "aa-11", "3", "work"]);
    let mut parent = world.spawn(command, "parent");
    let mut agent = agent.greeted();
    assert_eq!(parent.ended().code(), Some(0));
    for name in ["3", "work", "uuid:aa-11"] {
        world.client(name);
    }
    let log = std::fs::read_to_string(world.path("logs/qrexec.work.log")).unwrap();
    assert!(log.contains("protocol 4"), "{log}");
    let daemon = pid_of(&world).expect("a daemon in the background");
    rustix::process::kill_process(daemon, rustix::process::Signal::TERM).unwrap();
    assert_eq!(agent.next_within(Duration::from_secs(10)), None);
    eventually("no names left", || std::fs::read_dir(world.path("sockets")).unwrap().count() == 0);
}

pub(crate) fn without_an_agent_it_gives_up() {
    let world = World::new("");
    for direct in [true, false] {
        let mut args = vec!["-q", "3", "work"];
        if direct {
            args.insert(0, "-D");
        }
        let mut command = world.command(&args);
        command.env("QREXEC_STARTUP_TIMEOUT", "1");
        let begun = Instant::now();
        assert_eq!(world.spawn(command, "work").ended().code(), Some(3));
        assert!(begun.elapsed() >= Duration::from_secs(1));
    }
}

pub(crate) fn nowait_returns_at_once() {
    let world = World::new("");
    let mut command = world.command(&["3", "work"]);
    command.env("QREXEC_STARTUP_NOWAIT", "1").env("QREXEC_STARTUP_TIMEOUT", "1");
    assert_eq!(world.spawn(command, "work").ended().code(), Some(0));
    std::thread::sleep(Duration::from_millis(1200));
    let _agent = Agent::listen(&world, 3).greeted();
    world.client("work");
    rustix::process::kill_process(pid_of(&world).unwrap(), rustix::process::Signal::TERM).unwrap();
    eventually("the end of the daemon", || pid_of(&world).is_none());
}

pub(crate) fn its_sockets_come_with_the_hello() {
    let world = World::new("");
    let agent = Agent::listen(&world, 3);
    let _daemon = world.daemon(3, "work");
    let mut agent = agent.met();
    let names = fs::read_dir(world.path("sockets")).unwrap().map(|entry| entry.unwrap().file_name());
    // Where `qrexec-top` asks is there at once.
    let served = names.filter(|name| !name.to_string_lossy().starts_with(wire::top::SOCKETS)).count();
    assert_eq!(served, 0, "nobody can be served yet");
    agent.send(&Message::Hello(4));
    assert_eq!(agent.next(), Message::Hello(4));
    world.client("work");
}

/// What the parent says to this terminal, up to the daemon's start.
fn says_on_a_terminal(options: &[&str]) -> String {
    let world = World::new("");
    let agent = Agent::listen(&world, 3);
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let path = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let terminal = open(path, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    let mut command = world.command(&[options, &["3", "work"]].concat());
    let mut parent = command.stderr(terminal).spawn().unwrap();
    drop(command);
    let _agent = agent.greeted();
    assert_eq!(parent.wait().unwrap().code(), Some(0));
    kill_process(pid_of(&world).unwrap(), Signal::TERM).unwrap();
    eventually("the end of the daemon", || pid_of(&world).is_none());
    let mut said = Vec::new();
    // Nobody holds the other end any more: an error, once everything was read.
    let _ = fs::File::from(master).read_to_end(&mut said);
    String::from_utf8(said).unwrap()
}

pub(crate) fn quiet_means_that_the_parent_says_nothing() {
    let said = says_on_a_terminal(&[]);
    assert_eq!(said, "waiting for the agent of work\r\nconnected to the agent\r\n");
    for quiet in ["-q", "--quiet"] {
        assert_eq!(says_on_a_terminal(&[quiet]), "");
    }
}

pub(crate) fn an_agent_too_old_fails_the_start() {
    for direct in [true, false] {
        let world = World::new("");
        let agent = Agent::listen(&world, 3);
        let args: &[&str] = if direct { &["-D", "3", "work"] } else { &["-q", "3", "work"] };
        let mut daemon = world.spawn(world.command(args), "work");
        let mut agent = agent.met();
        agent.send(&Message::Hello(1));
        assert_eq!(daemon.ended().code(), Some(1));
        assert!(!world.socket("work").exists());
    }
}

pub(crate) fn a_signal_ends_it_cleanly() {
    let world = World::new("");
    let (mut daemon, mut agent) = world.vm(3, "work");
    let mut client = world.client("work");
    daemon.terminate();
    assert_eq!(daemon.ended().code(), Some(0));
    client.closed();
    assert_eq!(agent.next_within(Duration::from_secs(10)), None);
    assert_eq!(std::fs::read_dir(world.path("sockets")).unwrap().count(), 0);
    // While it still looks for its agent, too.
    let mut daemon = world.daemon(3, "later");
    daemon.logged("looking for the agent");
    daemon.terminate();
    assert_eq!(daemon.ended().code(), Some(0));
}

pub(crate) fn a_successor_takes_over() {
    let world = World::new("");
    let (mut first, agent) = world.vm(3, "work");
    world.client("work");
    first.kill();
    drop(agent);
    assert!(world.socket("work").exists(), "kill -9 leaves the socket");
    let (second, _agent) = world.vm(3, "work");
    second.logged("protocol 4");
    eventually("the successor's socket", || {
        std::os::unix::net::UnixStream::connect(world.socket("work")).is_ok()
    });
    world.client("work");
}
