//! The devices as machines: bytes in, bytes out, time as an argument.

use std::time::Duration;

use proptest::prelude::*;
use usb_sim::{DEVID, Kind, Machine, Medium, pattern};
use wire::usbip::{Answer, Command, Direction, Filter, HEADER_LEN, Packet, Rules, Side, Submit};

const MS: Duration = Duration::from_millis(1);

fn submit(seqnum: u32, direction: Direction, endpoint: u8, length: u32) -> Submit {
    let (flags, start_frame, packets, interval) = (0, 0, 0, 0);
    Submit {
        seqnum,
        devid: DEVID,
        direction,
        endpoint,
        flags,
        length,
        start_frame,
        packets,
        interval,
        setup: [0; 8],
    }
}

fn header(submit: Submit) -> Vec<u8> {
    Command::Submit(submit).to_bytes().to_vec()
}

fn unlink(seqnum: u32, target: u32) -> Vec<u8> {
    Command::Unlink { seqnum, devid: DEVID, target }.to_bytes().to_vec()
}

fn control(seqnum: u32, setup: [u8; 8]) -> Vec<u8> {
    let direction = if setup[0] & 0x80 == 0 { Direction::Out } else { Direction::In };
    let length = if direction == Direction::In { u32::from(setup[6]) } else { 0 };
    header(Submit { setup, ..submit(seqnum, direction, 0, length) })
}

/// A stick of 64 KiB whose line was taken.
fn stick() -> Machine {
    new(Kind::Stick(Medium::Memory(pattern(64 << 10))))
}

fn new(kind: Kind) -> Machine {
    let mut machine = Machine::new(kind, None);
    assert_eq!(take(&mut machine), machine.line().text().as_bytes());
    machine
}

fn take(machine: &mut Machine) -> Vec<u8> {
    let output = machine.output().to_vec();
    machine.handle_sent(output.len());
    output
}

/// What the machine answers to these bytes at once.
fn answer(machine: &mut Machine, bytes: &[u8]) -> Vec<u8> {
    machine.handle_input(bytes, Duration::ZERO).unwrap();
    take(machine)
}

/// The only answer: its number, status, length, and data.
fn one(bytes: &[u8]) -> (u32, i32, Vec<u8>) {
    let (header, data) = bytes.split_first_chunk::<HEADER_LEN>().expect("an answer");
    match Answer::from_bytes(*header).unwrap() {
        Answer::Submitted(answer) => (answer.seqnum, answer.status, data.to_vec()),
        Answer::Unlinked { seqnum, status } => (seqnum, status, data.to_vec()),
    }
}

/// A wrapper around a command block.
fn wrapper(tag: u32, length: u32, to_host: bool, block: &[u8]) -> Vec<u8> {
    let mut bytes = b"USBC".to_vec();
    bytes.extend(tag.to_le_bytes());
    bytes.extend(length.to_le_bytes());
    bytes.extend([if to_host { 0x80 } else { 0 }, 0, u8::try_from(block.len()).unwrap()]);
    bytes.extend(block);
    bytes.resize(31, 0);
    bytes
}

fn out(seqnum: u32, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap();
    [header(submit(seqnum, Direction::Out, 2, length)), data.to_vec()].concat()
}

fn into(seqnum: u32, length: u32) -> Vec<u8> {
    header(submit(seqnum, Direction::In, 1, length))
}

#[test]
fn a_command_is_three_messages() {
    let mut stick = stick();
    let read = wrapper(7, 1024, true, &[0x28, 0, 0, 0, 0, 3, 0, 0, 2, 0]);
    assert_eq!(one(&answer(&mut stick, &out(1, &read))), (1, 0, vec![]));
    assert_eq!(
        one(&answer(&mut stick, &into(2, 1024))),
        (2, 0, pattern(64 << 10)[3 * 512..5 * 512].to_vec())
    );
    let status = [b"USBS", &7u32.to_le_bytes()[..], &[0; 5]].concat();
    assert_eq!(one(&answer(&mut stick, &into(3, 13))), (3, 0, status));
}

#[test]
fn data_comes_in_the_pieces_that_are_asked_for_and_may_be_asked_for_early() {
    let mut stick = stick();
    assert!(answer(&mut stick, &into(1, 512)).is_empty());
    assert!(answer(&mut stick, &into(2, 512)).is_empty());
    let read = wrapper(7, 1024, true, &[0x28, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
    let bytes = answer(&mut stick, &out(3, &read));
    let content = pattern(1024);
    let (taken, rest) = bytes.split_at(HEADER_LEN);
    let (first, second) = rest.split_at(HEADER_LEN + 512);
    assert_eq!(one(taken), (3, 0, vec![]));
    assert_eq!((one(first), one(second)), ((1, 0, content[..512].to_vec()), (2, 0, content[512..].to_vec())));
}

#[test]
fn what_was_written_is_read_from_memory_and_from_a_file() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(64 << 10).unwrap();
    for medium in [Medium::Memory(vec![0; 64 << 10]), Medium::File(file, 64 << 10)] {
        let mut stick = new(Kind::Stick(medium));
        let data = pattern(1024);
        let write = wrapper(1, 1024, false, &[0x2a, 0, 0, 0, 0, 126, 0, 0, 2, 0]);
        answer(&mut stick, &out(1, &write));
        // In two pieces.
        answer(&mut stick, &out(2, &data[..600]));
        answer(&mut stick, &out(3, &data[600..]));
        assert_eq!(one(&answer(&mut stick, &into(4, 13))).2[8..], [0; 5]);
        let read = wrapper(2, 1024, true, &[0x28, 0, 0, 0, 0, 126, 0, 0, 2, 0]);
        answer(&mut stick, &out(5, &read));
        assert_eq!(one(&answer(&mut stick, &into(6, 1024))).2, data);
    }
}

#[test]
fn a_command_that_fails_halts_the_endpoint_until_that_is_cleared_and_says_why() {
    let mut stick = stick();
    let beyond = wrapper(9, 512, true, &[0x28, 0, 0, 0, 0, 128, 0, 0, 1, 0]);
    answer(&mut stick, &out(1, &beyond));
    assert_eq!(one(&answer(&mut stick, &into(2, 512))).1, -32);
    assert_eq!(one(&answer(&mut stick, &into(3, 13))).1, -32);
    assert_eq!(one(&answer(&mut stick, &control(4, [2, 1, 0, 0, 0x81, 0, 0, 0]))).1, 0);
    let (_, status, data) = one(&answer(&mut stick, &into(5, 13)));
    assert_eq!((status, &data[8..]), (0, &[0, 2, 0, 0, 1][..]), "512 bytes were not moved; failed");
    let sense = wrapper(10, 18, true, &[3, 0, 0, 0, 18, 0]);
    answer(&mut stick, &out(6, &sense));
    let (_, _, sense) = one(&answer(&mut stick, &into(7, 18)));
    assert_eq!((sense[2], sense[12]), (5, 0x21), "out of range");
}

#[test]
fn a_request_that_waits_can_be_cancelled_and_has_no_other_answer() {
    let mut keyboard = new(Kind::Keyboard(Some(10 * MS)));
    assert!(answer(&mut keyboard, &into(1, 8)).is_empty());
    assert_eq!(one(&answer(&mut keyboard, &unlink(2, 1))), (2, -104, vec![]));
    // It is over, and so is one that never was.
    assert_eq!(one(&answer(&mut keyboard, &unlink(3, 1))), (3, 0, vec![]));
    keyboard.handle_time(20 * MS);
    assert!(take(&mut keyboard).is_empty());
    assert_eq!(one(&answer(&mut keyboard, &into(4, 8))).2, [0, 0, 4, 0, 0, 0, 0, 0]);
}

#[test]
fn an_idle_keyboard_waits_for_nothing() {
    let mut keyboard = new(Kind::Keyboard(None));
    assert!(answer(&mut keyboard, &into(1, 8)).is_empty());
    assert_eq!(keyboard.deadline(), None);
}

/// A request of eight packets, which is a millisecond at high speed.
fn iso(seqnum: u32) -> Vec<u8> {
    let packets = (0..8).map(|number| Packet { offset: number * 192, length: 192, ..Packet::default() });
    let mut bytes = header(Submit { packets: 8, ..submit(seqnum, Direction::In, 1, 8 * 192) });
    bytes.extend(packets.flat_map(|packet| packet.to_bytes()));
    bytes
}

#[test]
fn a_camera_answers_in_its_time_and_counts_what_came_too_late() {
    let mut camera = new(Kind::Camera);
    camera.handle_input(&[iso(1), iso(2)].concat(), Duration::ZERO).unwrap();
    assert_eq!(camera.deadline(), Some(MS));
    camera.handle_time(MS - Duration::from_micros(1));
    assert!(take(&mut camera).is_empty());
    camera.handle_time(MS);
    let (seqnum, status, data) = one(&take(&mut camera));
    assert_eq!((seqnum, status, data.len()), (1, 0, 8 * 192 + 8 * 16));
    camera.handle_time(2 * MS);
    assert_eq!(one(&take(&mut camera)).0, 2);
    assert_eq!(camera.counts().starved, 0);
    camera.handle_input(&iso(3), 5 * MS).unwrap();
    assert_eq!((camera.counts().starved, camera.counts().worst), (1, 3 * MS));
    assert_eq!(camera.deadline(), Some(6 * MS));
    // A stream that was stopped is not late when it begins anew.
    assert_eq!(one(&answer(&mut camera, &unlink(4, 3))).1, -104);
    camera.handle_input(&iso(5), 9 * MS).unwrap();
    assert_eq!(camera.counts().starved, 1);
}

#[test]
fn descriptors_are_as_long_as_they_say() {
    let kinds = [Kind::Stick(Medium::Memory(pattern(512))), Kind::Camera, Kind::Keyboard(None)];
    for mut machine in kinds.map(new) {
        let device = one(&answer(&mut machine, &control(1, [0x80, 6, 0, 1, 0, 0, 18, 0]))).2;
        assert_eq!(device.len(), 18);
        let head = one(&answer(&mut machine, &control(2, [0x80, 6, 0, 2, 0, 0, 9, 0]))).2;
        let whole = one(&answer(&mut machine, &control(3, [0x80, 6, 0, 2, 0, 0, 255, 0]))).2;
        assert_eq!(usize::from(head[2]), whole.len());
        // Descriptors, each with its length, that fill the whole.
        let (mut at, mut kinds) = (0, Vec::new());
        while at < whole.len() {
            kinds.push(whole[at + 1]);
            at += usize::from(whole[at]);
        }
        assert_eq!(at, whole.len());
        assert!(kinds.contains(&4) && kinds.contains(&5), "interface and endpoint: {kinds:?}");
    }
}

#[test]
fn a_stream_for_another_device_is_refused() {
    let mut stick = stick();
    let mut bytes = into(1, 13);
    bytes[11] ^= 1;
    stick.handle_input(&bytes, Duration::ZERO).unwrap_err();
}

/// Some messages of every kind, well formed or not.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let block = (0u8..=255, prop::collection::vec(0u8.., 15)).prop_map(|(code, rest)| {
        let known = [0x28, 0x2a, 0x12, 0x1a, 0x5a, 0x9e, 0x88, 0x8a, 0x08, 0x0a, 0x03, 0x25, 0x35];
        let code = known.get(usize::from(code) % 20).copied().unwrap_or(code);
        [&[code][..], &rest].concat()
    });
    let command = (0u32..9, 0u32..4096, any::<bool>(), block);
    prop_oneof![
        4 => command.prop_map(|(seqnum, length, way, block)| out(seqnum, &wrapper(1, length, way, &block))),
        4 => (0u32..9, 0u32..4096).prop_map(|(seqnum, length)| into(seqnum, length)),
        2 => (0u32..9, prop::collection::vec(0u8.., 0..2048)).prop_map(|(seqnum, data)| out(seqnum, &data)),
        2 => (0u32..9, any::<[u8; 8]>()).prop_map(|(seqnum, setup)| control(seqnum, setup)),
        1 => (0u32..9, 0u32..9).prop_map(|(seqnum, target)| unlink(seqnum, target)),
        1 => (0u32..9).prop_map(iso),
        1 => prop::collection::vec(0u8.., 0..64),
    ]
}

proptest! {
    /// Whatever comes, in whatever pieces: no panic, no growth, and the pieces make no difference.
    #[test]
    fn nothing_that_comes_hurts_a_device(
        messages in prop::collection::vec(messages(), 0..20),
        piece in 1usize..200,
        which in 0..3,
    ) {
        let kind = || match which {
            0 => Kind::Stick(Medium::Memory(pattern(8 << 10))),
            1 => Kind::Camera,
            _ => Kind::Keyboard(Some(MS)),
        };
        let bytes = messages.concat();
        let (mut whole, mut pieces) = (new(kind()), new(kind()));
        let first = whole.handle_input(&bytes, MS);
        let second = bytes.chunks(piece).try_for_each(|piece| pieces.handle_input(piece, MS));
        whole.handle_time(MS * 50);
        pieces.handle_time(MS * 50);
        prop_assert_eq!(first, second);
        prop_assert_eq!(whole.output(), pieces.output());
    }

    /// What a device answers to requests that a filter lets through, the filter lets through.
    #[test]
    fn a_filter_has_nothing_against_a_device(messages in prop::collection::vec(messages(), 0..20), which in 0..3) {
        let mut machine = Machine::new(match which {
            0 => Kind::Stick(Medium::Memory(pattern(8 << 10))),
            1 => Kind::Camera,
            _ => Kind::Keyboard(Some(MS)),
        }, None);
        let mut filter = Filter::new(Rules::default());
        let mut now = Duration::ZERO;
        prop_assert!(through(&mut filter, Side::Export, &take(&mut machine)).is_some());
        for message in messages {
            now += MS;
            let Some(message) = through(&mut filter, Side::Import, &message) else { return Ok(()) };
            machine.handle_input(&message, now).unwrap();
            machine.handle_time(now);
            prop_assert!(through(&mut filter, Side::Export, &take(&mut machine)).is_some());
        }
    }
}

/// What a filter makes of these bytes; nothing if it refuses them.
fn through(filter: &mut Filter, from: Side, mut bytes: &[u8]) -> Option<Vec<u8>> {
    use wire::usbip::Event;
    let mut sent = Vec::new();
    while !bytes.is_empty() {
        let left = filter.payload_left(from) as usize;
        if left > 0 {
            let (payload, rest) = bytes.split_at(left.min(bytes.len()));
            filter.handle_payload(from, u32::try_from(payload.len()).unwrap());
            sent.extend(payload);
            bytes = rest;
            continue;
        }
        let taken = filter.handle_input(from, bytes);
        match filter.poll_event(from) {
            Some(Event::Send(header)) => sent.extend(header),
            Some(Event::Refused(_)) => return None,
            None if taken == 0 => return None,
            None => {}
        }
        bytes = &bytes[taken..];
    }
    Some(sent)
}
