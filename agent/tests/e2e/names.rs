//! What programs of the VM may write into a request, byte by byte, and what of it dom0 gets to see.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use wire::control::Message;
use wire::frame::Frame;
use wire::names::Ident;

use crate::lab::{Daemon, LIMIT, Lab};

/// The three forms that requests have had.
const FORMS: [u32; 3] = [0x210, 0x212, 0x213];

/// A request as a program writes it that checks nothing. The oldest form had no header.
fn raw(form: u32, ident: &[u8], [service, target, source]: [&[u8]; 3]) -> Vec<u8> {
    let padded = |field: &[u8], len: usize| [field, &vec![0; len - field.len()]].concat();
    let named = [service, b"\0"].concat();
    let body = match form {
        0x210 => return [padded(service, 64), padded(target, 32), padded(ident, 32)].concat(),
        0x212 => [padded(target, 64), padded(ident, 32), named].concat(),
        _ => [padded(source, 64), padded(target, 64), padded(ident, 32), named].concat(),
    };
    [&form.to_le_bytes()[..], &(body.len() as u32).to_le_bytes(), &body].concat()
}

/// What becomes of `x`, this byte, `y` in a field that takes letters, digits and these others.
fn seen(byte: u8, others: &[u8]) -> Vec<u8> {
    match byte {
        0 => b"x".to_vec(),
        _ if byte.is_ascii_alphanumeric() || others.contains(&byte) => vec![b'x', byte, b'y'],
        _ => b"x_y".to_vec(),
    }
}

fn say(lab: &Lab, request: &[u8]) -> UnixStream {
    let mut program = lab.program();
    program.set_read_timeout(Some(LIMIT)).expect("timeout");
    program.write_all(request).expect("write");
    program
}

/// The agent's answer is an end (or a reset, if there was more to read), and nothing else.
fn assert_ended(program: &mut UnixStream) {
    match program.read(&mut [0; 9]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("the agent keeps this request: {other:?}"),
    }
}

/// The fields of the trigger that the agent sent, as they were on the wire: service, target, source, ident.
fn fields(frame: &Frame) -> [&[u8]; 4] {
    assert_eq!(frame.ty, 0x213);
    let text = |field: std::ops::Range<usize>| frame.body[field].split(|byte| *byte == 0).next().unwrap();
    let service = frame.body[160..].strip_suffix(b"\0").expect("a NUL at the end");
    [service, text(64..128), text(0..64), text(128..160)]
}

/// Takes the request that must be next, refuses it and gives its names.
fn refuse(daemon: &mut Daemon) -> [Vec<u8>; 3] {
    let frame = daemon.hear_frame().expect("a request");
    let [service, target, source, ident] = fields(&frame);
    let number = ident.strip_prefix(b"SOCKET").expect("an id of the agent's");
    assert!(!number.is_empty() && number.iter().all(u8::is_ascii_digit), "{ident:?}");
    let ident = Ident::new(std::str::from_utf8(ident).expect("text")).expect("an id");
    daemon.send(&Message::Refused(ident));
    [service, target, source].map(<[u8]>::to_vec)
}

pub(crate) fn every_byte_is_harmless_before_dom0_sees_it() {
    let lab = Lab::start();
    let mut daemon = lab.daemon();
    lab.wait_for_socket();
    for (form, byte) in FORMS.into_iter().flat_map(|form| (0..=255).map(move |byte| (form, byte))) {
        let name = [b'x', byte, b'y'];
        let mut program = say(&lab, &raw(form, b"SOCKET", [&name; 3]));
        // A NUL ends a padded field; in the newer forms a service's name has none but at its end.
        if byte != 0 || form == 0x210 {
            let heard = refuse(&mut daemon);
            let source = if form == 0x213 { seen(byte, b"_.@:-") } else { Vec::new() };
            assert_eq!(heard, [seen(byte, b"_.+-"), seen(byte, b"_.@:-"), source], "{form:#x} {byte:#x}");
        }
        assert_ended(&mut program);
    }
    // What was refused here was not passed on: nothing is left but this.
    let _program = say(&lab, &raw(0x212, b"", [b"last", b"", b""]));
    assert_eq!(refuse(&mut daemon), [&b"last"[..], b"@default", b""].map(<[u8]>::to_vec));
}

pub(crate) fn an_id_with_any_other_byte_ends_the_request() {
    let lab = Lab::start();
    let mut daemon = lab.daemon();
    lab.wait_for_socket();
    for (form, byte) in FORMS.into_iter().flat_map(|form| (0..=255).map(move |byte| (form, byte))) {
        let mut program = say(&lab, &raw(form, &[b'i', byte, b'd'], [b"name", b"", b""]));
        if byte.is_ascii_alphanumeric() || b"_. -".contains(&byte) {
            // Whatever it was, dom0 is told the agent's own.
            assert_eq!(refuse(&mut daemon)[0], b"name", "{form:#x} {byte:#x}");
        }
        assert_ended(&mut program);
    }
    let _program = say(&lab, &raw(0x212, b"", [b"last", b"", b""]));
    assert_eq!(refuse(&mut daemon)[0], b"last");
}
