//! The messages of control links and local sockets, on both ends: what is understood is said again in the
//! same words, by every version that has them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::control::{MAX_CONTROL_BODY, Message, check_trigger_version};
use wire::header::{HEADER_LEN, ty};
use wire::trigger::Trigger;
use wire::version::Version;

fuzz_target!(|data: &[u8]| {
    let Some((ty, body)) = data.split_first_chunk::<2>() else { return };
    let ty = u32::from(u16::from_le_bytes(*ty));
    let Ok(message) = Message::decode(ty, body) else { return };
    check_direction(ty, &message);
    for version in fuzz::VERSIONS {
        let Ok(bytes) = message.encode(version) else {
            assert!(is_long(&message), "only a text that is long does not fit: {message:?}");
            continue;
        };
        let frame = fuzz::unframe(&bytes);
        if let Message::BadTrigger(bad) = &message {
            // It is answered with the id as it came, which need not be one, and never passed on.
            assert_eq!((frame.ty, frame.body.as_slice()), (ty::SERVICE_REFUSED, bad.ident.as_slice()));
            continue;
        }
        assert_eq!(check_trigger_version(frame.ty, version), Ok(()));
        let again = Message::decode(frame.ty, &frame.body).expect("what was said is understood");
        assert_eq!(again, as_said_by(version, message.clone()));
        assert_eq!(again.encode(version).as_deref(), Ok(bytes.as_slice()));
        let fits = message.encode_within(version, MAX_CONTROL_BODY).is_ok();
        assert_eq!(fits, bytes.len() - HEADER_LEN <= MAX_CONTROL_BODY);
    }
});

/// A type means one thing only.
fn check_direction(ty: u32, message: &Message) {
    let right = match message {
        Message::Hello(_) => ty == ty::HELLO,
        Message::Exec { just: false, .. } => ty == ty::EXEC_CMDLINE,
        Message::Exec { just: true, .. } => ty == ty::JUST_EXEC,
        Message::ServiceConnect(_) => ty == ty::SERVICE_CONNECT,
        Message::Refused(_) => ty == ty::SERVICE_REFUSED,
        Message::ConnectionTerminated(_) => ty == ty::CONNECTION_TERMINATED,
        Message::Trigger(_) | Message::BadTrigger(_) => {
            matches!(ty, ty::TRIGGER_SERVICE | ty::TRIGGER_SERVICE3 | ty::TRIGGER_SERVICE4)
        }
    };
    assert!(right, "{ty:#x} as {message:?}");
}

fn is_long(message: &Message) -> bool {
    match message {
        Message::Trigger(trigger) => {
            trigger.service.as_str().len() > 63 || trigger.target.as_str().len() > 31
        }
        Message::Exec { params, .. } => params.cmdline.len() > wire::control::MAX_CMDLINE,
        _ => false,
    }
}

/// What is left of a message in the words of this version: older triggers name no source.
fn as_said_by(version: Version, message: Message) -> Message {
    match message {
        Message::Trigger(trigger) if version < Version::V4 => {
            Message::Trigger(Trigger { source: None, ..trigger })
        }
        other => other,
    }
}
