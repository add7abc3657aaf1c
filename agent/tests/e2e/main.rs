//! The agent as a whole, over shared memory. This program is the agent too, because calls fork, which a test harness
//! with its threads must not do.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use lab::{Answer, Lab};
use rustix::process::Signal;
use wire::control::{Endpoint, Message, ServiceParams};
use wire::names::{DomainId, Ident, Port, ServiceName, Target};
use wire::trigger::Trigger;
use wire::version::Version;

mod fork_server;
mod lab;
mod multiplexer;
mod names;

/// First argument: be the agent.
const AS_AGENT: &str = "as-agent";
/// First argument: be a fork server.
const AS_FORK_SERVER: &str = "as-fork-server";
/// First argument: be the multiplexer.
const AS_MULTIPLEXER: &str = "as-multiplexer";

fn main() {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    if let Some(role) = args.get(1).and_then(|arg| arg.to_str()).and_then(role) {
        args.remove(1);
        std::process::exit(role(args));
    }
    let tests: [(&str, fn()); 20] = [
        ("a_service_runs", a_service_runs),
        ("a_service_may_use_one_socket", a_service_may_use_one_socket),
        ("what_cannot_be_started_says_why", what_cannot_be_started_says_why),
        ("just_exec_answers_at_once", just_exec_answers_at_once),
        ("who_serves_a_socket_late_is_waited_for", who_serves_a_socket_late_is_waited_for),
        ("the_first_call_wakes_the_memory_balancing", the_first_call_wakes_the_memory_balancing),
        ("requests_go_to_dom0_and_answers_come_back", requests_go_to_dom0_and_answers_come_back),
        ("daemons_of_every_version_are_served", daemons_of_every_version_are_served),
        ("a_lost_link_costs_only_who_waits", a_lost_link_costs_only_who_waits),
        ("calls_wait_for_the_session", calls_wait_for_the_session),
        ("the_socket_appears_after_the_hello", the_socket_appears_after_the_hello),
        ("the_agent_ends_and_calls_go_on", the_agent_ends_and_calls_go_on),
        ("calls_run_in_the_session", fork_server::calls_run_in_the_session),
        ("a_forced_user_gets_a_session_of_their_own", fork_server::a_forced_user_gets_a_session_of_their_own),
        ("the_fork_server_ends_and_calls_go_on", fork_server::it_ends_and_calls_go_on),
        ("a_burst_stays_in_the_session", fork_server::a_burst_stays_in_the_session),
        ("rubbish_costs_one_connection", fork_server::rubbish_costs_one_connection),
        ("the_multiplexer_runs_a_service", multiplexer::it_runs_a_service),
        ("every_byte_is_harmless_before_dom0_sees_it", names::every_byte_is_harmless_before_dom0_sees_it),
        ("an_id_with_any_other_byte_ends_the_request", names::an_id_with_any_other_byte_ends_the_request),
    ];
    for (name, test) in tests {
        test();
        println!("{name} ... ok");
    }
}

fn role(name: &str) -> Option<fn(Vec<OsString>) -> i32> {
    match name {
        AS_AGENT => Some(agent::main),
        AS_FORK_SERVER => Some(agent::fork_server::main),
        AS_MULTIPLEXER => Some(agent::multiplexer::main),
        _ => None,
    }
}

fn request(service: &str) -> Trigger {
    Trigger {
        source: None,
        target: Target::new("work").expect("name"),
        service: ServiceName::new(service).expect("name"),
        ident: Ident::new("SOCKET").expect("ident"),
    }
}

fn a_service_runs() {
    let lab = Lab::start();
    lab.service("test.Add", "read a b; echo $((a+b)) $QREXEC_REMOTE_DOMAIN $1; echo note >&2; exit 3");
    let mut daemon = lab.daemon();
    let answer = lab.call(&mut daemon, 513, "QUBESRPC test.Add+x work", "1 2\n");
    let expected = Answer { out: "3 work x\n".into(), err: "note\n".into(), code: Some(3) };
    assert_eq!(answer, expected);
    daemon.expect_end(513);
    let answer = lab.call(&mut daemon, 514, "nogui:cat; kill -TERM $$", "through\n");
    assert_eq!((answer.out.as_str(), answer.code), ("through\n", Some(143)));
    daemon.expect_end(514);
}

fn a_service_may_use_one_socket() {
    let lab = Lab::start();
    // First the old output, then everything through stdin; the old stdout ends before the agent may have noticed the
    // signal.
    lab.service(
        "test.One",
        "echo old; kill -USR1 $QREXEC_AGENT_PID; exec 1>&0; echo new; cat; kill -USR1 $QREXEC_AGENT_PID; exit 7",
    );
    let mut daemon = lab.daemon();
    for port in 513..533 {
        let answer = lab.call(&mut daemon, port, "QUBESRPC test.One+ work", "through\n");
        assert_eq!((answer.out.as_str(), answer.code), ("old\nnew\nthrough\n", Some(7)));
        daemon.expect_end(port);
    }
    // Also after its stdin has ended.
    lab.service("test.Late", "cat; kill -USR1 $QREXEC_AGENT_PID; echo late >&0");
    let answer = lab.call(&mut daemon, 533, "QUBESRPC test.Late+ work", "first\n");
    assert_eq!((answer.out.as_str(), answer.code), ("first\nlate\n", Some(0)));
}

fn what_cannot_be_started_says_why() {
    let lab = Lab::start();
    let mut daemon = lab.daemon();
    std::fs::write(lab.path("config").join("test.Bad"), "rubbish").expect("write");
    for (command, code) in
        [("QUBESRPC test.None+ work", 127), ("QUBESRPC test.Bad+ work", 125), ("QUBESRPC", 125)]
    {
        let answer = lab.call(&mut daemon, 513, command, "");
        assert_eq!(answer, Answer { out: String::new(), err: String::new(), code: Some(code) });
        daemon.expect_end(513);
    }
}

fn just_exec_answers_at_once() {
    let lab = Lab::start();
    let mut daemon = lab.daemon();
    let fifo = lab.path("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("fifo");
    lab.service("test.Slow", &format!("cat; echo ran >{}", fifo.display()));
    // It cannot have ended, since the FIFO has no reader yet.
    assert_eq!(lab.just(&mut daemon, 513, "QUBESRPC test.Slow+ dom0"), 0);
    daemon.expect_end(513);
    assert_eq!(std::fs::read_to_string(&fifo).expect("read"), "ran\n");
    assert_eq!(lab.just(&mut daemon, 514, "QUBESRPC test.None+ dom0"), 127);
    daemon.expect_end(514);
}

/// A socket with the shortest queue, which is full, so that connecting waits. Also returns the connection in the
/// queue.
fn full_socket(path: &std::path::Path) -> (UnixListener, UnixStream) {
    let listener = UnixListener::bind(path).expect("bind");
    rustix::net::listen(&listener, 0).expect("the shortest queue");
    let first = UnixStream::connect(path).expect("the only place");
    (listener, first)
}

fn who_serves_a_socket_late_is_waited_for() {
    let lab = Lab::start();
    let (listener, first) = full_socket(&lab.path("services").join("test.Late"));
    let mut daemon = lab.daemon();
    // The caller is sent HELLO, since otherwise it would give up.
    let mut caller = lab.begin(&mut daemon, 513, "QUBESRPC test.Late+ work");
    caller.say("in");
    drop((lab::accept(&listener), first));
    let mut service = lab::accept(&listener);
    let mut heard = [0; 18];
    service.read_exact(&mut heard).expect("read");
    assert_eq!(&heard, b"test.Late+ work\0in");
    service.write_all(b"out").expect("write");
    drop(service);
    assert_eq!(caller.finish(), Answer { out: "out".into(), err: String::new(), code: Some(0) });
    daemon.expect_end(513);
}

fn the_first_call_wakes_the_memory_balancing() {
    let lab = Lab::start();
    let mut daemon = lab.daemon();
    let writer = || {
        let limit = lab::LIMIT.as_secs().to_string();
        let writer = Command::new("sleep").arg(limit).spawn().expect("sleep");
        std::fs::write(lab.path("meminfo.pid"), format!("{}\n", writer.id())).expect("write");
        writer
    };
    assert_eq!(lab.call(&mut daemon, 513, "echo no file yet", "").code, Some(0));
    daemon.expect_end(513);
    let (mut first, code) = (writer(), lab.call(&mut daemon, 513, "exit 5", "").code);
    assert_eq!((first.wait().expect("wait").signal(), code), (Some(Signal::USR1.as_raw()), Some(5)));
    daemon.expect_end(513);
    // The signal is sent once.
    let (mut second, code) = (writer(), lab.call(&mut daemon, 513, "exit 6", "").code);
    second.kill().expect("kill");
    assert_eq!((second.wait().expect("wait").signal(), code), (Some(Signal::KILL.as_raw()), Some(6)));
}

fn requests_go_to_dom0_and_answers_come_back() {
    let lab = Lab::start();
    let mut daemon = lab.daemon();
    lab.wait_for_socket();
    let ask = |daemon: &mut lab::Daemon| {
        let mut program = lab.program();
        program.write_all(&request("test.Add+1").encode(Version::V4).expect("fits")).expect("write");
        match daemon.hear() {
            Some(Message::Trigger(asked)) => {
                assert_eq!(asked, Trigger { ident: asked.ident, ..request("test.Add+1") });
                (program, asked.ident)
            }
            other => panic!("{other:?}"),
        }
    };
    let (mut allowed, first) = ask(&mut daemon);
    let (mut refused, second) = ask(&mut daemon);
    assert_ne!(first, second);

    daemon.send(&Message::Refused(second));
    assert_eq!(refused.read(&mut [0; 9]).expect("read"), 0);
    let endpoint = Endpoint { domain: DomainId(9), port: Port(600) };
    daemon.send(&Message::ServiceConnect(ServiceParams { endpoint, ident: first }));
    let mut answer = [0; 8];
    allowed.read_exact(&mut answer).expect("read");
    assert_eq!(Endpoint::from_bytes(answer), endpoint);
    drop(allowed);
    assert_eq!(daemon.hear(), Some(Message::ConnectionTerminated(endpoint)));

    // Nonsense costs the program its connection, and nobody else anything.
    let mut rubbish = lab.program();
    rubbish.write_all(&[0x11; 200]).expect("write");
    // Closed with bytes unread: an end or a reset.
    assert!(matches!(rubbish.read(&mut [0; 9]), Ok(0) | Err(_)));
    let (_program, third) = ask(&mut daemon);
    assert_ne!(first, third);
}

fn daemons_of_every_version_are_served() {
    for (version, form) in [(Version::V2, 0x210), (Version::V3, 0x212), (Version::V4, 0x213)] {
        // Its socket appears after the HELLO of its first daemon.
        let lab = Lab::start();
        let mut daemon = lab.daemon_of(version);
        lab.wait_for_socket();
        // What programs say is of their own age; what the agent says is of the link's.
        let mut program = lab.program();
        program.write_all(&request("test.Add+1").encode(Version::V4).expect("fits")).expect("write");
        let frame = daemon.hear_frame().expect("a request");
        assert_eq!(frame.ty, form);
        let ident = match Message::decode(frame.ty, &frame.body) {
            Ok(Message::Trigger(asked)) => {
                assert_eq!(asked, Trigger { ident: asked.ident, ..request("test.Add+1") });
                asked.ident
            }
            other => panic!("{other:?}"),
        };
        daemon.send(&Message::Refused(ident));
        assert_eq!(program.read(&mut [0; 9]).expect("read"), 0);
        let answer = lab.call(&mut daemon, 513, "cat; exit 4", "through\n");
        assert_eq!((answer.out.as_str(), answer.code), ("through\n", Some(4)));
        daemon.expect_end(513);
    }
}

fn a_lost_link_costs_only_who_waits() {
    let lab = Lab::start();
    lab.service("test.Echo", "exec cat");
    let mut daemon = lab.daemon();
    lab.wait_for_socket();
    let mut running = lab.begin(&mut daemon, 513, "QUBESRPC test.Echo+ work");
    running.say("before\n");
    assert_eq!(running.hear(), "before\n");
    let mut waiting = lab.program();
    waiting.write_all(&request("test.Add").encode(Version::V4).expect("fits")).expect("write");
    assert!(matches!(daemon.hear(), Some(Message::Trigger(_))));

    drop(daemon);
    assert_eq!(waiting.read(&mut [0; 9]).expect("read"), 0);
    let mut daemon = lab.daemon();
    running.say("after\n");
    assert_eq!(running.hear(), "after\n");
    assert_eq!(running.finish().code, Some(0));

    // The end of that call was not for this daemon; the next one's is. A breach is like any loss.
    lab.call(&mut daemon, 514, "true", "");
    daemon.expect_end(514);
    daemon.send(&Message::Hello(4));
    assert_eq!(daemon.hear(), None);
    let mut daemon = lab.daemon();
    daemon.send_raw([0xff; 64].to_vec());
    assert_eq!(daemon.hear(), None);
    let mut daemon = lab.daemon();
    assert_eq!(lab.call(&mut daemon, 515, "exit 5", "").code, Some(5));
}

fn calls_wait_for_the_session() {
    let lab = Lab::start();
    let (start, went) = (lab.path("start"), lab.path("went"));
    rustix::fs::mknodat(rustix::fs::CWD, &start, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("fifo");
    let wait = format!("read user; echo $user >{}; read go <{}; exit 1", went.display(), start.display());
    lab.service("qubes.WaitForSession", &wait);
    lab.service("test.Gui", &format!("cat {}", went.display()));
    std::fs::write(lab.path("config").join("test.Gui"), "wait-for-session=true\n").expect("write");
    let mut daemon = lab.daemon();
    std::thread::scope(|threads| {
        let calls = [513, 514].map(|port| lab.ask(&mut daemon, port, "QUBESRPC test.Gui+ work"));
        // A call that does not wait overtakes those that do.
        assert_eq!(lab.call(&mut daemon, 515, "echo now", "").out, "now\n");
        daemon.expect_end(515);
        threads.spawn(|| std::fs::write(&start, "go\n").expect("write"));
        for call in calls {
            let answer = call.accept().finish();
            assert_eq!((answer.out, answer.code), (format!("{}\n", lab.user), Some(0)));
        }
    });
}

fn the_socket_appears_after_the_hello() {
    use std::os::unix::fs::PermissionsExt;
    let lab = Lab::start();
    // The agent has spoken first, and nobody has answered.
    let mut daemon = lab.met();
    assert!(!lab.path("agent").exists(), "nobody can be asked yet");
    daemon.send_raw(wire::handshake::hello(Version::V4).to_vec());
    lab.wait_for_socket();
    let mode = std::fs::metadata(lab.path("agent")).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o777);
}

fn the_agent_ends_and_calls_go_on() {
    let mut lab = Lab::start();
    lab.service("test.Echo", "exec cat");
    let mut daemon = lab.daemon();
    lab.wait_for_socket();
    let mut running = lab.begin(&mut daemon, 513, "QUBESRPC test.Echo+ work");
    running.say("before\n");
    assert_eq!(running.hear(), "before\n");
    assert_eq!(lab.end(), Some(0));
    assert!(!lab.path("agent").exists());
    // The call's process holds nothing of the agent's: its end is seen at once.
    assert_eq!(daemon.hear(), None);
    running.say("after\n");
    assert_eq!(running.hear(), "after\n");
    assert_eq!(running.finish().code, Some(0));
}
