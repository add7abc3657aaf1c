//! Programs on the local socket.

use std::time::Duration;

use wire::control::{MAX_CONTROL_BODY, Message};
use wire::frame::Frame;
use wire::header::ty;
use wire::version::Version;

use super::stage::{
    Stage, allow, answer_bytes, bytes, connect, connect_message, exec, hello, terminated, trigger,
};
use crate::{ClientId, Level, Output};

fn stage() -> Stage {
    Stage::with_agent(Version::V4)
}

#[test]
fn a_command_gets_a_port_and_goes_on() {
    for (just, ty) in [(false, ty::EXEC_CMDLINE), (true, ty::JUST_EXEC)] {
        let mut stage = stage();
        let id = stage.greeted_client();
        stage.client(id, &exec(just, 0, 0, "root:ls"));
        assert_eq!(
            stage.outputs(),
            [
                Output::SendClient(id, answer_bytes(ty, 5, 513)),
                Output::SendAgent(bytes(&exec(just, 0, 513, "root:ls"))),
            ]
        );
        stage.agent(&terminated(0, 513));
        assert_eq!(stage.outputs(), [Output::CloseClient(id)]);
    }
}

#[test]
fn what_runs_for_somebody_else_has_its_line_at_its_end() {
    for (cmdline, what) in [
        ("root:echo secret", "qrexec: a command: dom0 -> work"),
        ("root:QUBESRPC demo.Add+1 dom0", "qrexec: demo.Add+1: dom0 -> work"),
        ("DEFAULT:QUBESRPC demo.Add+1 vault", "qrexec: demo.Add+1: vault -> work"),
    ] {
        let mut stage = stage();
        let id = stage.greeted_client();
        stage.client(id, &exec(false, 0, 0, cmdline));
        stage.outputs();
        stage.now += Duration::from_millis(1500);
        stage.agent(&terminated(0, 513));
        let line = Output::Log(Level::Info, format!("{what}: ended after 1.500 s, port 513"));
        assert_eq!(stage.all_outputs(), [Output::CloseClient(id), line]);
        stage.agent(&terminated(0, 513));
        assert_eq!(stage.all_outputs(), []);
    }
}

#[test]
fn ports_between_vms_come_from_this_daemons_half() {
    let mut stage = stage();
    for (domain, port) in [(9, 514), (3, 513), (9, 516), (3, 515)] {
        let id = stage.greeted_client();
        stage.client(id, &exec(false, domain, 0, "u:c"));
        assert_eq!(stage.outputs()[1], Output::SendAgent(bytes(&exec(false, domain, port, "u:c"))));
    }
}

#[test]
fn the_default_user_is_put_in() {
    for (said, meant) in [
        ("DEFAULT:QUBESRPC a+ b", "user:QUBESRPC a+ b"),
        ("DEFAULT:", "user:"),
        ("DEFAULT", "DEFAULT"),
        ("root:DEFAULT:x", "root:DEFAULT:x"),
    ] {
        let mut stage = stage();
        let id = stage.greeted_client();
        stage.client(id, &exec(false, 0, 0, said));
        assert_eq!(stage.outputs()[1], Output::SendAgent(bytes(&exec(false, 0, 513, meant))), "{said}");
    }
}

#[test]
fn a_client_that_leaves_early_keeps_its_port_reserved() {
    let mut stage = stage();
    let first = stage.greeted_client();
    stage.client(first, &exec(false, 0, 0, "u:c"));
    stage.core.handle_client_closed(first);
    let second = stage.greeted_client();
    stage.client(second, &exec(false, 0, 0, "u:c"));
    assert_eq!(stage.outputs().last(), Some(&Output::SendAgent(bytes(&exec(false, 0, 514, "u:c")))));
    stage.agent(&terminated(0, 513));
    assert!(stage.outputs().is_empty());
    stage.agent(&terminated(0, 514));
    assert_eq!(stage.outputs(), [Output::CloseClient(second)]);
}

#[test]
fn only_the_client_of_the_port_is_closed() {
    let mut stage = stage();
    let ids: Vec<ClientId> = (0..3)
        .map(|_| {
            let id = stage.greeted_client();
            stage.client(id, &exec(false, 0, 0, "u:c"));
            id
        })
        .collect();
    stage.outputs();
    // A VM that claims the end of a call with another domain frees nothing.
    stage.agent(&terminated(9, 514));
    assert!(stage.outputs().is_empty());
    stage.agent(&terminated(0, 514));
    assert_eq!(stage.outputs(), [Output::CloseClient(ids[1])]);
}

#[test]
fn a_port_that_the_client_brings_is_used_and_not_reserved() {
    let mut stage = stage();
    let id = stage.greeted_client();
    stage.client(id, &exec(false, 0, 600, "u:c"));
    assert_eq!(stage.outputs(), [Output::SendAgent(bytes(&exec(false, 0, 600, "u:c")))]);
    stage.agent(&terminated(0, 600));
    assert!(stage.outputs().is_empty());
    let id = stage.greeted_client();
    stage.client(id, &exec(false, 0, 512, "u:c"));
    assert_eq!(stage.outputs(), [Output::CloseClient(id)]);
}

#[test]
fn breaches_cost_a_client_its_connection() {
    let breaches = [
        Frame { ty: ty::HELLO, body: vec![3, 0, 0, 0] },
        Frame { ty: 0x999, body: vec![] },
        Frame { ty: ty::EXEC_CMDLINE, body: vec![0; 7] },
        Frame { ty: ty::EXEC_CMDLINE, body: vec![0; 8] },
        Frame { ty: ty::EXEC_CMDLINE, body: vec![0; 9] },
        Frame { ty: ty::EXEC_CMDLINE, body: [&[0; 8][..], b"u:c"].concat() },
        Frame { ty: ty::SERVICE_CONNECT, body: [&[0; 8][..], &[0xff; 32]].concat() },
        Frame { ty: ty::SERVICE_REFUSED, body: vec![0; 32] },
        Frame { ty: ty::TRIGGER_SERVICE, body: vec![b'a'; 128] },
        Frame { ty: ty::CONNECTION_TERMINATED, body: vec![0; 8] },
    ];
    for breach in breaches {
        let mut stage = stage();
        let other = stage.greeted_client();
        let waiting = stage.greeted_client();
        stage.client(waiting, &exec(false, 0, 0, "u:c"));
        let call = stage.call("vault", 1);
        let id = stage.greeted_client();
        stage.core.handle_client_frame(stage.now, id, &breach);
        assert_eq!(stage.outputs(), [Output::CloseClient(id)], "{breach:?}");
        // Everybody else goes on: who waits, who has yet to ask, and the VM's own calls.
        stage.agent(&terminated(0, 513));
        assert_eq!(stage.outputs(), [Output::CloseClient(waiting)]);
        stage.client(other, &exec(false, 0, 0, "u:c"));
        assert_eq!(stage.outputs().len(), 2);
        stage.core.handle_decided(stage.now, call, crate::question::Verdict::deny("no"));
        assert_eq!(stage.outputs(), [super::stage::refused(1)]);
    }
}

#[test]
fn the_hello_must_come_first_and_in_time_and_be_new_enough() {
    for version in [0, 1, 2] {
        let mut stage = stage();
        let id = stage.core.handle_client_connected(stage.now);
        stage.client(id, &Message::Hello(version));
        assert_eq!(stage.outputs(), [Output::SendClient(id, hello(3)), Output::CloseClient(id)]);
    }
    let mut stage = stage();
    let early = stage.core.handle_client_connected(stage.now);
    stage.client(early, &exec(false, 0, 0, "u:c"));
    let silent = stage.core.handle_client_connected(stage.now);
    stage.outputs();
    stage.passes(Duration::from_secs(11));
    assert_eq!(stage.outputs(), [Output::CloseClient(silent)]);
}

#[test]
fn a_greeted_client_asks_in_time_and_may_then_wait_for_ever() {
    let mut stage = stage();
    let idle = stage.greeted_client();
    let slow = stage.greeted_client();
    let waiting = stage.greeted_client();
    stage.client(waiting, &exec(false, 0, 0, "u:c"));
    stage.core.handle_client_read(stage.now, waiting, false);
    stage.outputs();
    stage.passes(Duration::from_secs(9));
    // Neither half a request nor a look at nothing starts the clock again.
    stage.core.handle_client_read(stage.now, slow, true);
    stage.core.handle_client_read(stage.now, idle, false);
    assert!(stage.outputs().is_empty());
    stage.passes(Duration::from_secs(2));
    assert_eq!(stage.outputs(), [Output::CloseClient(idle), Output::CloseClient(slow)]);
    stage.passes(Duration::from_secs(3600));
    assert!(stage.outputs().is_empty());
    stage.agent(&terminated(0, 513));
    assert_eq!(stage.outputs(), [Output::CloseClient(waiting)]);
}

#[test]
fn nobody_is_late_while_nobody_is_heard() {
    let mut stage = stage();
    let id = stage.core.handle_client_connected(stage.now);
    stage.outputs();
    stage.core.hold_clients(true);
    stage.passes(Duration::from_secs(11));
    stage.passes(Duration::from_secs(11));
    assert!(stage.outputs().is_empty());
    stage.core.hold_clients(false);
    stage.passes(Duration::from_secs(9));
    assert!(stage.outputs().is_empty());
    stage.passes(Duration::from_secs(2));
    assert_eq!(stage.outputs(), [Output::CloseClient(id)]);
}

#[test]
fn there_is_one_request_per_connection() {
    let mut stage = stage();
    let id = stage.greeted_client();
    stage.client(id, &exec(false, 0, 0, "u:c"));
    stage.outputs();
    stage.client(id, &exec(false, 0, 0, "u:c"));
    assert_eq!(stage.outputs(), [Output::CloseClient(id)]);
    stage.client(id, &exec(false, 0, 0, "u:c"));
    assert!(stage.outputs().is_empty());
}

#[test]
fn a_command_that_the_agent_could_not_read_is_refused_before_it_costs_a_port() {
    let fits = MAX_CONTROL_BODY - 9;
    let mut stage = stage();
    let id = stage.greeted_client();
    stage.client(id, &exec(false, 0, 0, &"x".repeat(fits + 1)));
    assert_eq!(stage.outputs(), [Output::CloseClient(id)]);
    let id = stage.greeted_client();
    stage.client(id, &exec(false, 0, 0, &"x".repeat(fits)));
    assert_eq!(stage.outputs()[0], Output::SendClient(id, answer_bytes(ty::EXEC_CMDLINE, 5, 513)));
    // The default user makes it longer.
    let id = stage.greeted_client();
    stage.client(id, &exec(false, 0, 0, &format!("DEFAULT:{}", "x".repeat(fits - "user:".len() + 1))));
    assert_eq!(stage.outputs(), [Output::CloseClient(id)]);
}

#[test]
fn when_no_port_is_left_one_call_is_refused_and_no_more() {
    let mut settings = super::stage::settings(super::stage::OWN, "work");
    settings.last_port = 513;
    let mut stage = Stage { core: crate::Core::new(settings), now: Duration::ZERO };
    stage.agent_comes(3);
    stage.outputs();
    let first = stage.greeted_client();
    stage.client(first, &exec(false, 0, 0, "u:c"));
    stage.outputs();
    let second = stage.greeted_client();
    stage.client(second, &exec(false, 0, 0, "u:c"));
    assert_eq!(stage.outputs(), [Output::CloseClient(second)]);
    stage.agent(&terminated(0, 513));
    assert_eq!(stage.outputs(), [Output::CloseClient(first)]);
    let third = stage.greeted_client();
    stage.client(third, &exec(false, 0, 0, "u:c"));
    assert_eq!(stage.outputs().len(), 2);
}

#[test]
fn a_client_may_answer_a_call_that_waits() {
    let mut stage = stage();
    let call = stage.call("vault", 1);
    let id = stage.greeted_client();
    stage.client(id, &connect_message(9, 600, 1));
    assert_eq!(stage.outputs(), [Output::CancelQuestion(call), connect(9, 600, 1)]);
    // What policy says afterwards comes too late.
    stage.core.handle_decided(stage.now, call, allow("vault"));
    assert!(stage.outputs().is_empty());
    let again = stage.greeted_client();
    stage.client(again, &connect_message(9, 600, 1));
    assert_eq!(stage.outputs(), [Output::CloseClient(again)]);
}

#[test]
fn a_client_that_answers_may_want_a_port() {
    let mut stage = stage();
    stage.agent(&Message::Trigger(trigger("dom0", 1)));
    stage.outputs();
    let id = stage.greeted_client();
    stage.client(id, &connect_message(0, 0, 1));
    let outputs = stage.outputs();
    assert_eq!(outputs[0], Output::SendClient(id, answer_bytes(ty::SERVICE_CONNECT, 5, 513)));
    assert_eq!(outputs[2], connect(0, 513, 1));
    stage.agent(&terminated(0, 513));
    assert_eq!(stage.outputs(), [Output::CloseClient(id)]);
}

/// Some older programs say 32 bytes, others end behind the NUL.
#[test]
fn an_id_goes_on_as_its_client_said_it() {
    let endpoint = [9_u32.to_le_bytes(), 600_u32.to_le_bytes()].concat();
    for padding in [1, 2, 32 - "SOCKET1".len(), 100] {
        let mut stage = stage();
        stage.call("vault", 1);
        let id = stage.greeted_client();
        let ident = [b"SOCKET1".as_slice(), &vec![0; padding]].concat();
        let body = [&endpoint[..], &ident].concat();
        stage.core.handle_client_frame(stage.now, id, &Frame { ty: ty::SERVICE_CONNECT, body });
        let told = &ident[..ident.len().min(32)];
        let len = u32::try_from(8 + told.len()).unwrap().to_le_bytes();
        let message = [&ty::SERVICE_CONNECT.to_le_bytes()[..], &len, &endpoint, told].concat();
        assert_eq!(stage.outputs().last(), Some(&Output::SendAgent(message)), "{padding}");
    }
}

#[test]
fn an_answer_to_no_question_is_dropped() {
    let mut stage = stage();
    let running = stage.running_call(7);
    for number in [1, 7] {
        let id = stage.greeted_client();
        stage.client(id, &connect_message(9, 600, number));
        assert_eq!(stage.outputs(), [Output::CloseClient(id)]);
    }
    stage.core.handle_target_closed(stage.now, running, "");
}

#[test]
fn a_source_has_half_of_what_others_leave_and_dom0_a_part_of_its_own() {
    let mut stage = stage();
    stage.core.limit_served_calls(16);
    let begin = |stage: &mut Stage, domain| {
        let id = stage.greeted_client();
        stage.client(id, &exec(false, domain, 0, "u:QUBESRPC demo.Add+1 vault"));
        (id, stage.all_outputs())
    };
    let is_served = |outputs: &[Output]| outputs.iter().any(|output| matches!(output, Output::SendAgent(_)));
    let mut ports = Vec::new();
    let (id, outputs) = loop {
        let (id, outputs) = begin(&mut stage, 9);
        if !is_served(&outputs) {
            break (id, outputs);
        }
        ports.push(514 + 2 * ports.len() as u32);
    };
    assert_eq!(ports.len(), 7);
    let why = "qrexec: demo.Add+1: vault -> work: refused, domain 9 has 7 calls here, of 7 in all: more are refused";
    assert_eq!(outputs, [Output::Log(Level::Warn, why.to_owned()), Output::CloseClient(id)]);
    assert!(is_served(&begin(&mut stage, 3).1));
    (0..8).for_each(|_| assert!(is_served(&begin(&mut stage, 0).1)));
    assert!(!is_served(&begin(&mut stage, 0).1), "all are taken");
    // The end of one is room for another of the same, who left early or not.
    stage.agent(&terminated(9, ports[0]));
    stage.agent(&terminated(9, ports[0]));
    stage.agent(&terminated(9, ports[1]));
    stage.all_outputs();
    assert!(!is_served(&begin(&mut stage, 9).1));
    assert!(is_served(&begin(&mut stage, 0).1));
    // What a lost agent ran is forgotten here.
    stage.core.handle_agent_lost();
    stage.all_outputs();
}
