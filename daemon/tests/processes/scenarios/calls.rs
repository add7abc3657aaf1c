//! Calls that VMs ask for.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use crate::agent::Agent;
use crate::world::{World, eventually};

const ALLOW: &str =
    "demo.Add * work vault allow\ndemo.Add * vault work allow user=root\n* * work dom0 allow\n";

pub(crate) fn between_vms() {
    let world = World::new(ALLOW);
    let (daemon, mut work) = world.vm(3, "work");
    let (_vault_daemon, mut vault) = world.vm(9, "vault");
    world.client("work");
    world.client("vault");
    work.ask("vault", "demo.Add+1", 0);
    let (cmdline, at_target) = vault.exec();
    assert_eq!(cmdline, "user:QUBESRPC demo.Add+1 work");
    // VM 3 is the smaller one to VM 9, whose daemon hands out the port: from 513 in steps of two.
    assert_eq!((at_target.domain.0, at_target.port.0), (3, 513));
    let at_source = work.connected(0);
    assert_eq!((at_source.domain.0, at_source.port.0), (9, 513));
    let line = daemon.logged("allowed to vault");
    assert!(
        line.contains("qrexec: demo.Add+1: work -> vault: allowed to vault by") && line.contains("policy:1"),
        "{line}"
    );
    vault.terminated(3, 513);
    work.terminated(9, 513);
    daemon.logged("ended after");
    vault.ask("work", "demo.Add", 7);
    assert_eq!(work.exec().0, "root:QUBESRPC demo.Add+ vault");
    assert_eq!(vault.connected(7).port.0, 514);
}

/// A target's daemon that is stopped, or has more to do than it can: other calls of the caller go on, and its daemon
/// neither spins nor fills up. Its queue of connections is full at once, or takes all there are.
pub(crate) fn to_one_that_does_not_accept() {
    const UNGREETED: usize = 64;
    for backlog in [0, 4096] {
        let world = World::new(ALLOW);
        let (daemon, mut work) = world.vm(3, "work");
        world.client("work");
        world.script("services/demo.Add", "true");
        let listener = engine::unix::Bound::new(&world.socket("vault"), 0o600).unwrap();
        rustix::net::listen(&listener, backlog).unwrap();
        let before = daemon.descriptors();
        for number in 0..400 {
            work.ask("vault", "demo.Add", number);
        }
        let asked = Instant::now();
        work.ask("dom0", "demo.Add", 1000);
        work.connected(1000);
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
        // What it uses can only be measured over a time.
        let used = daemon.processor_time();
        std::thread::sleep(Duration::from_secs(1));
        let used = daemon.processor_time() - used;
        assert!(used < Duration::from_millis(100), "{used:?} of a second, backlog {backlog}");
        let more = daemon.descriptors() - before;
        assert!(more <= UNGREETED + 4, "{more} descriptors, backlog {backlog}");
    }
}

pub(crate) fn many_between_vms() {
    let world = World::new(ALLOW);
    let (daemon, mut work) = world.vm(3, "work");
    let (vault_daemon, mut vault) = world.vm(9, "vault");
    world.client("work");
    world.client("vault");
    let before = (daemon.descriptors(), vault_daemon.descriptors());
    for batch in 0..20 {
        for number in 0..32 {
            work.ask("vault", "demo.Add", batch * 32 + number);
        }
        for _ in 0..32 {
            let (_, endpoint) = vault.exec();
            vault.terminated(3, endpoint.port.0);
        }
        let mut answered: Vec<_> = (0..32).map(|_| work.next()).collect();
        answered.dedup();
        assert_eq!(answered.len(), 32);
    }
    eventually("no descriptors of calls left", || {
        daemon.descriptors() <= before.0 && vault_daemon.descriptors() <= before.1
    });
}

pub(crate) fn refused_before_they_begin() {
    let world = World::new(ALLOW);
    let (daemon, mut work) = world.vm(3, "work");
    world.client("work");
    work.ask("vault", "demo.Add", 0);
    work.refused(0);
    daemon.logged("the daemon of vault: it does not run");
    work.ask("vault", "demo.Sub", 1);
    work.refused(1);
    daemon.logged("qrexec: demo.Sub+: work -> vault: denied");
    work.ask("$evil\x1b[31m", "demo.Add", 2);
    work.refused(2);
    // A daemon that says nothing but closes.
    let listener = UnixListener::bind(world.socket("vault")).unwrap();
    work.ask("vault", "demo.Add", 3);
    drop(listener.accept().unwrap());
    work.refused(3);
    daemon.logged("the daemon of vault: it closed the connection");
    assert!(daemon.log().bytes().all(|byte| byte == b'\n' || (0x20..0x7f).contains(&byte)));
}

pub(crate) fn to_dom0() {
    let world = World::new(ALLOW);
    world.script(
        "services/demo.Sum",
        "read a b; echo \"$QREXEC_REMOTE_DOMAIN $QREXEC_SERVICE_FULL_NAME $QREXEC_REQUESTED_TARGET_TYPE \
         $QREXEC_REQUESTED_TARGET $1 $((a + b))\"; echo to the log >&2; exit 3",
    );
    let (daemon, mut work) = world.vm(3, "work");
    world.client("work");
    for number in 0..3 {
        work.ask("dom0", "demo.Sum+x", number);
        let endpoint = work.connected(number);
        assert_eq!((endpoint.domain.0, u64::from(endpoint.port.0)), (0, 513 + number));
        let (output, code) = work.call_dom0(endpoint.port.0, b"1 2\n");
        assert_eq!(String::from_utf8_lossy(&output), "work demo.Sum+x name dom0 x 3\n");
        assert_eq!(code, 3);
        work.terminated(0, endpoint.port.0);
    }
    daemon.logged("to the log");
    let line = daemon.logged("exit code 3");
    for part in [
        "qrexec: demo.Sum+x: work -> dom0: allowed to dom0 by",
        ", ended after ",
        ", 4 bytes in, ",
        ", port 51",
    ] {
        assert!(line.contains(part), "{line}");
    }
}

/// A caller that was let in and never opens its end. That takes its five seconds, so only a full run does it.
pub(crate) fn to_dom0_and_nobody_comes() {
    if std::env::var_os("QREXEC_TEST_FULL").is_none() {
        println!("skipped: takes five seconds, QREXEC_TEST_FULL=1 runs it");
        return;
    }
    let world = World::new(ALLOW);
    let ran = world.path("ran");
    world.script("services/demo.Mark", &format!(": >{}", ran.display()));
    let (daemon, mut work) = world.vm(3, "work");
    world.client("work");
    let begun = Instant::now();
    work.ask("dom0", "demo.Mark", 1);
    let port = work.connected(1).port;
    daemon.logged("no vchan peer within 5s");
    let took = begun.elapsed().as_secs();
    assert!(took >= 5, "{took} s");
    daemon.logged(&format!("exit code 125, port {port}"));
    assert!(!ran.exists(), "it starts when its caller is there");
}

pub(crate) fn to_dom0_without_service() {
    let world = World::new(ALLOW);
    world.write("configs/demo.Broken", "nonsense\n");
    world.script("services/demo.Broken", "true");
    let (_daemon, mut work) = world.vm(3, "work");
    world.client("work");
    for (number, service, code) in [(0, "demo.None", 127), (1, "demo.Broken", 125)] {
        work.ask("dom0", service, number);
        let endpoint = work.connected(number);
        assert_eq!(work.call_dom0(endpoint.port.0, b""), (Vec::new(), code));
    }
}

pub(crate) fn to_a_socket_in_dom0() {
    let world = World::new(ALLOW);
    let listener = UnixListener::bind(world.path("services/demo.Socket")).unwrap();
    let (_daemon, mut work) = world.vm(3, "work");
    world.client("work");
    work.ask("@adminvm", "demo.Socket+x", 0);
    let port = work.connected(0).port.0;
    let service = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).unwrap();
        stream.write_all(b"answer").unwrap();
        said
    });
    assert_eq!(work.call_dom0(port, b"question"), (b"answer".to_vec(), 0));
    assert_eq!(service.join().unwrap(), b"demo.Socket+x work keyword adminvm\0question");
}

pub(crate) fn one_vm_has_not_all_of_dom0() {
    let world = World::new("* * work dom0 allow\n");
    world.script("services/demo.Add", "true");
    let agent = Agent::listen(&world, 3);
    let daemon = world.daemon_with(&["--max-services=2"], 3, "work");
    let mut work = agent.greeted();
    world.client("work");
    for number in 0..3 {
        work.ask("dom0", "demo.Add", number);
    }
    // Their services wait for data links that nobody serves.
    work.connected(0);
    work.connected(1);
    work.refused(2);
    daemon.logged("2 services run in dom0 already");
}
