//! The agent with a fork server.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};

use rustix::process::{Pid, Signal, kill_process};

use super::lab::{LIMIT, Lab, accept};

/// The socket of the fork server; the agent is given it with `%s`.
fn socket(lab: &Lab) -> String {
    format!("session.{}", lab.user)
}

fn lab() -> Lab {
    lab_with("session.%s")
}

/// A lab whose agent uses fork servers at this path.
fn lab_with(pattern: &'static str) -> Lab {
    let lab = Lab::start_with(|dir| {
        let mut option = std::ffi::OsString::from("--fork-server-socket=");
        option.push(dir.join(pattern));
        vec![option]
    });
    lab.service("test.Where", "echo ${SESSION-none} $QREXEC_REMOTE_DOMAIN $1; echo note >&2; exit 4");
    lab
}

fn server(lab: &Lab, socket: &str) -> Command {
    let mut command = lab.fork_server();
    command.arg(lab.path(socket)).env("SESSION", "mine").env("QREXEC_REMOTE_DOMAIN", "forged");
    command
}

/// A fork server that ends with the test.
struct Foreground(Child);

impl Foreground {
    fn start(lab: &Lab) -> Self {
        Self::start_at(lab, &socket(lab))
    }

    fn start_at(lab: &Lab, socket: &str) -> Self {
        let child = server(lab, socket).arg("--foreground").spawn().expect("fork server");
        lab.wait_for(socket, true);
        Self(child)
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn calls_run_in_the_session() {
    let lab = lab();
    let mut daemon = lab.daemon();
    let out = |daemon: &mut super::lab::Daemon, command: &str| {
        let answer = lab.call(daemon, 513, command, "");
        daemon.expect_end(513);
        (answer.out, answer.err, answer.code)
    };
    let said = |out: &str| (format!("{out}\n"), "note\n".to_owned(), Some(4));
    // There is no fork server yet: the call runs all the same.
    assert_eq!(out(&mut daemon, "QUBESRPC test.Where+a work"), said("none work a"));
    let _server = Foreground::start(&lab);
    assert_eq!(out(&mut daemon, "QUBESRPC test.Where+a work"), said("mine work a"));
    assert_eq!(out(&mut daemon, "nogui:QUBESRPC test.Where+ work"), said("none work"));
    assert_eq!(out(&mut daemon, "echo $SESSION").0, "mine\n");
    assert_eq!(out(&mut daemon, "QUBESRPC test.None+ work").2, Some(127));
    assert_eq!(lab.just(&mut daemon, 514, "QUBESRPC test.Where+ work"), 0);
    daemon.expect_end(514);
    // A setting that is only for sockets keeps a service out of the session.
    std::fs::write(lab.path("config").join("test.Where"), "exit-on-client-eof=true\n").expect("write");
    assert_eq!(out(&mut daemon, "QUBESRPC test.Where+a work"), said("none work a"));
}

/// A path without the user's name is that of one user, who may be any.
pub(crate) fn a_forced_user_gets_a_session_of_their_own() {
    for (pattern, session) in [("session", "none"), ("session.%s", "mine")] {
        let lab = lab_with(pattern);
        let mut daemon = lab.daemon();
        let _server = Foreground::start_at(&lab, &pattern.replace("%s", &lab.user));
        let mut where_is_it = || {
            let answer = lab.call(&mut daemon, 513, "QUBESRPC test.Where+a work", "");
            daemon.expect_end(513);
            answer.out
        };
        assert_eq!(where_is_it(), "mine work a\n");
        let config = format!("force-user='{}'\n", lab.user);
        std::fs::write(lab.path("config").join("test.Where"), config).expect("write");
        assert_eq!(where_is_it(), format!("{session} work a\n"), "{pattern}");
    }
}

pub(crate) fn it_ends_and_calls_go_on() {
    let lab = lab();
    lab.service(
        "test.Server",
        "read pid comm state ppid rest </proc/$QREXEC_AGENT_PID/stat; echo $ppid; exec cat",
    );
    let mut daemon = lab.daemon();
    // The fork server listens before the process that started it ends.
    assert_eq!(server(&lab, &socket(&lab)).status().expect("fork server").code(), Some(0));
    assert!(lab.path(&socket(&lab)).exists());
    let mut running = lab.begin(&mut daemon, 513, "QUBESRPC test.Server+ work");
    let pid = running.hear().trim().parse().ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, Signal::TERM).expect("kill");
    lab.wait_for(&socket(&lab), false);
    running.say("after\n");
    assert_eq!(running.hear(), "after\n");
    assert_eq!(running.finish().code, Some(0));
    daemon.expect_end(513);
}

/// If there are more calls than the server can queue, they wait for it, since they have to run in the session.
pub(crate) fn a_burst_stays_in_the_session() {
    let lab = lab();
    let mut daemon = lab.daemon();
    let (listener, first) = super::full_socket(&lab.path(&socket(&lab)));
    let _calls = [513, 514].map(|port| lab.ask(&mut daemon, port, "true"));
    drop((accept(&listener), first));
    let calls = [513, 514].map(|_| {
        let mut call = accept(&listener);
        let mut request = [0; 16];
        call.read_exact(&mut request).expect("read");
        (u32::from_ne_bytes(request[8..12].try_into().expect("four bytes")), call)
    });
    let mut ports = calls.each_ref().map(|(port, _)| *port);
    ports.sort_unstable();
    assert_eq!(ports, [513, 514]);
    // Other calls are served, and these continue.
    assert_eq!(lab.call(&mut daemon, 515, "nogui:echo now", "").out, "now\n");
    daemon.expect_end(515);
    // The server closes both connections, which ends both calls.
    drop(calls);
    let mut ended = [daemon.hear(), daemon.hear()].map(|message| format!("{message:?}"));
    ended.sort_unstable();
    assert!(ended[0].contains("513") && ended[1].contains("514"), "{ended:?}");
}

pub(crate) fn rubbish_costs_one_connection() {
    let lab = lab();
    let _server = Foreground::start(&lab);
    let ask = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(lab.path(&socket(&lab))).expect("connect");
        stream.set_read_timeout(Some(LIMIT)).expect("timeout");
        stream.write_all(bytes).expect("write");
        stream
    };
    let _silent = ask(&[]);
    let _half = ask(&[0, 2, 0]);
    for rubbish in [vec![0xff; 64], vec![0x11; 16], [&0x200_u32.to_ne_bytes()[..], &[0; 12]].concat()] {
        // The connection is closed with unread bytes: that is an end or a reset.
        assert!(matches!(ask(&rubbish).read(&mut [0; 9]), Ok(0) | Err(_)));
    }
    let mut daemon = lab.daemon();
    assert_eq!(lab.call(&mut daemon, 513, "QUBESRPC test.Where+ work", "").out, "mine work\n");
}
