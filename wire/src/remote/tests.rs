use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::frames::{self, Parser, Piece, Violation};
use super::mux::{self, Event, Session};
use super::names::{BadLineKind, BadName, Remotes, Sources, check_name};
use super::request::{self, BadRequest, Command, Layout, Request};
use crate::header::{Header, ty};
use crate::stream::{Kind, Role};

/// Everything that comes out, with the data joined by stream, however the input is cut.
fn parse(role: Role, input: &[u8], cut: usize) -> (Vec<String>, Vec<u8>, Option<Violation>) {
    let mut parser = Parser::new(role);
    let (mut events, mut data) = (Vec::new(), Vec::new());
    for part in input.chunks(cut.max(1)) {
        let mut rest = part;
        loop {
            match parser.next(&mut rest) {
                Ok(None) => break,
                Ok(Some(Piece::Data(kind, bytes))) => {
                    assert!(!bytes.is_empty());
                    data.push(kind as u8);
                    data.extend_from_slice(bytes);
                }
                Ok(Some(piece)) => events.push(alloc::format!("{piece:?}")),
                Err(violation) => {
                    assert_eq!(parser.next(&mut rest), Err(violation));
                    return (events, data, Some(violation));
                }
            }
        }
    }
    (events, data, None)
}

fn message(ty: u32, body: &[u8]) -> Vec<u8> {
    [Header::new(ty, body.len() as u32).to_bytes().as_slice(), body].concat()
}

#[test]
fn a_call_comes_through_whole() {
    let stream = [
        frames::hello().as_slice(),
        &message(ty::DATA_STDERR, b"warning"),
        &message(ty::DATA_STDOUT, b"out"),
        &frames::header(Kind::Stdout, 0),
        &message(ty::DATA_STDERR, b"late"),
        &frames::header(Kind::Stderr, 0),
        &frames::exit(7),
    ]
    .concat();
    for cut in 1..stream.len() {
        let (events, _, violation) = parse(Role::Client, &stream, cut);
        assert_eq!(violation, None);
        assert_eq!(events, ["Hello", "End(Stdout)", "End(Stderr)", "Exit(7)"]);
    }
    let (_, data, _) = parse(Role::Client, &stream, stream.len());
    assert_eq!(data, b"\x02warning\x01out\x02late");
}

#[test]
fn what_breaks_the_rules_ends_the_call() {
    let after = |bytes: &[u8]| [frames::hello().as_slice(), bytes].concat();
    let cases: [(Role, Vec<u8>, Violation); 9] = [
        (Role::Client, b"Welcome to this machine\n".to_vec(), Violation::NoHello),
        (Role::Client, message(ty::HELLO, &2_u32.to_le_bytes()), Violation::Version(2)),
        (Role::Client, after(&Header::new(ty::DATA_STDOUT, 65_537).to_bytes()), Violation::TooLong(65_537)),
        (Role::Client, after(&message(0x194, b"")), Violation::UnknownType(0x194)),
        (Role::Client, after(&message(ty::DATA_STDIN, b"x")), Violation::UnknownType(ty::DATA_STDIN)),
        (Role::Client, after(&message(ty::DATA_EXIT_CODE, b"abc")), Violation::ExitLength(3)),
        (Role::Client, after(&[frames::exit(0).as_slice(), b"x"].concat()), Violation::BehindExit),
        (Role::Service, frames::exit(0).to_vec(), Violation::UnknownType(ty::DATA_EXIT_CODE)),
        (Role::Service, message(ty::DATA_STDOUT, b"x"), Violation::UnknownType(ty::DATA_STDOUT)),
    ];
    for (role, stream, wanted) in cases {
        assert_eq!(parse(role, &stream, usize::MAX).2, Some(wanted), "{stream:?}");
    }
    let twice = [frames::header(Kind::Stdin, 0), frames::header(Kind::Stdin, 0)].concat();
    assert_eq!(parse(Role::Service, &twice, 3).2.unwrap().to_string(), "stdin goes on behind its end");
}

#[test]
fn a_session_is_asked_for_and_opened() {
    let mut session = Session::default();
    assert_eq!(mux::hello(), [0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 4]);
    let asked = mux::new_session(b"qrexec-remote 1 a b c");
    assert_eq!(asked.len(), 4 + 9 * 4 + 4 + 21);
    assert!(asked.ends_with(b"\0\0\0\x15qrexec-remote 1 a b c"));
    assert_eq!(session.poll_event(), Ok(None));
    let packet = |numbers: &[u32]| {
        let body: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
        [(body.len() as u32).to_be_bytes().as_slice(), &body].concat()
    };
    session.handle_bytes(&packet(&[1, 4]));
    assert_eq!(session.poll_event(), Ok(Some(Event::Ready)));
    session.handle_bytes(&packet(&[0x8000_0006, 0, 9]));
    session.handle_bytes(&packet(&[0x8000_0004, 8, 3]));
    session.handle_bytes(&packet(&[0x8000_0004, 9, 255]));
    assert_eq!(session.poll_event(), Ok(Some(Event::Opened)));
    // The end of another session changes nothing.
    assert_eq!(session.poll_event(), Ok(Some(Event::Exited(255))));
    assert_eq!(session.poll_event(), Ok(None));
}

#[test]
fn a_refusal_has_its_reason_and_nonsense_ends_it() {
    let mut session = Session::default();
    session.handle_bytes(&[0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 4]);
    assert_eq!(session.poll_event(), Ok(Some(Event::Ready)));
    let text = b"Session open refused by peer";
    let mut packet =
        vec![0, 0, 0, 12 + text.len() as u8, 0x80, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, text.len() as u8];
    packet.extend_from_slice(text);
    session.handle_bytes(&packet);
    assert_eq!(session.poll_event(), Ok(Some(Event::Refused(text.to_vec()))));

    let broken = |bytes: &[u8]| {
        let mut session = Session::default();
        session.handle_bytes(bytes);
        session.poll_event().unwrap_err()
    };
    assert_eq!(broken(&[0, 0, 0x40, 1]), mux::Violation::TooLong(0x4001));
    assert_eq!(broken(&[0, 0, 0, 2, 0, 0]), mux::Violation::Short);
    assert_eq!(broken(&[0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 5]), mux::Violation::Version(5));
    assert_eq!(broken(&[0, 0, 0, 4, 0x80, 0, 0, 6]), mux::Violation::Unexpected(0x8000_0006));
}

#[test]
fn a_request_is_five_words_and_comes_back() {
    let request = Request::new(b"here-work", b"far", b"test.Echo+a+b", Layout::Frames).unwrap();
    assert_eq!(request.command(), "qrexec-remote 1 here-work far test.Echo+a+b");
    assert_eq!(request::parse(request.command().as_bytes()), Ok(Command::Call(request.clone())));
    let plain = Request { layout: Layout::Plain, ..request };
    assert_eq!(request::parse(plain.command().as_bytes()), Ok(Command::Call(plain.clone())));
    // As a script of upstream's documentation writes it, without `--`.
    let script = b"qrexec-client-vm --source-qube=here-work far test.Echo+a+b";
    assert_eq!(request::parse(script), Ok(Command::Call(plain)));
    assert_eq!(request::parse(request::ACCEPT.as_bytes()), Ok(Command::Accept));
    assert_eq!(request::parse(request::CHECK.as_bytes()), Ok(Command::Check));
}

#[test]
fn what_is_no_call_is_refused() {
    let refused = |command: &str| request::parse(command.as_bytes()).unwrap_err();
    for command in ["", "sh", "scp -t /", "qrexec-remote-x 1 a b c", "internal-sftp"] {
        assert_eq!(refused(command), BadRequest::NotACall, "{command}");
    }
    for command in [
        "qrexec-remote 1 a b",
        "qrexec-remote 1 a b c d",
        "qrexec-remote",
        "qrexec-client-vm a b",
        "qrexec-client-vm --source-qube=a b c d",
        "qrexec-client-vm",
    ] {
        assert_eq!(refused(command), BadRequest::Words, "{command}");
    }
    assert_eq!(refused("qrexec-remote 2 a b c"), BadRequest::Form);
    assert_eq!(refused("qrexec-remote 1 a  b"), BadRequest::Target(BadName::Length));
    for source in ["dom0", "x;id", "-h", "abcdefghijklmnopqrstuvwxyz012345", "1a", "@anyvm", ""] {
        let command = alloc::format!("qrexec-remote 1 {source} b c");
        assert!(matches!(refused(&command), BadRequest::Source(_)), "{command}");
        let command = alloc::format!("qrexec-remote 1 a {source} c");
        assert!(matches!(refused(&command), BadRequest::Target(_)), "{command}");
    }
    for service in ["-x", "+x", "a/b", "a;b", "a\nb", "ä"] {
        let command = alloc::format!("qrexec-remote 1 a b {service}");
        assert_eq!(refused(&command), BadRequest::Service, "{command}");
    }
    assert!(request::parse(b"qrexec-remote 1 a @dispvm c").is_ok());
    assert!(request::parse(b"qrexec-remote 1 a @dispvm:tpl c").is_ok());
    assert!(request::parse(b"qrexec-remote 1 a @dispvm:dom0 c").is_err());
}

#[test]
fn a_claimed_name_becomes_one_of_the_link() {
    let sources = Sources::parse("# laptop\nwork here-work\n\n* laptop-  # the others\n").unwrap();
    assert_eq!(sources.local("work").as_deref(), Some("here-work"));
    assert_eq!(sources.local("mail").as_deref(), Some("laptop-mail"));
    // Too long once the prefix is added.
    assert_eq!(sources.local("abcdefghijklmnopqrstuvwxyz"), None);
    assert_eq!(Sources::parse("work here-work").unwrap().local("mail"), None);
    let bad = |text| Sources::parse(text).unwrap_err();
    assert_eq!(bad("a b\nc").what, BadLineKind::Words);
    assert_eq!(bad("a b\na c").to_string(), "line 2: an earlier line has the same name");
    assert_eq!(bad("* b\n* c").what, BadLineKind::Again);
    assert_eq!(bad("a dom0").what, BadLineKind::Name(BadName::Dom0));
    let remotes = Remotes::parse("far work\n").unwrap();
    assert_eq!((remotes.remote("far"), remotes.remote("work")), (Some("work"), None));
    assert_eq!(Remotes::parse("far work\nfar mail").unwrap_err().line, 2);
    assert_eq!(check_name(b"a.b-c_d9").as_deref(), Ok("a.b-c_d9"));
}

proptest! {
    #[test]
    fn frames_do_not_depend_on_how_they_are_cut(
        bodies in proptest::collection::vec((0_u32..4, proptest::collection::vec(any::<u8>(), 0..40)), 0..12),
        cut in 1_usize..50,
    ) {
        let mut stream = frames::hello().to_vec();
        for (ty, body) in &bodies {
            stream.extend(message(ty::DATA_STDIN + ty, body));
        }
        let whole = parse(Role::Client, &stream, usize::MAX);
        let pieces = parse(Role::Client, &stream, cut);
        prop_assert_eq!(&whole.0, &pieces.0);
        prop_assert_eq!(whole.2, pieces.2);
    }

    #[test]
    fn no_master_makes_us_hold_more_than_a_packet(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut session = Session::default();
        for byte in bytes {
            session.handle_bytes(&[byte]);
            let _ = session.poll_event();
        }
    }
}
