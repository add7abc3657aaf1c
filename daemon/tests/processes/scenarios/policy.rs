//! Who decides.

use std::io::{Read, Write};
use std::path::Path;

use crate::agent::Agent;
use crate::world::{Daemon, World, eventually};

pub(crate) fn edits_count_at_once() {
    let world = World::new("demo.Add * work dom0 allow\n");
    let (_daemon, mut work) = world.vm(3, "work");
    world.client("work");
    for number in 0..20 {
        world.write("policy/30-test.policy", "demo.Add * work dom0 allow\n");
        work.ask("dom0", "demo.Add", number);
        work.connected(number);
        world.write("policy/30-test.policy", "demo.Add * work dom0 deny\n");
        work.ask("dom0", "demo.Add", number);
        work.refused(number);
    }
}

fn vm_with(world: &World, program: &Path) -> (Daemon, Agent) {
    let agent = Agent::listen(world, 3);
    let daemon = world.daemon_with(&["-p", program.to_str().unwrap()], 3, "work");
    let agent = agent.greeted();
    world.client("work");
    (daemon, agent)
}

pub(crate) fn a_program_decides() {
    let world = World::new("");
    let program = world.script(
        "policy-program",
        "[ \"$1 $2\" = '-- work' ] || exit 9\n\
         [ \"$3 $4\" = 'vault demo.Add+1' ] || { echo result=deny; exit; }\n\
         printf 'user=root\\nresult=allow\\ntarget=vault\\nautostart=True\\nrequested_target=vault\\ncolour=red'",
    );
    let (daemon, mut work) = vm_with(&world, &program);
    let (_vault_daemon, mut vault) = world.vm(9, "vault");
    world.client("vault");
    work.ask("vault", "demo.Add+1", 0);
    assert_eq!(vault.exec().0, "root:QUBESRPC demo.Add+1 work");
    work.connected(0);
    daemon.logged("unknown key colour");
    work.ask("vault", "demo.Add+2", 1);
    work.refused(1);
    daemon.logged("denied: by the policy program");
}

pub(crate) fn a_program_that_misbehaves_refuses() {
    let allow = "printf 'user=root\\nresult=allow\\ntarget=dom0\\nautostart=True\\nrequested_target=dom0'";
    let endless = "while :; do echo result=deny; done";
    let cases = [
        ("exit 1", "ended with 1"),
        ("kill -9 $$", "ended with 137"),
        ("true", "empty"),
        ("printf 'result=allow'", "user is missing"),
        (&format!("{allow}; exit 1"), "ended with 1"),
        (&format!("{allow}; printf '\\nresult=allow'"), "there twice"),
        (&format!("{allow}; printf '\\0'"), "not plain text"),
        (endless, "4096 bytes or more"),
    ];
    for (script, reason) in cases {
        let world = World::new("");
        let (daemon, mut work) = vm_with(&world, &world.script("policy-program", script));
        work.ask("dom0", "demo.Add", 0);
        work.refused(0);
        daemon.logged(reason);
    }
    let world = World::new("");
    let (_daemon, mut work) = vm_with(&world, &world.path("not-there"));
    work.ask("dom0", "demo.Add", 0);
    work.refused(0);
}

/// What it would decide is whether the relay itself may call.
pub(crate) fn a_program_that_cannot_be_told_of_a_requested_source_is_not_asked() {
    let world = World::new("");
    let allow = "user=root\\nresult=allow\\ntarget=dom0\\nautostart=True\\nrequested_target=dom0";
    let (daemon, mut work) = vm_with(&world, &world.script("policy-program", &format!("printf '{allow}'")));
    world.script("services/demo.Add", "true");
    work.ask_for("far", "dom0", "demo.Add", 0);
    work.refused(0);
    daemon.logged("cannot be told of the requested source far");
    work.ask("dom0", "demo.Add", 1);
    work.connected(1);
}

pub(crate) fn a_slow_program_holds_nobody_up() {
    let world = World::new("");
    let pids = world.path("pids");
    let script = format!(
        "if [ \"$4\" = demo.Slow ]; then echo $$ >> {}; exec sleep 1000; fi; echo result=deny",
        pids.display()
    );
    let (mut daemon, mut work) = vm_with(&world, &world.script("policy-program", &script));
    let running = || {
        let pids = std::fs::read_to_string(&pids).unwrap_or_default();
        pids.lines().filter(|pid| Path::new("/proc").join(pid).exists()).count()
    };
    for number in 0..10 {
        work.ask("dom0", "demo.Slow", number);
    }
    eventually("the slow programs", || running() == 10);
    for number in 10..20 {
        work.ask("dom0", "demo.Fast", number);
        work.refused(number);
    }
    // The caller goes, and with it the questions.
    drop(work);
    eventually("no slow program left", || running() == 0);
    let mut work = Agent::listen(&world, 3).greeted();
    world.client("work");
    work.ask("dom0", "demo.Fast", 1);
    work.refused(1);
    assert!(daemon.runs());
}

/// A policy daemon that gives every question the same answer.
fn answering(world: &World, answer: &'static str) -> std::thread::JoinHandle<String> {
    let listener = std::os::unix::net::UnixListener::bind(world.path("policy.sock")).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\n\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.extend_from_slice(&byte);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    })
}

pub(crate) fn the_policy_daemon_decides_first() {
    let world = World::new("demo.Add * work dom0 deny\n");
    world.script("services/demo.Add", "true");
    let agent = Agent::listen(&world, 3);
    let program = world.script("policy-program", "echo result=deny");
    let mut command = world.command(&["-D", "-p", program.to_str().unwrap(), "3", "work"]);
    command.env("QREXEC_POLICY_SOCKET", world.path("policy.sock"));
    let daemon = world.spawn(command, "work");
    let mut work = agent.greeted();
    world.client("work");
    work.ask("dom0", "demo.Add", 0);
    work.refused(0);
    daemon.logged("the policy daemon: ");
    let allow = "user=DEFAULT\nresult=allow\ntarget=dom0\nautostart=True\nrequested_target=dom0";
    let asked = answering(&world, allow);
    work.ask("dom0", "demo.Add", 1);
    work.connected(1);
    assert_eq!(asked.join().unwrap(), "source=work\nintended_target=dom0\nservice_and_arg=demo.Add\n\n");
    for nonsense in ["", "result=allow", "result=allow\nresult=allow", "hello\0"] {
        std::fs::remove_file(world.path("policy.sock")).unwrap();
        let asked = answering(&world, nonsense);
        work.ask("dom0", "demo.Add", 2);
        work.refused(2);
        asked.join().unwrap();
    }
    daemon.logged("asking the policy program");
    daemon.logged("denied: by the policy program");
    // An answer that is understood is the answer: the program might ask the user once more.
    world.script(
        "policy-program",
        &format!("echo asked >> {}; echo result=deny", world.path("asked").display()),
    );
    std::fs::remove_file(world.path("policy.sock")).unwrap();
    let asked = answering(
        &world,
        "user=root:nogui\nresult=allow\ntarget=dom0\nautostart=True\nrequested_target=dom0",
    );
    work.ask("dom0", "demo.Add", 3);
    work.refused(3);
    asked.join().unwrap();
    daemon.logged("denied: allowed by the policy program, but user is a name that cannot be used");
    assert!(!world.path("asked").exists());
}
