//! The control link.

use std::time::Duration;

use wire::control::Message;
use wire::frame::Frame;
use wire::header::ty;
use wire::names::Ident;
use wire::version::Version;

use super::stage::{Stage, allow, bytes, connect, exec, hello, refused, terminated, trigger};
use crate::{Level, Moved, Output};

fn drops(outputs: &[Output]) -> bool {
    outputs.iter().any(|output| matches!(output, Output::DropAgent(_)))
}

#[test]
fn the_agent_hears_its_own_number() {
    for version in [2, 3, 4, 7] {
        let mut stage = Stage::empty();
        stage.agent_comes(version);
        assert_eq!(stage.outputs(), [Output::SendAgent(hello(version)), Output::Serve]);
    }
}

#[test]
fn too_old_or_no_hello_at_all_is_dropped() {
    let mut stage = Stage::empty();
    stage.agent_comes(1);
    assert!(drops(&stage.outputs()));
    stage.core.handle_agent_connected(stage.now);
    stage.agent(&terminated(0, 513));
    assert!(drops(&stage.outputs()));
    stage.core.handle_agent_connected(stage.now);
    stage.passes(Duration::from_secs(11));
    assert!(drops(&stage.outputs()));
    stage.agent_comes(3);
    assert_eq!(stage.outputs().last(), Some(&Output::Serve));
}

#[test]
fn a_breach_costs_the_agent_its_link_and_no_more() {
    let breaches = [
        Frame { ty: 0x999, body: vec![] },
        Frame { ty: ty::HELLO, body: vec![3, 0, 0, 0] },
        Frame { ty: ty::EXEC_CMDLINE, body: vec![0; 20] },
        Frame { ty: ty::SERVICE_REFUSED, body: vec![0; 32] },
        Frame { ty: ty::CONNECTION_TERMINATED, body: vec![0; 9] },
        Frame { ty: ty::TRIGGER_SERVICE, body: vec![b'a'; 127] },
        Frame { ty: ty::TRIGGER_SERVICE4, body: vec![b'a'; 100] },
        Frame { ty: ty::DATA_STDIN, body: vec![] },
    ];
    for breach in breaches {
        let mut stage = Stage::with_agent(Version::V4);
        let client = stage.greeted_client();
        stage.core.handle_agent_frame(stage.now, &breach);
        let outputs = stage.outputs();
        assert!(
            matches!(
                outputs.as_slice(),
                [Output::Withdraw, Output::CloseClient(closed), Output::DropAgent(_)] if *closed == client
            ),
            "{breach:?}: {outputs:?}"
        );
        stage.agent_comes(4);
        assert_eq!(stage.outputs().last(), Some(&Output::Serve));
    }
}

#[test]
fn each_version_has_its_triggers() {
    let old = bytes_of(Version::V2);
    let middle = bytes_of(Version::V3);
    let new = bytes_of(Version::V4);
    let takes = |version: Version, frame: &Frame| {
        let mut stage = Stage::with_agent(version);
        stage.core.handle_agent_frame(stage.now, frame);
        matches!(stage.outputs().as_slice(), [Output::Ask(..)])
    };
    assert_eq!(
        [Version::V2, Version::V3, Version::V4].map(|version| takes(version, &old)),
        [true, false, false]
    );
    assert_eq!([Version::V2, Version::V3, Version::V4].map(|v| takes(v, &middle)), [false, true, true]);
    assert_eq!([Version::V2, Version::V3, Version::V4].map(|v| takes(v, &new)), [false, false, true]);
}

fn bytes_of(version: Version) -> Frame {
    super::stage::unframe(&Message::Trigger(trigger("vault", 1)).encode(version).unwrap())
}

/// The oldest form has room for 64 bytes, of which the last is the end of the name, whatever it is.
#[test]
fn a_name_that_fills_the_oldest_field_is_cut() {
    let mut stage = Stage::with_agent(Version::V2);
    let mut frame = bytes_of(Version::V2);
    frame.body[..64].fill(b's');
    stage.core.handle_agent_frame(stage.now, &frame);
    match stage.outputs().as_slice() {
        [Output::Ask(_, question)] => assert_eq!(question.service.as_str(), "s".repeat(63)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_service_that_has_no_name_is_refused() {
    let mut stage = Stage::with_agent(Version::V4);
    let mut frame = bytes_of(Version::V3);
    let name = frame.body.len() - "demo.Add+1\0".len();
    frame.body[name] = b'+';
    stage.core.handle_agent_frame(stage.now, &frame);
    assert_eq!(stage.outputs(), [refused(1)]);
}

#[test]
fn names_are_made_harmless_before_policy_sees_them() {
    let mut stage = Stage::with_agent(Version::V4);
    let mut frame = bytes_of(Version::V3);
    frame.body[..5].copy_from_slice(b"../v$");
    let name = frame.body.len() - "demo.Add+1\0".len();
    frame.body[name..name + 4].copy_from_slice(b"de\x1b/");
    stage.core.handle_agent_frame(stage.now, &frame);
    let outputs = stage.outputs();
    let [Output::Ask(_, question)] = outputs.as_slice() else { panic!("{outputs:?}") };
    assert_eq!((question.target.as_str(), question.service.as_str()), (".._v_", "de__.Add+1"));
}

/// A trigger of this version as an agent that checks nothing would pass it on: each field is written as it is given.
fn raw_trigger(version: Version, source: &[u8], target: &[u8], ident: &[u8], service: &[u8]) -> Frame {
    let padded = |field: &[u8], len: usize| [field, &vec![0; len - field.len()]].concat();
    let named = [service, b"\0"].concat();
    let (ty, parts) = match version {
        Version::V2 => (0x210, vec![padded(service, 64), padded(target, 32), padded(ident, 32)]),
        Version::V3 => (0x212, vec![padded(target, 64), padded(ident, 32), named]),
        Version::V4 => (0x213, vec![padded(source, 64), padded(target, 64), padded(ident, 32), named]),
    };
    Frame { ty, body: parts.concat() }
}

/// `start`, this byte, `end`: as it is if the byte may be there, with a `_` if it may not; a NUL ends the field.
fn seen(start: &str, byte: u8, end: &str, others: &[u8]) -> String {
    match byte {
        0 => start.to_owned(),
        _ if byte.is_ascii_alphanumeric() || others.contains(&byte) => {
            format!("{start}{}{end}", char::from(byte))
        }
        _ => format!("{start}_{end}"),
    }
}

/// An agent of any version may pass on what a caller says as it is.
#[test]
fn names_with_every_byte_are_made_harmless_before_policy_sees_them() {
    let around = |start: &[u8], byte: u8| [start, &[byte], b"b"].concat();
    for version in [Version::V2, Version::V3, Version::V4] {
        for byte in 0..=255_u8 {
            let mut stage = Stage::with_agent(version);
            let [source, target, service] = [b"s", b"t", b"a"].map(|start| around(start, byte));
            let frame = raw_trigger(version, &source, &target, b"SOCKET1", &service);
            stage.core.handle_agent_frame(stage.now, &frame);
            let outputs = stage.outputs();
            if byte == 0 && version != Version::V2 {
                // A name that ends before its end is no name. That of the oldest form ends there.
                assert_eq!(outputs, [refused(1)], "{version:?}");
                continue;
            }
            let [Output::Ask(_, question)] = outputs.as_slice() else { panic!("{byte:#x}: {outputs:?}") };
            assert_eq!(question.service.as_str(), seen("a", byte, "b", b"_.+-"), "{version:?} {byte:#x}");
            assert_eq!(question.target.as_str(), seen("t", byte, "b", b"_.@:-"), "{version:?} {byte:#x}");
            let said = question.requested_source.as_ref().map(|source| source.as_str().to_owned());
            let expected = (version == Version::V4).then(|| seen("s", byte, "b", b"_.@:-"));
            assert_eq!(said, expected, "{version:?} {byte:#x}");
        }
    }
}

/// An agent may fill the field with whatever its client sent, so a malformed id costs the request and nothing else:
/// policy is not asked, and the refusal has the bytes as they came.
#[test]
fn a_malformed_id_costs_its_request_and_no_more() {
    for version in [Version::V2, Version::V3, Version::V4] {
        let mut stage = Stage::with_agent(version);
        for byte in 0..=255_u8 {
            let ident = [b'i', byte, b'd'];
            stage
                .core
                .handle_agent_frame(stage.now, &raw_trigger(version, b"", b"vault", &ident, b"demo.Add"));
            let outputs = stage.all_outputs();
            let fine = byte.is_ascii_alphanumeric() || b"_. -".contains(&byte);
            let told = [&0x203_u32.to_le_bytes()[..], &32_u32.to_le_bytes(), &ident, &[0; 29]].concat();
            match outputs.as_slice() {
                [Output::Ask(id, _)] if fine => {
                    stage.core.handle_decided(stage.now, *id, crate::question::Verdict::deny("no"));
                    assert_eq!(stage.outputs(), [Output::SendAgent(told)]);
                }
                [Output::SendAgent(refused), Output::Log(Level::Warn, line)] if !fine => {
                    assert_eq!((refused, line.contains("malformed request id")), (&told, true));
                }
                other => panic!("{version:?} {byte:#x}: {other:?}"),
            }
        }
        // The link goes on.
        let frame = raw_trigger(version, b"", b"vault", b"SOCKET1", b"demo.Add");
        stage.core.handle_agent_frame(stage.now, &frame);
        assert!(matches!(stage.outputs().as_slice(), [Output::Ask(..)]));
    }
}

#[test]
fn half_a_message_may_not_take_for_ever() {
    let mut stage = Stage::with_agent(Version::V4);
    stage.core.handle_agent_read(stage.now, true);
    stage.passes(Duration::from_secs(9));
    stage.core.handle_agent_read(stage.now, false);
    stage.passes(Duration::from_secs(9));
    assert!(stage.outputs().is_empty());
    stage.core.handle_agent_read(stage.now, true);
    stage.passes(Duration::from_secs(6));
    // More of the same message does not start the clock again.
    stage.core.handle_agent_read(stage.now, true);
    stage.passes(Duration::from_secs(6));
    assert!(drops(&stage.outputs()));
}

#[test]
fn a_lost_agent_takes_with_it_who_waits_for_it() {
    let mut stage = Stage::with_agent(Version::V4);
    let idle = stage.greeted_client();
    let busy = stage.greeted_client();
    stage.client(busy, &exec(false, 0, 0, "user:true"));
    stage.outputs();
    let asked = stage.call("vault", 1);
    let connecting = stage.call("vault", 2);
    stage.core.handle_decided(stage.now, connecting, allow("vault"));
    let watched = stage.running_call(3);
    let served = stage.call("dom0", 4);
    stage.core.handle_decided(stage.now, served, allow("dom0"));
    stage.core.handle_service_started(served, Ok(()));
    stage.outputs();
    stage.core.handle_agent_lost();
    assert_eq!(
        stage.outputs(),
        [
            Output::Withdraw,
            Output::CloseClient(idle),
            Output::CloseClient(busy),
            Output::CancelQuestion(asked),
            Output::CloseTarget(connecting),
            Output::CloseTarget(watched),
        ]
    );
    // Late answers for the agent that is gone do not reach the one that comes.
    stage.agent_comes(4);
    stage.outputs();
    stage.core.handle_decided(stage.now, asked, allow("dom0"));
    stage.core.handle_target_closed(stage.now, connecting, "gone");
    assert!(stage.outputs().is_empty());
    stage.core.handle_service_ended(stage.now, served, 3, Some(Moved { bytes_in: 7, bytes_out: 9 }));
    let outputs = stage.all_outputs();
    assert!(
        matches!(outputs.as_slice(), [Output::Log(Level::Warn, line)] if line.contains("exit code 3, 7 bytes in, 9 bytes out, port"))
    );
}

#[test]
fn ports_stay_reserved_over_a_restart_of_the_agent() {
    let mut stage = Stage::with_agent(Version::V4);
    let client = stage.greeted_client();
    stage.client(client, &exec(false, 0, 0, "user:true"));
    stage.core.handle_agent_lost();
    stage.agent_comes(4);
    stage.outputs();
    let client = stage.greeted_client();
    stage.client(client, &exec(false, 0, 0, "user:true"));
    assert_eq!(stage.outputs()[1], Output::SendAgent(bytes(&exec(false, 0, 514, "user:true"))));
    // The old call ends after all, and nobody is closed for it.
    stage.agent(&terminated(0, 513));
    assert!(stage.outputs().is_empty());
    stage.agent(&terminated(0, 514));
    assert_eq!(stage.outputs(), [Output::CloseClient(client)]);
}

#[test]
fn ends_of_links_that_nobody_knows_are_of_no_consequence() {
    let mut stage = Stage::with_agent(Version::V4);
    for port in [0, 1, 512, 513, 768, 100_000, u32::MAX] {
        for domain in [0, 5, 9, u32::MAX] {
            stage.agent(&terminated(domain, port));
        }
    }
    assert!(stage.outputs().is_empty());
}

#[test]
fn an_agent_that_asks_too_much_at_once_is_refused() {
    let mut stage = Stage::with_agent(Version::V4);
    let ids: Vec<_> = (0..8).map(|number| stage.call("vault", number)).collect();
    stage.agent(&Message::Trigger(trigger("vault", 100)));
    assert_eq!(stage.outputs(), [refused(100)]);
    stage.core.handle_decided(stage.now, ids[0], crate::question::Verdict::deny("no"));
    assert_eq!(stage.outputs(), [refused(0)]);
    stage.call("vault", 101);
}

#[test]
fn the_same_id_twice_is_answered_twice() {
    let mut stage = Stage::with_agent(Version::V4);
    let (first, second) = (stage.call("vault", 1), stage.call("dom0", 1));
    stage.core.handle_decided(stage.now, first, crate::question::Verdict::deny("no"));
    assert_eq!(stage.outputs(), [refused(1)]);
    stage.core.handle_decided(stage.now, second, allow("dom0"));
    stage.core.handle_service_started(second, Ok(()));
    assert_eq!(stage.outputs().last(), Some(&connect(0, 513, 1)));
    assert_eq!(Ident::numbered(1).as_str(), "SOCKET1");
}
