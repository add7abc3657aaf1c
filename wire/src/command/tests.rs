use alloc::format;
use alloc::string::ToString;
use alloc::vec;

use proptest::prelude::*;

use super::*;

fn service(line: &[u8]) -> ServiceCall {
    match Command::parse(line).unwrap().kind {
        CommandKind::Service(call) => call,
        CommandKind::Shell(_) => panic!("not a service"),
    }
}

#[test]
fn shell_commands_keep_their_bytes() {
    let command = Command::parse(b"user:nogui:echo '\xff:' QUBESRPC").unwrap();
    assert_eq!(command.user.as_deref(), Some("user"));
    assert!(command.nogui);
    assert_eq!(command.kind, CommandKind::Shell(b"echo '\xff:' QUBESRPC".to_vec()));
}

#[test]
fn services() {
    let call = service(b"root:QUBESRPC qubes.Test+a+b dom0");
    assert_eq!((call.service.name(), call.service.argument()), ("qubes.Test", Some("a+b")));
    assert_eq!(call.source.as_str(), "dom0");
    assert_eq!(call.requested, None);
    assert_eq!(call.descriptor(), "qubes.Test+a+b dom0");

    let call = service(b"u:QUBESRPC q work keyword dispvm:x");
    assert_eq!(call.descriptor(), "q work keyword dispvm:x");
    let requested = call.requested.unwrap();
    assert_eq!((requested.type_word(), requested.target().as_str()), ("keyword", "dispvm:x"));
    assert_eq!(service(b"u:QUBESRPC q work  name  t ").requested.unwrap().type_word(), "name");
}

/// A socket service and a fork server get every byte as it was received, and a daemon adds the `+`.
#[test]
fn a_line_is_passed_on_as_it_came() {
    for words in ["q work", "q+ work", "q+a+b work", "q work  name  t ", "q work keyword dispvm:x"] {
        let line = format!("u:nogui:QUBESRPC {words}");
        assert_eq!(service(line.as_bytes()).descriptor(), words);
        assert_eq!(Command::parse(line.as_bytes()).unwrap().to_cmdline(), line.as_bytes());
    }
    let name = |text| Target::new(text).unwrap();
    let words = |service: &str, requested| {
        let service = ServiceName::new(service).unwrap();
        ServiceCall::new(service, name("work"), requested).descriptor().to_string()
    };
    assert_eq!(words("q", None), "q+ work");
    assert_eq!(words("q+a", Some(Requested::Name(name("t")))), "q+a work name t");
    assert_eq!(words("q", Some(Requested::Keyword(name("dispvm:x")))), "q+ work keyword dispvm:x");
}

#[test]
fn requested_targets_are_sorted() {
    let sorted =
        |text| Requested::new(&Target::new(text).unwrap()).map(|r| (r.type_word(), r.target().to_string()));
    assert_eq!(sorted("work"), Some(("name", "work".into())));
    assert_eq!(sorted("@adminvm"), Some(("keyword", "adminvm".into())));
    assert_eq!(sorted("@"), None);
}

#[test]
fn nonsense_has_its_error() {
    let error = |line: &[u8]| Command::parse(line).unwrap_err();
    assert_eq!(error(b"ls"), CommandError::NoUser);
    assert_eq!(error(b":ls"), CommandError::BadUser);
    assert_eq!(error(b"a\nb:ls"), CommandError::BadUser);
    assert_eq!(error(b"../x:ls"), CommandError::BadUser);
    assert_eq!(error(b"\xff:ls"), CommandError::BadUser);
    assert_eq!(error(b"u:"), CommandError::Empty);
    assert_eq!(error(b"u:nogui:"), CommandError::Empty);
    assert_eq!(error(b"u:a\0b"), CommandError::Nul);
    for words in ["", "x", " ", " x", " x ", " x  dom0", " x dom0 name", " x dom0 uuid y", " x d name y z"] {
        assert_eq!(error(format!("u:QUBESRPC{words}").as_bytes()), CommandError::Words, "{words:?}");
    }
    assert_eq!(error(b"u:QUBESRPC  dom0"), CommandError::Service(NameError::Empty));
    assert_eq!(error(b"u:QUBESRPC ../x dom0"), CommandError::Service(NameError::BadByte(b'/')));
    assert_eq!(error(b"u:QUBESRPC +x dom0"), CommandError::Service(NameError::BadStart('+')));
    assert_eq!(error(b"u:QUBESRPC x $d"), CommandError::Source(NameError::BadByte(b'$')));
    assert_eq!(error(b"u:QUBESRPC x d name $"), CommandError::Requested(NameError::BadByte(b'$')));
    let long = [b"u:".as_slice(), &vec![b'x'; MAX_CMDLINE]].concat();
    assert!(matches!(error(&long), CommandError::TooLong { .. }));
}

proptest! {
    #[test]
    fn whatever_parses_says_the_same_again(line: Vec<u8>) {
        for parsed in [Command::parse(&line), Command::parse_without_user(&line)].into_iter().flatten() {
            let said = parsed.to_cmdline();
            let again = match parsed.user {
                Some(_) => Command::parse(&said),
                None => Command::parse_without_user(&said),
            };
            prop_assert_eq!(again, Ok(parsed));
        }
    }

    #[test]
    fn services_round_trip(
        line in "[a-z]{1,9}:(nogui:)?QUBESRPC [a-z.]{1,9}(\\+[a-z+]{0,9})? [a-z]{1,9}( (name|keyword) [a-z:@]{1,9})?"
    ) {
        let parsed = Command::parse(line.as_bytes()).unwrap();
        prop_assert_eq!(parsed.to_cmdline(), line.into_bytes());
    }
}
