//! Who decides.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use wire::control::{Endpoint, Message, ServiceParams};
use wire::names::{DomainId, Ident, Port};

use crate::agent::Agent;
use crate::world::{Daemon, PATIENCE, World, eventually};

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

/// A policy program of R3 to R4.2.4: it wants five words, makes the call itself and ends with 0, or refuses with 1. Asked
/// in another way it ends with this status. What it was told is in the file `asked`; it ends when the FIFO of its request,
/// `end.SOCKET7`, is opened, with what is written there.
fn of_old(world: &World, otherwise: i32) -> std::path::PathBuf {
    let (asked, end) = (world.path("asked"), world.path("end"));
    for number in OF_OLD {
        let end = end_of(world, number);
        rustix::fs::mkfifoat(rustix::fs::CWD, &end, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    }
    let script = format!(
        "[ $# = 6 ] || exit {otherwise}\n\
         [ $5 = demo.No ] && exit 1\n\
         echo \"$@\" > {asked}.new; mv {asked}.new {asked}\n\
         read status < {end}.$6; exit $status",
        asked = asked.display(),
        end = end.display()
    );
    world.script("policy-program", &script)
}

/// The requests that such a program waits with.
const OF_OLD: [u64; 3] = [7, 9, 10];

/// What tells it to end.
fn end_of(world: &World, number: u64) -> std::path::PathBuf {
    world.path(&format!("end.SOCKET{number}"))
}

/// What `qrexec-client -c` says to the source's daemon.
fn take_over(world: &World, number: u64) {
    let endpoint = Endpoint { domain: DomainId(9), port: Port(600) };
    let params = ServiceParams { endpoint, ident: Ident::numbered(number) };
    world.client("work").send(&Message::ServiceConnect(params));
}

pub(crate) fn a_program_of_old_makes_the_call_itself() {
    for otherwise in [1, 2] {
        let world = World::new("");
        let program = of_old(&world, otherwise);
        let (mut daemon, mut work) = vm_with(&world, &program);
        let asked = |words: &str| {
            eventually("the question", || world.path("asked").exists());
            assert_eq!(std::fs::read_to_string(world.path("asked")).unwrap(), format!("-- {words}\n"));
            std::fs::remove_file(world.path("asked")).unwrap();
        };
        // The call is made before the program ends, and with it if the call is one to dom0 or to a disposable.
        work.ask("vault", "demo.Add+1", 7);
        asked("3 work vault demo.Add+1 SOCKET7");
        take_over(&world, 7);
        assert_eq!(work.connected(7), Endpoint { domain: DomainId(9), port: Port(600) });
        // Others need not wait for that.
        work.ask("vault", "demo.No", 8);
        work.refused(8);
        // It is not killed: what it has made for the call it removes itself.
        std::fs::write(end_of(&world, 7), "0\n").unwrap();
        // It ends before its client has come.
        work.ask("vault", "demo.Add", 9);
        asked("3 work vault demo.Add SOCKET9");
        std::fs::write(end_of(&world, 9), "0\n").unwrap();
        take_over(&world, 9);
        work.connected(9);
        // It ends with a failure.
        work.ask("vault", "demo.Add", 10);
        asked("3 work vault demo.Add SOCKET10");
        std::fs::write(end_of(&world, 10), "3\n").unwrap();
        work.refused(10);
        daemon.logged("denied: by the policy program, which ended with 3");
        assert!(daemon.runs());
    }
}

pub(crate) fn a_policy_daemon_of_old_is_told_the_ids() {
    let world = World::new("");
    let listener = UnixListener::bind(world.path("policy.sock")).unwrap();
    let agent = Agent::listen(&world, 3);
    let program = world.script("policy-program", "exit 9");
    let mut command = world.command(&["-D", "-p", program.to_str().unwrap(), "3", "work"]);
    command.env("QREXEC_POLICY_SOCKET", world.path("policy.sock"));
    let _daemon = world.spawn(command, "work");
    let mut work = agent.greeted();
    let ids = |number: u64| format!("domain_id=3\nprocess_ident=SOCKET{number}\n");
    let words = "source=work\nintended_target=vault\nservice_and_arg=demo.Add\n\n";
    // Nothing is known of it yet, and it hangs up on a question that it finds incomplete.
    work.ask("vault", "demo.Add", 1);
    assert_eq!(request(&listener).0, words);
    let (asked, mut answer) = request(&listener);
    assert_eq!(asked, ids(1) + words);
    answer.write_all(b"result=allow\n").unwrap();
    drop(answer);
    take_over(&world, 1);
    work.connected(1);
    // From its first verdict on it is asked in its own form at once. This time the call is there before the word.
    work.ask("vault", "demo.Add", 2);
    let (asked, answer) = request(&listener);
    assert_eq!(asked, ids(2) + words);
    take_over(&world, 2);
    work.connected(2);
    drop(answer);
    work.ask("vault", "demo.Add", 3);
    let (asked, mut answer) = request(&listener);
    assert_eq!(asked, ids(3) + words);
    answer.write_all(b"result=deny\n").unwrap();
    drop(answer);
    work.refused(3);
    // It has been replaced by a newer one, which does not know these words.
    work.ask("vault", "demo.Add", 4);
    drop(request(&listener));
    let (asked, mut answer) = request(&listener);
    assert_eq!(asked, words);
    answer.write_all(b"result=deny\n").unwrap();
    drop(answer);
    work.refused(4);
}

/// The caller names its own VM, or its UUID: nothing that a program would have to be told.
pub(crate) fn a_program_need_not_be_told_of_a_source_that_is_the_caller_itself() {
    let world = World::new("");
    let answer = "user=root\\nresult=allow\\ntarget=dom0\\nautostart=True\\nrequested_target=dom0";
    let script = format!("[ $# = 4 ] && printf '{answer}'");
    let agent = Agent::listen(&world, 3);
    let program = world.script("policy-program", &script);
    let daemon = world.daemon_with(&["-p", program.to_str().unwrap(), "-u", "aa-11"], 3, "work");
    let mut work = agent.greeted();
    world.client("work");
    world.script("services/demo.Add", "true");
    for (number, source) in [(1, "work"), (2, "uuid:aa-11"), (3, "uuid:AA-11")] {
        work.ask_for(source, "dom0", "demo.Add", number);
        work.connected(number);
    }
    work.ask_for("uuid:aa-12", "dom0", "demo.Add", 4);
    work.refused(4);
    daemon.logged("cannot be told of the requested source uuid:aa-12");
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

/// The next question that a policy daemon is asked, and where its answer goes.
fn request(listener: &UnixListener) -> (String, UnixStream) {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"\n\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        request.extend_from_slice(&byte);
    }
    (String::from_utf8(request).unwrap(), stream)
}

/// A policy daemon that answers one question.
fn answering(world: &World, answer: &'static str) -> std::thread::JoinHandle<String> {
    let listener = UnixListener::bind(world.path("policy.sock")).unwrap();
    std::thread::spawn(move || {
        let (request, mut stream) = request(&listener);
        stream.write_all(answer.as_bytes()).unwrap();
        request
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
