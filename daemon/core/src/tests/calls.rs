//! Calls that the VM asks for.

use std::time::Duration;

use wire::command::{Requested, ServiceCall};
use wire::control::Message;
use wire::frame::Frame;
use wire::header::ty;
use wire::names::{DomainId, Ident, ServiceName, Target};
use wire::trigger::Trigger;
use wire::version::Version;

use super::stage::{
    OWN, Stage, allow, answer_frame, bytes, connect, connect_message, endpoint, exec, frame, hello, refused,
    settings, terminated, trigger, unframe,
};
use crate::question::{Allow, User, Verdict};
use crate::{CallId, ClientId, Core, Level, LocalService, Output, Preparation};

fn stage() -> Stage {
    Stage::with_agent(Version::V4)
}

fn change(verdict: Verdict, change: impl FnOnce(&mut Allow)) -> Verdict {
    let Verdict::Allow(mut allow) = verdict else { return verdict };
    change(&mut allow);
    Verdict::Allow(allow)
}

/// What the target's daemon is asked after its HELLO.
fn request_for(stage: &mut Stage, verdict: Verdict) -> (Target, Vec<u8>) {
    let id = stage.call("@default", 1);
    stage.core.handle_decided(stage.now, id, verdict);
    let outputs = stage.outputs();
    let [Output::OpenTarget(_, to)] = outputs.as_slice() else { panic!("{outputs:?}") };
    let to = to.clone();
    stage.core.handle_target_frame(stage.now, id, &frame(&Message::Hello(3)));
    match stage.outputs().as_slice() {
        [Output::SendTarget(_, first), Output::SendTarget(_, request)] => {
            assert_eq!(*first, hello(3));
            (to, request.clone())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_denied_call_is_refused() {
    let mut stage = stage();
    let id = stage.call("vault", 3);
    stage.core.handle_decided(stage.now, id, Verdict::deny("it says\n no"));
    let outputs = stage.all_outputs();
    let [Output::Log(Level::Info, line), sent] = outputs.as_slice() else { panic!("{outputs:?}") };
    assert_eq!(line, "qrexec: demo.Add+1: work -> vault: denied: it says\\x0a no");
    assert_eq!(*sent, refused(3));
}

#[test]
fn an_allowed_call_goes_through_the_targets_daemon() {
    let mut stage = stage();
    let (to, request) = request_for(&mut stage, allow("vault"));
    assert_eq!(to.as_str(), "vault");
    assert_eq!(request, bytes(&exec(false, 5, 0, "DEFAULT:QUBESRPC demo.Add+1 work")));
}

/// What a service is told does not depend on whether its caller wrote the `+` of an empty argument, in a VM or in dom0.
#[test]
fn a_missing_plus_is_added_to_requests_of_vms_only() {
    for asked in ["demo.Add", "demo.Add+"] {
        let told = |target: &str| {
            let mut stage = stage();
            let service = ServiceName::new(asked).unwrap();
            stage.agent(&Message::Trigger(Trigger { service: service.clone(), ..trigger(target, 1) }));
            let outputs = stage.outputs();
            let [Output::Ask(id, question)] = outputs.as_slice() else { panic!("{outputs:?}") };
            assert_eq!(*question.service, service, "policy is asked in the caller's words");
            stage.core.handle_decided(stage.now, *id, allow(target));
            stage.core.handle_target_frame(stage.now, *id, &frame(&Message::Hello(3)));
            stage.outputs()
        };
        let request = bytes(&exec(false, 5, 0, "DEFAULT:QUBESRPC demo.Add+ work"));
        assert!(matches!(told("vault").last(), Some(Output::SendTarget(_, sent)) if *sent == request));
        let outputs = told("dom0");
        let [Output::StartService(_, local)] = outputs.as_slice() else { panic!("{outputs:?}") };
        assert_eq!(local.call.service.as_str(), "demo.Add+");
    }
    // Programs of dom0 say themselves what they mean.
    let mut stage = stage();
    let client = stage.greeted_client();
    stage.client(client, &exec(false, 0, 0, "u:QUBESRPC demo.Add dom0"));
    let sent = Output::SendAgent(bytes(&exec(false, 0, 513, "u:QUBESRPC demo.Add dom0")));
    assert_eq!(stage.outputs().last(), Some(&sent));
}

#[test]
fn a_request_that_the_targets_agent_could_not_read_is_refused_at_once() {
    let ask = |length: usize, user: &str| {
        let mut stage = stage();
        let service = ServiceName::new(&format!("demo.Add+{}", "x".repeat(length))).unwrap();
        stage.agent(&Message::Trigger(Trigger { service, ..trigger("vault", 1) }));
        let outputs = stage.outputs();
        let [Output::Ask(id, _)] = outputs.as_slice() else { panic!("{outputs:?}") };
        let user = User::new(user).unwrap();
        stage.core.handle_decided(stage.now, *id, change(allow("vault"), |allow| allow.user = user));
        stage.outputs()
    };
    let fits = 4096 - "........root:QUBESRPC demo.Add+ work.".len();
    assert!(matches!(ask(fits, "root").as_slice(), [Output::OpenTarget(..)]));
    assert_eq!(ask(fits + 1, "root"), [refused(1)]);
    // Only the target's daemon knows how long its user's name is: one letter fits, two may not.
    assert!(matches!(ask(fits + 3, "DEFAULT").as_slice(), [Output::OpenTarget(..)]));
    assert_eq!(ask(fits + 4, "DEFAULT"), [refused(1)]);
}

#[test]
fn policy_may_change_user_target_service_and_source() {
    let mut stage = stage();
    let verdict = change(allow("relay"), |allow| {
        allow.user = User::new("root").unwrap();
        allow.target_uuid = Some(Target::new("uuid:11-22").unwrap());
        allow.service = Some(ServiceName::new("qubesair.Ssh").unwrap());
        allow.policy_source = Some(Target::new("far").unwrap());
    });
    let (to, request) = request_for(&mut stage, verdict);
    assert_eq!(to.as_str(), "uuid:11-22");
    assert_eq!(request, bytes(&exec(false, 5, 0, "root:QUBESRPC qubesair.Ssh+ far")));
}

#[test]
fn the_port_of_the_target_reaches_the_caller_and_the_end_is_logged() {
    let mut stage = stage();
    let id = stage.running_call(4);
    stage.now += Duration::from_millis(1500);
    stage.core.handle_target_closed(stage.now, id, "it closed the connection");
    let outputs = stage.all_outputs();
    let [Output::Log(Level::Info, line)] = outputs.as_slice() else { panic!("{outputs:?}") };
    assert_eq!(line, "qrexec: demo.Add+1: work -> vault: allowed to vault, ended after 1.500 s, port 513");
}

#[test]
fn what_fails_before_the_port_refuses_the_caller() {
    type Step = fn(&mut Stage, CallId);
    let steps: [(&str, bool, Step); 8] = [
        ("not there", false, |s, id| s.core.handle_target_closed(s.now, id, "it does not run")),
        ("no HELLO", true, |s, _| s.passes(Duration::from_secs(11))),
        ("old HELLO", true, |s, id| s.core.handle_target_frame(s.now, id, &frame(&Message::Hello(2)))),
        ("other HELLO", true, |s, id| {
            s.core.handle_target_frame(s.now, id, &answer_frame(ty::EXEC_CMDLINE, 9, 513))
        }),
        ("closed", false, |s, id| {
            s.core.handle_target_frame(s.now, id, &frame(&Message::Hello(3)));
            s.core.handle_target_closed(s.now, id, "it closed the connection");
        }),
        ("no answer", true, |s, id| {
            s.core.handle_target_frame(s.now, id, &frame(&Message::Hello(3)));
            s.passes(Duration::from_secs(61));
        }),
        ("bad port", true, |s, id| {
            s.core.handle_target_frame(s.now, id, &frame(&Message::Hello(3)));
            s.core.handle_target_frame(s.now, id, &answer_frame(ty::EXEC_CMDLINE, 9, 512));
        }),
        ("bad answer", true, |s, id| {
            s.core.handle_target_frame(s.now, id, &frame(&Message::Hello(3)));
            s.core.handle_target_frame(s.now, id, &Frame { ty: ty::EXEC_CMDLINE, body: vec![0; 9] });
        }),
    ];
    for (what, closes, step) in steps {
        let mut stage = stage();
        let id = stage.call("vault", 6);
        stage.core.handle_decided(stage.now, id, allow("vault"));
        stage.outputs();
        step(&mut stage, id);
        let mut outputs = stage.outputs();
        outputs.retain(|output| !matches!(output, Output::SendTarget(..)));
        let mut expected = vec![refused(6)];
        if closes {
            expected.insert(0, Output::CloseTarget(id));
        }
        assert_eq!(outputs, expected, "{what}");
        // Nothing is left that could be refused again.
        stage.passes(Duration::from_secs(3600));
        stage.core.handle_target_closed(stage.now, id, "late");
        assert!(stage.outputs().is_empty(), "{what}");
    }
}

/// Policy programs of R4.2.4 and before: their local client comes before they end, or with it.
#[test]
fn a_policy_program_may_make_the_call_itself() {
    let mut stage = stage();
    for made_first in [false, true] {
        let id = stage.call("vault", 1);
        if made_first {
            stage.core.handle_decided(stage.now, id, Verdict::Made);
            assert!(stage.outputs().is_empty());
        }
        let client = stage.greeted_client();
        stage.client(client, &connect_message(9, 600, 1));
        assert_eq!(stage.outputs().last(), Some(&connect(9, 600, 1)));
        stage.core.handle_decided(stage.now, id, Verdict::Made);
        stage.passes(Duration::from_secs(3600));
        assert!(stage.outputs().is_empty());
    }
    // It says so, and nobody comes.
    let id = stage.call("vault", 2);
    stage.core.handle_decided(stage.now, id, Verdict::Made);
    stage.passes(Duration::from_secs(9));
    assert!(stage.outputs().is_empty());
    stage.passes(Duration::from_secs(2));
    assert_eq!(stage.outputs(), [refused(2)]);
    // Or the caller's agent goes.
    let id = stage.call("vault", 3);
    stage.core.handle_decided(stage.now, id, Verdict::Made);
    stage.core.handle_agent_lost();
    stage.outputs();
    stage.agent_comes(4);
    stage.outputs();
    stage.passes(Duration::from_secs(3600));
    assert!(stage.outputs().is_empty());
}

#[test]
fn a_disposable_that_may_not_be_started_is_refused() {
    let mut stage = stage();
    let id = stage.call("@dispvm", 1);
    stage.core.handle_decided(
        stage.now,
        id,
        change(allow("@dispvm:fedora"), |allow| allow.autostart = false),
    );
    assert_eq!(stage.outputs(), [refused(1)]);
}

#[test]
fn a_call_to_dom0_starts_a_service_and_only_then_answers() {
    for (asked, requested) in [
        ("dom0", Requested::Name(Target::new("dom0").unwrap())),
        ("@adminvm", Requested::Keyword(Target::new("adminvm").unwrap())),
    ] {
        let mut stage = stage();
        let id = stage.call(asked, 1);
        stage.core.handle_decided(stage.now, id, allow(asked));
        let service = ServiceName::new("demo.Add+1").unwrap();
        let call = ServiceCall::new(service, Target::new("work").unwrap(), Some(requested));
        let service = LocalService { endpoint: endpoint(5, 513), call };
        assert_eq!(stage.outputs(), [Output::StartService(id, Box::new(service))]);
        stage.core.handle_service_started(id, Ok(()));
        assert_eq!(stage.outputs(), [connect(0, 513, 1)]);
    }
}

#[test]
fn a_service_of_dom0_that_fails_leaves_a_warning() {
    for (status, level) in [(0, Level::Info), (1, Level::Warn), (127, Level::Warn)] {
        let mut stage = stage();
        let id = stage.call("dom0", 1);
        stage.core.handle_decided(stage.now, id, allow("dom0"));
        stage.core.handle_service_started(id, Ok(()));
        stage.all_outputs();
        stage.core.handle_service_ended(stage.now, id, status, None);
        let line = format!(
            "qrexec: demo.Add+1: work -> dom0: allowed to dom0, ended after 0.000 s, exit code {status}, port 513"
        );
        assert_eq!(stage.all_outputs(), [Output::Log(level, line)]);
    }
}

#[test]
fn a_service_that_cannot_be_started_gives_its_port_back() {
    let mut stage = stage();
    let id = stage.call("dom0", 1);
    stage.core.handle_decided(stage.now, id, allow("dom0"));
    stage.outputs();
    stage.core.handle_service_started(id, Err("no process".into()));
    assert_eq!(stage.outputs(), [refused(1)]);
    stage.agent(&terminated(0, 513));
    assert!(stage.outputs().is_empty());
}

#[test]
fn the_port_of_a_dom0_call_is_free_when_the_agent_says_so() {
    let mut settings = settings(OWN, "work");
    settings.last_port = 513;
    let mut stage = Stage { core: Core::new(settings), now: Duration::ZERO };
    stage.agent_comes(4);
    stage.outputs();
    let call = |stage: &mut Stage, number| {
        let id = stage.call("dom0", number);
        stage.core.handle_decided(stage.now, id, allow("dom0"));
        stage.core.handle_service_started(id, Ok(()));
        (id, stage.outputs().pop().unwrap())
    };
    let (id, answer) = call(&mut stage, 1);
    assert_eq!(answer, connect(0, 513, 1));
    stage.core.handle_service_ended(stage.now, id, 0, None);
    assert_eq!(call(&mut stage, 2).1, refused(2));
    stage.agent(&terminated(0, 513));
    assert_eq!(call(&mut stage, 3).1, connect(0, 513, 3));
}

#[test]
fn more_calls_than_are_watched_run_unwatched() {
    let mut stage = stage();
    for number in 0..4 {
        stage.running_call(number);
    }
    let id = stage.call("vault", 9);
    stage.core.handle_decided(stage.now, id, allow("vault"));
    stage.core.handle_target_frame(stage.now, id, &frame(&Message::Hello(3)));
    stage.outputs();
    stage.core.handle_target_frame(stage.now, id, &answer_frame(ty::EXEC_CMDLINE, 9, 700));
    assert_eq!(stage.outputs(), [connect(9, 700, 9), Output::CloseTarget(id)]);
}

#[test]
fn verdicts_that_nobody_asked_for_do_nothing() {
    let mut stage = stage();
    let id = stage.running_call(1);
    stage.core.handle_decided(stage.now, id, Verdict::deny("late"));
    stage.core.handle_decided(stage.now, CallId(99), allow("vault"));
    stage.core.handle_service_started(id, Ok(()));
    assert!(stage.outputs().is_empty());
}

/// Two daemons, each with an agent that is a script: the whole negotiation of a call between VMs.
#[test]
fn two_daemons_bring_a_call_together() {
    let mut source = stage();
    let mut target = Stage { core: Core::new(settings(DomainId(9), "vault")), now: source.now };
    target.agent_comes(3);
    target.outputs();
    let id = source.call("vault", 1);
    source.core.handle_decided(source.now, id, allow("vault"));
    source.outputs();
    let client: ClientId = target.core.handle_client_connected(target.now);
    // Carry messages both ways until nobody has any left.
    let (mut to_agents, mut busy) = (Vec::new(), true);
    while busy {
        busy = false;
        for output in target.outputs() {
            busy = true;
            match output {
                Output::SendClient(_, bytes) => {
                    source.core.handle_target_frame(source.now, id, &unframe(&bytes));
                }
                other => to_agents.push(other),
            }
        }
        for output in source.outputs() {
            busy = true;
            match output {
                Output::SendTarget(_, bytes) => {
                    target.core.handle_client_frame(target.now, client, &unframe(&bytes));
                }
                other => to_agents.push(other),
            }
        }
    }
    // VM 5 is the smaller one to VM 9, so the daemon of 9 counts from 513.
    assert_eq!(
        to_agents,
        [Output::SendAgent(bytes(&exec(false, 5, 513, "user:QUBESRPC demo.Add+1 work"))), connect(9, 513, 1),]
    );
    // The end: the target's agent tells its daemon, which closes the connection.
    target.agent(&terminated(5, 513));
    assert_eq!(target.outputs(), [Output::CloseClient(client)]);
    source.core.handle_target_closed(source.now, id, "it closed the connection");
    assert!(source.outputs().is_empty());
    // The caller's agent tells of the same link; the port is not its daemon's.
    source.agent(&terminated(9, 513));
    assert!(source.outputs().is_empty());
}

#[test]
fn a_target_that_does_not_run_is_started_once() {
    let mut stage = stage();
    let id = stage.call("vault", 1);
    stage.core.handle_decided(stage.now, id, allow("vault"));
    stage.outputs();
    stage.core.handle_target_absent(stage.now, id);
    let vault = Target::new("vault").unwrap();
    assert_eq!(stage.outputs(), [Output::Prepare(id, Preparation::Start(vault.clone()))]);
    stage.passes(Duration::from_secs(60));
    stage.core.handle_prepared(stage.now, id, Ok(vault.clone()));
    assert_eq!(stage.outputs(), [Output::OpenTarget(id, vault)]);
    stage.core.handle_target_absent(stage.now, id);
    assert_eq!(stage.outputs(), [Output::Release(id), refused(1)]);

    let id = stage.call("vault", 2);
    stage.core.handle_decided(stage.now, id, change(allow("vault"), |allow| allow.autostart = false));
    stage.outputs();
    stage.core.handle_target_absent(stage.now, id);
    assert_eq!(stage.outputs(), [refused(2)]);
}

#[test]
fn a_disposable_is_made_for_a_call_and_released_with_it() {
    let template = Target::new("uuid:11-22").unwrap();
    let begun = |stage: &mut Stage, number| {
        let id = stage.call("@dispvm", number);
        let to = Some(Target::new("@dispvm:uuid:11-22").unwrap());
        stage.core.handle_decided(stage.now, id, change(allow("@dispvm:x"), |allow| allow.target_uuid = to));
        assert_eq!(stage.outputs(), [Output::Prepare(id, Preparation::Disposable(template.clone()))]);
        id
    };
    let mut stage = stage();
    let id = begun(&mut stage, 1);
    stage.core.handle_prepared(stage.now, id, Err("no\n memory".into()));
    assert_eq!(stage.outputs(), [Output::Release(id), refused(1)]);

    let id = begun(&mut stage, 2);
    stage.passes(Duration::from_secs(301));
    assert_eq!(stage.outputs(), [Output::Release(id), refused(2)]);

    let id = begun(&mut stage, 3);
    stage.core.handle_agent_lost();
    assert!(stage.outputs().contains(&Output::Release(id)), "its caller is gone");
    stage.agent_comes(4);

    let id = begun(&mut stage, 4);
    stage.core.handle_prepared(stage.now, id, Ok(Target::new("disp7").unwrap()));
    assert_eq!(stage.outputs(), [Output::OpenTarget(id, Target::new("disp7").unwrap())]);
    stage.core.handle_target_frame(stage.now, id, &frame(&Message::Hello(3)));
    stage.core.handle_target_frame(stage.now, id, &answer_frame(0x200, 9, 513));
    assert_eq!(stage.outputs().last(), Some(&connect(9, 513, 4)));
    stage.core.handle_agent_lost();
    assert!(!stage.outputs().contains(&Output::Release(id)), "the call itself goes on");
    stage.core.handle_target_closed(stage.now, id, "it closed the connection");
    assert_eq!(stage.outputs(), [Output::Release(id)]);
}

#[test]
fn calls_that_wait_for_policy_are_bounded_by_number_and_by_bytes() {
    let mut settings = settings(OWN, "work");
    settings.max_open = 1 << 16;
    for (length, fit) in [(10, 512), (64_000, 65)] {
        let mut stage = Stage { core: Core::new(settings.clone()), now: Duration::ZERO };
        stage.agent_comes(4);
        stage.outputs();
        let service = ServiceName::new(&"x".repeat(length)).unwrap();
        let asks = |stage: &mut Stage, number| {
            stage.agent(&Message::Trigger(Trigger { service: service.clone(), ..trigger("vault", number) }));
            let outputs = stage.outputs();
            match outputs.as_slice() {
                [Output::Ask(id, _)] => Some(*id),
                other => {
                    assert_eq!(other, [refused(number)]);
                    None
                }
            }
        };
        let asked: Vec<CallId> = (0..2000).filter_map(|number| asks(&mut stage, number)).collect();
        assert_eq!(asked.len(), fit);
        // One that is over makes room for one, and so does one whose request has left.
        stage.core.handle_decided(stage.now, asked[0], Verdict::deny("no"));
        assert_eq!(stage.outputs(), [refused(0)]);
        assert!(asks(&mut stage, 3000).is_some() && asks(&mut stage, 3001).is_none());
        stage.core.handle_decided(stage.now, asked[1], allow("vault"));
        stage.core.handle_target_frame(stage.now, asked[1], &frame(&Message::Hello(3)));
        stage.outputs();
        assert!(asks(&mut stage, 3002).is_some() && asks(&mut stage, 3003).is_none());
        stage.core.handle_agent_lost();
        stage.outputs();
        stage.agent_comes(4);
        stage.outputs();
        assert!(asks(&mut stage, 3004).is_some());
    }
}

/// An agent that takes the number for one of its descriptors would close that, whatever it is by then.
#[test]
fn a_caller_hears_that_its_targets_agent_is_gone_if_its_agent_looks_ids_up() {
    let mut stage = stage();
    let word = frame(&Message::Refused(Ident::numbered(0)));
    for (number, told) in [(7, false), (Ident::FIRST_LOOKED_UP - 1, false), (Ident::FIRST_LOOKED_UP, true)] {
        let id = stage.running_call(number);
        stage.core.handle_target_frame(stage.now, id, &word);
        let mut outputs = stage.outputs();
        assert_eq!(outputs.remove(0), Output::CloseTarget(id));
        assert_eq!(outputs, if told { vec![refused(number)] } else { Vec::new() }, "{number}");
        // What comes after it means nothing.
        stage.core.handle_target_frame(stage.now, id, &word);
        stage.core.handle_target_closed(stage.now, id, "it closed the connection");
        assert!(stage.outputs().is_empty());
    }
}
