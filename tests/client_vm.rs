//! `qrexec-client-vm` alone: what it asks for, and what it carries. How its calls end is in `client_vm_ends.rs`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::common::caller::{Caller, text};
use wire::stream::Kind as Stream;

#[test]
fn data_both_ways_and_the_services_code() {
    let mut caller = Caller::start(&["--prefix-data=<", "-s", "orig", "$default", "test.Echo+x"]);
    caller.child.stdin.take().unwrap().write_all(b"hello").unwrap();
    let (mut service, _agent) = caller.allow();
    assert_eq!(service.hear(), b"<hello");
    service.say(Stream::Stdout, b"out \x1b[0m\n");
    service.say(Stream::Stderr, b"err\n");
    service.end(7);
    let output = caller.output();
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out \x1b[0m\n"[..], &b"err\n"[..]));
}

#[test]
fn the_prefix_is_sent_at_once() {
    for option in [&["-p", "first"][..], &["--prefix-data", "first"], &["--prefix-data=first"]] {
        let mut caller = Caller::start(&[option, &["a", "b"]].concat());
        let mut stdin = caller.child.stdin.take().unwrap();
        let (mut service, _agent) = caller.allow();
        // Nothing has come from stdin, and nothing says that something will.
        assert_eq!(service.hear_chunk(), b"first", "{option:?}");
        stdin.write_all(b"rest").unwrap();
        assert_eq!(service.hear_chunk(), b"rest");
        drop(stdin);
        assert_eq!(service.hear(), b"");
        service.end(0);
        assert_eq!(caller.output().status.code(), Some(0));
    }
}

#[test]
fn the_agents_socket_may_be_named() {
    // The option comes before the variable.
    let caller = Caller::start_with(&["--agent-socket=agent", "a", "b"], |command| {
        command.env("QREXEC_AGENT_SOCKET", "/nonexistent/agent")
    });
    let (request, agent) = caller.request();
    assert_eq!((request.target.as_str(), request.service.as_str()), ("a", "b"));
    drop(agent);
    assert_eq!(caller.output().status.code(), Some(126));
}

#[test]
fn the_request_says_what_was_asked_for() {
    let caller = Caller::start(&["-s", "orig", "$dispvm:a", "test.X+y z"]);
    let (request, agent) = caller.request();
    assert_eq!(request.source.unwrap().as_str(), "orig");
    assert_eq!(request.target.as_str(), "@dispvm:a");
    assert_eq!(request.service.as_str(), "test.X+y_z");
    assert_eq!(request.ident.as_str(), "SOCKET");
    drop(agent);
    let output = caller.output();
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), said.lines().count()), (Some(126), 2), "{said}");
    assert!(said.contains("dom0's log has the reason") && said.ends_with("\nRequest refused\n"), "{said}");
}

#[test]
fn terminal_filters_on_demand() {
    let caller = Caller::start(&["-t", "-T", "a", "b"]);
    let (mut service, _agent) = caller.allow();
    service.say(Stream::Stdout, b"o\x1b\xffo\n");
    service.say(Stream::Stderr, b"e\x1b\n");
    service.end(0);
    let output = caller.output();
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("o__o\n", "e_\n"));
}

#[test]
fn a_program_talks_to_the_service_and_finds_the_callers_streams() {
    let script = "echo to-service; read answer; echo \"got $answer\" >&$SAVED_FD_1; read line <&$SAVED_FD_0; \
                  echo \"$line ${SAVED_FD_2-none}\" >&$SAVED_FD_1";
    let mut caller = Caller::start(&["a", "b", "/bin/sh", "-c", script]);
    caller.child.stdin.take().unwrap().write_all(b"from-caller\n").unwrap();
    let (mut service, _agent) = caller.allow();
    service.say(Stream::Stdout, b"from-service\n");
    assert_eq!(service.hear(), b"to-service\n");
    service.end(0);
    let output = caller.output();
    assert_eq!(text(&output.stdout), "got from-service\nfrom-caller none\n");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn a_program_starts_only_after_the_call_was_allowed() {
    let caller = Caller::start(&["a", "b", "/bin/sh", "-c", ": > ran"]);
    let (_, agent) = caller.request();
    assert!(!caller.path("ran").exists());
    drop(agent);
    let ran = caller.path("ran");
    let folder = caller.folder.path().to_owned();
    let output = caller.output();
    assert_eq!(output.status.code(), Some(126));
    assert!(!ran.exists() && !folder.join("ran").exists());
}

#[test]
fn a_program_is_not_searched_for() {
    for (program, status) in [("true", 127), ("/nonexistent", 127), ("/etc/passwd", 125)] {
        let caller = Caller::start(&["a", "b", program]);
        let output = caller.output();
        assert_eq!(output.status.code(), Some(status), "{program}: {}", text(&output.stderr));
    }
}

#[test]
fn pass_local_stderr_saves_a_third_stream() {
    let caller = Caller::start_with(&["a", "b", "/bin/sh", "-c", "echo saved >&$SAVED_FD_2"], |command| {
        command.env("PASS_LOCAL_STDERR", "1")
    });
    let (mut service, _agent) = caller.allow();
    service.end(0);
    assert_eq!(text(&caller.output().stderr), "saved\n");
}

#[test]
fn one_socket_for_both_directions() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let caller = Caller::start_with(&["--use-stdin-socket", "a", "b"], move |command| {
        command.stdin(std::os::fd::OwnedFd::from(theirs.try_clone().unwrap()))
    });
    let (mut service, _agent) = caller.allow();
    (&ours).write_all(b"up").unwrap();
    ours.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(service.hear(), b"up");
    service.say(Stream::Stdout, b"down");
    service.end(0);
    let mut down = [0; 4];
    (&ours).read_exact(&mut down).unwrap();
    let output = caller.output();
    assert_eq!((&down, output.stdout.len(), output.status.code()), (b"down", 0, Some(0)));
}

#[test]
fn usage_errors_are_one_line() {
    for (args, status) in [
        (&["a"][..], 2),
        (&["--bogus", "a", "b"], 2),
        (&["--buffer-size=x", "a", "b"], 2),
        (&["--buffer-size=2M", "a", "b"], 125),
        (&["--use-stdin-socket", "a", "b"], 2),
    ] {
        let output = Caller::start(args).output();
        assert_eq!(output.status.code(), Some(status), "{args:?}");
        assert_eq!(text(&output.stderr).lines().count(), 1, "{}", text(&output.stderr));
    }
    let output = Caller::start(&["--help"]).output();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}

#[test]
fn without_an_agent_there_is_trouble() {
    let caller =
        Caller::start_with(&["a", "b"], |command| command.env("QREXEC_AGENT_SOCKET", "/nonexistent/agent"));
    assert_eq!(caller.output().status.code(), Some(125));
}

/// A pump follows its local program from processor to processor by a file of `/proc`. Not one that has handed its socket to
/// somebody else and only waits.
#[test]
fn a_call_that_became_one_socket_follows_nobody() {
    for (asks, follows) in [("kill -USR1 $QREXEC_AGENT_PID; ", false), ("", true)] {
        let script = format!("{asks}exec 1>&-; read answer; test \"$answer\" = answer");
        let caller = Caller::start(&["a", "b", "/bin/sh", "-c", &script]);
        let (mut service, _agent) = caller.allow();
        if !asks.is_empty() {
            // Its end is that of the socket, and comes after it has been taken.
            service.say(Stream::Stdout, b"answer\n");
        }
        assert!(service.hear().is_empty());
        let fds = std::fs::read_dir(format!("/proc/{}/fd", caller.child.id())).unwrap();
        let links = fds.flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok());
        let stats = links.filter(|link| link.starts_with("/proc") && link.ends_with("stat")).count();
        assert_eq!(stats > 0, follows, "{asks}");
        if asks.is_empty() {
            service.say(Stream::Stdout, b"answer\n");
        }
        service.end(0);
        let output = caller.output();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
}

#[test]
fn asking_for_one_socket_does_not_end_the_call() {
    let script = "echo old; kill -USR1 $QREXEC_AGENT_PID; exec 1>&-; echo new >&0; read answer; \
                  kill -USR1 $QREXEC_AGENT_PID; echo \"got $answer\" >&0";
    let caller = Caller::start(&["a", "b", "/bin/sh", "-c", script]);
    let (mut service, _agent) = caller.allow();
    service.say(Stream::Stdout, b"answer\n");
    assert_eq!(text(&service.hear()), "old\nnew\ngot answer\n");
    service.end(0);
    let output = caller.output();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}
