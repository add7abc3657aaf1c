use alloc::collections::VecDeque;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

fn incoming(role: Role) -> Incoming {
    Incoming::new(role, Version::V4)
}

fn header(ty: u32, len: u32) -> Header {
    Header::new(ty, len)
}

#[test]
fn a_client_hears_everything() {
    let mut side = incoming(Role::Client);
    let kind = Kind::Stdout;
    assert_eq!(side.on_header(header(ty::DATA_STDOUT, 9)), Ok(Next::Payload { kind, len: 9 }));
    assert_eq!(side.on_header(header(ty::DATA_STDERR, 0)), Ok(Next::Eof(Kind::Stderr)));
    assert_eq!(side.on_header(header(ty::DATA_STDERR, 3)), Ok(Next::Ignore { len: 3 }));
    assert_eq!(side.on_header(header(ty::DATA_STDOUT, 0)), Ok(Next::Eof(kind)));
    assert_eq!(side.on_header(header(ty::DATA_STDOUT, 0)), Ok(Next::Ignore { len: 0 }));
    assert_eq!(side.on_header(header(ty::DATA_EXIT_CODE, 4)), Ok(Next::ExitCode { len: 4 }));
    assert_eq!(side.exit_code(), None);
    assert_eq!(side.on_exit_code(&[3, 0, 0, 0]), 3);
    assert_eq!(side.exit_code(), Some(3));
    assert_eq!(side.on_header(header(ty::DATA_EXIT_CODE, 4)), Ok(Next::Ignore { len: 4 }));
    assert!(!side.crossed());
}

#[test]
fn an_exit_code_without_eof_ends_all() {
    let mut side = incoming(Role::Client);
    assert_eq!(side.on_header(header(ty::DATA_EXIT_CODE, 4)), Ok(Next::ExitCode { len: 4 }));
    assert!(!side.is_open(Kind::Stdout) && !side.is_open(Kind::Stderr));
    assert_eq!(side.on_header(header(ty::DATA_STDOUT, 1)), Ok(Next::Ignore { len: 1 }));
    assert_eq!(side.on_header(header(0x194, 1)), Err(Breach::UnknownType(0x194).into()));
}

#[test]
fn odd_exit_codes() {
    let code = |body: &[u8]| incoming(Role::Client).on_exit_code(body);
    assert_eq!(code(b""), 255);
    assert_eq!(code(&[1, 0, 0]), 255);
    assert_eq!(code(&[0xff, 0xff, 0xff, 0xff]), -1);
    assert_eq!(code(&[2, 0, 0, 0, 9, 9]), 2);
}

#[test]
fn a_service_ignores_what_is_not_for_it() {
    let mut side = incoming(Role::Service);
    for ty in [ty::DATA_STDERR, ty::DATA_EXIT_CODE] {
        assert_eq!(side.on_header(header(ty, 5)), Ok(Next::Ignore { len: 5 }));
    }
    let kind = Kind::Stdin;
    assert_eq!(side.on_header(header(ty::DATA_STDIN, 5)), Ok(Next::Payload { kind, len: 5 }));
    assert!(!side.crossed());
    assert_eq!(side.on_header(header(ty::DATA_STDOUT, 5)), Ok(Next::Payload { kind, len: 5 }));
    assert!(side.crossed());
}

#[test]
fn the_version_limits_every_chunk() {
    for (version, max) in [(Version::V2, 4096), (Version::V3, 65_536), (Version::V4, 65_536)] {
        for role in [Role::Client, Role::Service] {
            for ty in ty::DATA_STDIN..=ty::DATA_EXIT_CODE {
                assert!(Incoming::new(role, version).on_header(header(ty, max)).is_ok());
                let over = Incoming::new(role, version).on_header(header(ty, max + 1));
                assert_eq!(over, Err(Breach::ChunkTooLong { len: max + 1, max }.into()));
            }
        }
        let sender = Outgoing::new(Role::Client, version);
        assert!(sender.header(Kind::Stdin, max).is_ok());
        assert_eq!(sender.header(Kind::Stdin, max + 1), Err(Misuse::ChunkLength(max + 1)));
        assert_eq!(sender.header(Kind::Stdin, 0), Err(Misuse::ChunkLength(0)));
    }
}

#[test]
fn foreign_messages_end_the_link() {
    let mut side = incoming(Role::Service);
    for ty in [ty::HELLO, ty::EXEC_CMDLINE, ty::SERVICE_REFUSED, ty::TRIGGER_SERVICE4] {
        assert_eq!(side.on_header(header(ty, 4)), Err(Breach::UnexpectedType(ty).into()));
    }
    for ty in [0, 0x18f, 0x194, 0x204, u32::MAX] {
        assert_eq!(side.on_header(header(ty, 4)), Err(Breach::UnknownType(ty).into()));
    }
}

#[test]
fn a_service_ends_its_streams_before_its_code() {
    let mut side = Outgoing::new(Role::Service, Version::V4);
    assert_eq!(side.exit_code(1), Err(Misuse::StreamOpen));
    assert_eq!(side.eof(Kind::Stderr), Ok(header(ty::DATA_STDERR, 0)));
    assert_eq!(side.eof(Kind::Stderr), Err(Misuse::StreamEnded));
    assert_eq!(side.header(Kind::Stderr, 1), Err(Misuse::StreamEnded));
    assert_eq!(side.exit_code(1), Err(Misuse::StreamOpen));
    assert_eq!(side.header(Kind::Stdin, 1), Err(Misuse::WrongKind));
    assert_eq!(side.eof(Kind::Stdout), Ok(header(ty::DATA_STDOUT, 0)));
    assert_eq!(side.exit_code(-2), Ok([0x93, 1, 0, 0, 4, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff]));
    assert!(side.exit_sent());
    assert_eq!(side.exit_code(0), Err(Misuse::ExitSent));
    assert_eq!(side.header(Kind::Stdout, 1), Err(Misuse::ExitSent));
}

#[test]
fn just_exec_sends_a_code_and_nothing_else() {
    let mut side = Outgoing::just_exec(Version::V4);
    assert_eq!(side.eof(Kind::Stdout), Err(Misuse::StreamEnded));
    assert_eq!(side.header(Kind::Stderr, 1), Err(Misuse::StreamEnded));
    assert!(side.exit_code(0).is_ok());
}

#[test]
fn a_client_has_one_stream() {
    let mut side = Outgoing::new(Role::Client, Version::V4);
    assert_eq!(side.exit_code(0), Err(Misuse::WrongKind));
    for kind in [Kind::Stdout, Kind::Stderr] {
        assert!(!side.is_open(kind));
        assert_eq!(side.header(kind, 1), Err(Misuse::WrongKind));
        assert_eq!(side.eof(kind), Err(Misuse::WrongKind));
    }
    assert!(side.is_open(Kind::Stdin));
    assert!(side.eof(Kind::Stdin).is_ok());
    assert!(!side.is_open(Kind::Stdin));
}

/// What a side is asked to do: what its rules forbid it must refuse, what they allow must arrive.
#[derive(Debug, Clone, Copy)]
enum Wish {
    Send(Kind, u32),
    End(Kind),
    Exit(i32),
}

fn wishes() -> impl Strategy<Value = Vec<(Role, Wish)>> {
    let role = prop_oneof![Just(Role::Client), Just(Role::Service)];
    let kind = prop_oneof![Just(Kind::Stdin), Just(Kind::Stdout), Just(Kind::Stderr)];
    let wish = prop_oneof![
        4 => (kind.clone(), 0..70_000_u32).prop_map(|(kind, len)| Wish::Send(kind, len)),
        2 => kind.prop_map(Wish::End),
        1 => any::<i32>().prop_map(Wish::Exit),
    ];
    proptest::collection::vec((role, wish), 0..60)
}

/// One direction: what was sent, in order, and what the other side made of it.
struct Direction {
    sender: Outgoing,
    receiver: Incoming,
    on_the_way: VecDeque<(Header, Option<i32>)>,
    sent: Vec<Next>,
    heard: Vec<Next>,
    exit: Option<i32>,
}

impl Direction {
    fn new(role: Role, other: Role, version: Version) -> Self {
        Self {
            sender: Outgoing::new(role, version),
            receiver: Incoming::new(other, version),
            on_the_way: VecDeque::new(),
            sent: Vec::new(),
            heard: Vec::new(),
            exit: None,
        }
    }

    fn send(&mut self, wish: Wish) {
        match wish {
            Wish::Send(kind, len) => {
                if let Ok(header) = self.sender.header(kind, len) {
                    self.sent.push(Next::Payload { kind, len });
                    self.on_the_way.push_back((header, None));
                }
            }
            Wish::End(kind) => {
                if let Ok(header) = self.sender.eof(kind) {
                    self.sent.push(Next::Eof(kind));
                    self.on_the_way.push_back((header, None));
                }
            }
            Wish::Exit(code) => {
                if let Ok(message) = self.sender.exit_code(code) {
                    let header = Header::from_bytes(*message.first_chunk().unwrap());
                    self.sent.push(Next::ExitCode { len: header.len });
                    self.on_the_way.push_back((header, Some(code)));
                    self.exit = Some(code);
                }
            }
        }
    }

    fn deliver(&mut self) {
        if let Some((header, code)) = self.on_the_way.pop_front() {
            let next = self.receiver.on_header(header).expect("our own sender keeps the protocol");
            if let (Next::ExitCode { .. }, Some(code)) = (next, code) {
                assert_eq!(self.receiver.on_exit_code(&code.to_le_bytes()), code);
            }
            self.heard.push(next);
        }
    }
}

proptest! {
    #[test]
    fn what_is_sent_is_what_is_heard(wishes in wishes(), delays: Vec<bool>, old: bool) {
        let version = if old { Version::V2 } else { Version::V4 };
        let mut up = Direction::new(Role::Client, Role::Service, version);
        let mut down = Direction::new(Role::Service, Role::Client, version);
        let mut delays = delays.iter().chain(core::iter::repeat(&false));
        for (role, wish) in wishes {
            let direction = if role == Role::Client { &mut up } else { &mut down };
            direction.send(wish);
            if !delays.next().unwrap() {
                direction.deliver();
            }
        }
        for mut direction in [up, down] {
            while !direction.on_the_way.is_empty() {
                direction.deliver();
            }
            prop_assert_eq!(&direction.sent, &direction.heard);
            prop_assert_eq!(direction.receiver.exit_code(), direction.exit);
            prop_assert!(!direction.receiver.crossed());
        }
    }

    #[test]
    fn no_header_surprises_a_receiver(
        headers in proptest::collection::vec((0x18f..0x196_u32, 0..70_000_u32), 0..40),
        client: bool,
    ) {
        let mut side = incoming(if client { Role::Client } else { Role::Service });
        for (ty, len) in headers {
            match side.on_header(header(ty, len)) {
                Ok(Next::Payload { len: said, .. } | Next::ExitCode { len: said } | Next::Ignore { len: said }) => {
                    prop_assert_eq!(said, len);
                }
                Ok(Next::Eof(_)) => prop_assert_eq!(len, 0),
                Err(_) => prop_assert!(len > 65_536 || !(0x190..=0x193).contains(&ty)),
            }
        }
    }
}
