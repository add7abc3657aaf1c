//! `qrexec-client-vm` alone: how its calls end.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::common::caller::{Caller, Service, text};
use wire::header::{Header, ty};
use wire::stream::Kind as Stream;

#[test]
fn a_lost_link_is_no_success() {
    let caller = Caller::start(&["a", "b"]);
    let (mut service, _agent) = caller.allow();
    service.say(Stream::Stdout, b"half");
    drop(service);
    let output = caller.output();
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(255), "half"));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("lost") && stderr.lines().count() == 1, "{stderr}");
}

#[test]
fn a_peer_that_breaks_the_protocol_is_lost() {
    let caller = Caller::start(&["a", "b"]);
    let (mut service, _agent) = caller.allow();
    service.raw(&Header::new(ty::DATA_STDOUT, 65_537).to_bytes());
    let output = caller.output();
    assert_eq!(output.status.code(), Some(255), "{}", text(&output.stderr));
}

#[test]
fn odd_exit_codes_are_failures() {
    for (body, status) in
        [(&[0, 1, 0, 0][..], 255), (&[0xff; 4][..], 255), (&[0, 0][..], 255), (&[5, 0, 0, 0, 9][..], 5)]
    {
        let caller = Caller::start(&["a", "b"]);
        let (mut service, _agent) = caller.allow();
        service.raw(&Header::new(ty::DATA_STDOUT, 0).to_bytes());
        service.raw(&Header::new(ty::DATA_EXIT_CODE, body.len() as u32).to_bytes());
        service.raw(body);
        let output = caller.output();
        assert_eq!(output.status.code(), Some(status), "{body:?}: {}", text(&output.stderr));
    }
}

#[test]
fn neither_failure_is_lost() {
    for (program, code, status) in
        [("exit 0", 4, 4), ("exit 3", 4, 4), ("exit 3", 0, 3), ("kill -9 $$", 0, 137)]
    {
        let caller = Caller::start(&["a", "b", "/bin/sh", "-c", program]);
        let (mut service, _agent) = caller.allow();
        service.end(code);
        let output = caller.output();
        assert_eq!(output.status.code(), Some(status), "{program}, {code}: {}", text(&output.stderr));
    }
}

#[test]
fn a_read_error_on_stdin_fails_the_call() {
    // Every read of it fails, as of a file on a broken disk.
    let broken = || std::fs::File::open("/proc/self/mem").unwrap();
    let caller = Caller::start_with(&["a", "b"], |command| command.stdin(broken()));
    let (mut service, _agent) = caller.allow();
    let output = caller.output();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{stderr}");
    assert!(stderr.contains("Input/output error") && stderr.lines().count() == 1, "{stderr}");
    // The service does not take what came for all that there is.
    assert_eq!(service.channel.read(&mut [0; 64]).unwrap(), 0);
}

#[test]
fn what_a_closed_stdout_does_not_take_is_missed() {
    for status in [125, 0] {
        let caller = Caller::start_by_shell(">&-", &["a", "b"]);
        let (mut service, _agent) = caller.allow();
        if status == 0 {
            service.end(0)
        } else {
            service.say(Stream::Stdout, b"precious")
        }
        let output = caller.output();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{stderr}");
        assert_eq!(stderr.lines().count(), usize::from(status != 0), "{stderr}");
    }
}

/// A caller whose stdout nobody reads any more.
fn unread_caller() -> (Caller, Option<std::process::ChildStdin>, Service, UnixStream) {
    let mut caller = Caller::start(&["a", "b"]);
    let stdin = caller.child.stdin.take();
    drop(caller.child.stdout.take());
    let (service, agent) = caller.allow();
    (caller, stdin, service, agent)
}

#[test]
fn when_the_only_reader_is_gone_the_call_ends() {
    // A service that says nothing, and does not end either, to a caller who has nothing more to say.
    let (caller, stdin, _service, _agent) = unread_caller();
    drop(stdin);
    let output = caller.output();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(141), ""));

    // One that speaks, and may never end.
    let (caller, stdin, mut service, _agent) = unread_caller();
    service.say_for_ever();
    let output = caller.output();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(141), ""));
    drop(stdin);

    // One that ends is waited for, whether there is more to send or not: nothing is lost.
    for stays in [false, true] {
        let (caller, stdin, mut service, _agent) = unread_caller();
        let _stdin = stdin.filter(|_| stays);
        service.end(4);
        assert_eq!(caller.output().status.code(), Some(4));
    }
}

#[test]
fn a_program_that_has_ended_does_not_keep_an_endless_service() {
    for (program, status) in [("read line", 141), ("read line; exit 3", 3)] {
        let caller = Caller::start(&["a", "b", "/bin/sh", "-c", program]);
        let (mut service, _agent) = caller.allow();
        service.say(Stream::Stdout, b"a line\n");
        service.say_for_ever();
        assert_eq!(caller.output().status.code(), Some(status), "{program}");
    }
    // A little that it leaves unread is its own affair.
    let caller = Caller::start(&["a", "b", "/bin/sh", "-c", "exec <&- >&-"]);
    let (mut service, _agent) = caller.allow();
    assert_eq!(service.hear(), b"");
    service.say(Stream::Stdout, &[b'.'; 60_000]);
    service.end(0);
    assert_eq!(caller.output().status.code(), Some(0));
}

/// Whoever cannot deliver what the service sends looks first whether its exit code is there already.
#[test]
fn an_exit_code_that_has_come_counts_though_nobody_reads() {
    for (code, status) in [(4, 4), (0, 141)] {
        let (caller, _stdin, mut service, _agent) = unread_caller();
        caller.pause();
        service.say(Stream::Stdout, b"for nobody");
        service.end(code);
        caller.goes_on();
        let output = caller.output();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(status), ""), "{code}");
    }
    for (code, status) in [(4, 4), (0, 125)] {
        let caller = Caller::start_by_shell(">&-", &["a", "b"]);
        let (mut service, _agent) = caller.allow();
        caller.pause();
        service.say(Stream::Stdout, b"precious");
        service.end(code);
        caller.goes_on();
        let output = caller.output();
        assert_eq!(output.status.code(), Some(status), "{code}: {}", text(&output.stderr));
    }
}

/// An agent of ours says so when nobody will come. What it says while the call runs, or that it goes away, means nothing.
#[test]
fn a_service_that_will_not_come_is_not_waited_for() {
    let caller = Caller::start(&["a", "b"]);
    let mut agent = caller.allow_alone();
    let begun = Instant::now();
    agent.write_all(&[0; 8]).unwrap();
    let output = caller.output();
    let stderr = text(&output.stderr);
    assert!(output.status.code() == Some(125) && stderr.contains("can't come"), "{stderr}");
    assert!(begun.elapsed() < Duration::from_secs(20), "after {:?}", begun.elapsed());

    let caller = Caller::start(&["a", "b"]);
    drop(caller.allow_alone());
    let mut service = caller.come();
    service.end(3);
    assert_eq!(caller.output().status.code(), Some(3));

    let caller = Caller::start(&["a", "b"]);
    let (mut service, mut agent) = caller.allow();
    agent.write_all(&[0; 8]).unwrap();
    service.end(3);
    assert_eq!(caller.output().status.code(), Some(3));
}
