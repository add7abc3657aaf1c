use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

const DEVID: u32 = (2 << 16) | 7;

pub(super) fn submit(seqnum: u32, direction: Direction, length: u32) -> Submit {
    let (flags, start_frame, packets, interval) = (0, 0, 0, 0);
    let (endpoint, setup) = (1, [0; 8]);
    Submit { seqnum, devid: DEVID, direction, endpoint, flags, length, start_frame, packets, interval, setup }
}

pub(super) fn answer(seqnum: u32, length: u32) -> Submitted {
    Submitted { seqnum, status: 0, length, start_frame: 0, packets: 0, errors: 0 }
}

pub(super) fn header(command: Submit) -> Vec<u8> {
    Command::Submit(command).to_bytes().to_vec()
}

pub(super) fn returned(answer: Submitted) -> Vec<u8> {
    Answer::Submitted(answer).to_bytes().to_vec()
}

/// A control request with this setup packet.
pub(super) fn control(seqnum: u32, setup: [u8; 8]) -> Vec<u8> {
    header(Submit { endpoint: 0, setup, ..submit(seqnum, Direction::Out, 0) })
}

/// A filter whose line was passed on.
pub(super) fn filter(rules: Rules) -> Filter {
    let mut filter = Filter::new(rules);
    let line = AttachLine { devid: DEVID, speed: Speed::High }.text();
    assert_eq!(pass(&mut filter, Side::Export, line.as_bytes()), Ok(line.as_bytes().to_vec()));
    filter
}

/// Gives all of `input` to the filter. Returns what it lets through, or why it refuses.
pub(super) fn pass(filter: &mut Filter, from: Side, input: &[u8]) -> Result<Vec<u8>, Violation> {
    let mut out = Vec::new();
    filter.strain(from, input, &mut out).map(|()| out)
}

#[test]
fn the_line_is_what_upstreams_programs_write() {
    assert_eq!(AttachLine { devid: 131_079, speed: Speed::Wireless }.text(), "131079 53.3-480\n");
    for speed in Speed::ALL {
        let line = AttachLine { devid: u32::MAX, speed };
        assert_eq!(AttachLine::parse(line.text().trim_end().as_bytes()), Some(line));
    }
    let with_more = AttachLine::parse(b"1 480 later");
    assert_eq!(with_more, Some(AttachLine { devid: 1, speed: Speed::High }));
    for wrong in [
        "",
        "1",
        "1 ",
        " 1 480",
        "1  480",
        "+1 480",
        "-1 480",
        "0x1 480",
        "4294967296 480",
        "1 40000",
        "1 48",
    ] {
        assert_eq!(AttachLine::parse(wrong.as_bytes()), None, "{wrong}");
    }
}

#[test]
fn speeds_above_5_gbit_have_a_number_of_their_own_where_the_kernel_does() {
    let numbers = |new| Speed::ALL.map(|speed| speed.number(new));
    assert_eq!(numbers(false), [1, 2, 3, 4, 5, 5, 5]);
    assert_eq!(numbers(true), [1, 2, 3, 4, 5, 6, 6]);
    assert!(Speed::Super.is_super() && !Speed::Wireless.is_super());
}

#[test]
fn a_line_that_is_not_exact_is_refused() {
    let long = vec![b'1'; LINE_MAX];
    for line in [&b"1 480 later\n"[..], b"01 480\n", b"1 480\r\n", b"\n", &long] {
        assert_eq!(pass(&mut Filter::new(Rules::default()), Side::Export, line), Err(Violation::Line));
    }
}

#[test]
fn a_request_and_its_answer_pass_as_they_are() {
    let mut filter = filter(Rules::default());
    let mut out = header(submit(1, Direction::Out, 31));
    out.extend([7; 31]);
    let asked = header(submit(2, Direction::In, 512));
    assert_eq!(pass(&mut filter, Side::Import, &out), Ok(out.clone()));
    assert_eq!(pass(&mut filter, Side::Import, &asked), Ok(asked.clone()));
    assert_eq!(filter.pending(), 2);
    let mut data = returned(answer(2, 13));
    data.extend([9; 13]);
    assert_eq!(pass(&mut filter, Side::Export, &data), Ok(data.clone()));
    let done = returned(answer(1, 31));
    assert_eq!(
        pass(&mut filter, Side::Export, &done),
        Ok(done.clone()),
        "an answer to what went out has no data"
    );
    assert_eq!((filter.pending(), filter.handle_end(Side::Import)), (0, Ok(())));
}

/// PyPI's usbip 0.7.0 and the crate usbip 0.9.0 repeat devid, direction and endpoint; some write -1 for "no packets".
#[test]
fn what_devices_repeat_is_zero_behind_the_filter() {
    let mut filter = filter(Rules::default());
    pass(&mut filter, Side::Import, &header(submit(5, Direction::In, 4))).unwrap();
    let mut said = returned(answer(5, 0));
    said[8..20].copy_from_slice(&[0, 2, 0, 7, 0, 0, 0, 1, 0, 0, 0, 1]);
    said[32..36].copy_from_slice(&[0xff; 4]);
    said[40..48].fill(0xee);
    assert_eq!(pass(&mut filter, Side::Export, &said), Ok(returned(answer(5, 0))));
}

/// The driver usb-storage of Linux sends commands and statuses with the setup packet of its last control request.
#[test]
fn a_setup_packet_means_nothing_beside_endpoint_0_and_is_zero_behind_the_filter() {
    let mut filter = filter(Rules::default());
    let good = header(submit(5, Direction::In, 4));
    let mut said = good.clone();
    said[40..48].copy_from_slice(&[0xa1, 0xfe, 0, 0, 0, 0, 1, 0]);
    assert_eq!(pass(&mut filter, Side::Import, &said), Ok(good));
}

/// A request of four packets of 100 bytes with gaps, and its answer with fewer bytes in each.
fn isochronous(direction: Direction) -> (Vec<u8>, Vec<u8>) {
    let asked = Submit { packets: 4, ..submit(3, direction, 1000) };
    let mut command = header(asked);
    if direction == Direction::Out {
        command.extend([1; 1000]);
    }
    let mut back = returned(Submitted { packets: 4, ..answer(3, 10 + 20 + 30) });
    if direction == Direction::In {
        back.extend([2; 60]);
    }
    for n in 0..4 {
        let packet = Packet { offset: n * 250, length: 100, actual: 0, status: 0 };
        command.extend(packet.to_bytes());
        back.extend(Packet { actual: n * 10, status: if n == 0 { -71 } else { 0 }, ..packet }.to_bytes());
    }
    (command, back)
}

#[test]
fn isochronous_requests_pass_in_both_directions() {
    for direction in [Direction::In, Direction::Out] {
        let mut filter = filter(Rules::default());
        let (command, back) = isochronous(direction);
        assert_eq!(pass(&mut filter, Side::Import, &command), Ok(command.clone()));
        assert_eq!(pass(&mut filter, Side::Export, &back), Ok(back.clone()));
        assert_eq!(filter.pending(), 0);
    }
}

#[test]
fn packets_lie_where_they_were_asked_to_lie() {
    let mut filter = filter(Rules::default());
    let (mut command, mut back) = isochronous(Direction::In);
    let good = back.clone();
    // The remains of an earlier outcome in a request, and another place and length in an answer.
    let first = command.len() - 4 * PACKET_LEN;
    command[first + 8..first + 16].fill(0x11);
    let second = back.len() - 3 * PACKET_LEN;
    back[second..second + 8].fill(0x22);
    let passed = pass(&mut filter, Side::Import, &command).unwrap();
    assert_eq!(passed[first + 8..first + 16], [0; 8]);
    assert_eq!(pass(&mut filter, Side::Export, &back), Ok(good));
}

#[test]
fn each_wrong_field_of_a_command_is_named() {
    let wrong = |at: usize, word: u32, field| {
        let mut filter = filter(Rules::default());
        let mut bytes = header(submit(1, Direction::In, 8));
        bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
        assert_eq!(pass(&mut filter, Side::Import, &bytes), Err(Violation::Field(field)), "{at}");
        // Nothing of either side passes from now on.
        assert_eq!((filter.wanted(Side::Import), filter.wanted(Side::Export)), (0, 0));
    };
    wrong(0, 3, Field::Command);
    wrong(0, 0x1000_0000, Field::Command);
    wrong(8, DEVID + 1, Field::Devid);
    wrong(12, 2, Field::Direction);
    wrong(16, 16, Field::Endpoint);
    wrong(24, MAX_LENGTH + 1, Field::BufferLength);
    wrong(24, u32::MAX, Field::BufferLength);
    wrong(32, MAX_PACKETS + 1, Field::NumberOfPackets);
    let mut unlink = Command::Unlink { seqnum: 2, devid: DEVID, target: 1 }.to_bytes();
    unlink[47] = 1;
    assert_eq!(Command::from_bytes(unlink), Err(Violation::Field(Field::Reserved)));
}

#[test]
fn each_wrong_field_of_an_answer_is_named() {
    let wrong = |at: usize, word: u32, violation| {
        let mut filter = filter(Rules::default());
        pass(&mut filter, Side::Import, &header(submit(1, Direction::In, 8))).unwrap();
        let mut bytes = returned(answer(1, 8));
        bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
        assert_eq!(pass(&mut filter, Side::Export, &bytes), Err(violation), "{at}");
    };
    wrong(0, 1, Violation::Field(Field::Command));
    wrong(4, 2, Violation::Unasked);
    wrong(20, 1, Violation::Field(Field::Status));
    wrong(20, i32::MIN.cast_unsigned(), Violation::Field(Field::Status));
    wrong(24, 9, Violation::Field(Field::ActualLength));
    wrong(32, 1, Violation::Field(Field::NumberOfPackets));
}

#[test]
fn each_wrong_packet_is_named() {
    let wrong = |side, at: usize, word: u32, field| {
        let mut filter = filter(Rules::default());
        let (mut command, mut back) = isochronous(Direction::In);
        let bytes = if side == Side::Import { &mut command } else { &mut back };
        let at = bytes.len() - 4 * PACKET_LEN + at;
        bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
        let both =
            pass(&mut filter, Side::Import, &command).and_then(|_| pass(&mut filter, Side::Export, &back));
        assert_eq!(both, Err(Violation::Field(field)), "{at}");
    };
    wrong(Side::Import, 16, 99, Field::PacketOffset);
    wrong(Side::Import, 48, 1001, Field::PacketOffset);
    wrong(Side::Import, 52, 251, Field::PacketLength);
    wrong(Side::Import, 52, u32::MAX, Field::PacketLength);
    wrong(Side::Export, 24, 101, Field::PacketActualLength);
    wrong(Side::Export, 24, 11, Field::PacketActualLength);
    wrong(Side::Export, 12, 1, Field::PacketStatus);
}

#[test]
fn a_cancelled_request_is_answered_once() {
    let unlink = |seqnum, target| Command::Unlink { seqnum, devid: DEVID, target }.to_bytes();
    let unlinked = |seqnum, status| Answer::Unlinked { seqnum, status }.to_bytes();
    let mut filter = filter(Rules::default());
    pass(&mut filter, Side::Import, &header(submit(1, Direction::In, 8))).unwrap();
    pass(&mut filter, Side::Import, &unlink(2, 1)).unwrap();
    assert_eq!(filter.pending(), 2);
    pass(&mut filter, Side::Export, &unlinked(2, -104)).unwrap();
    assert_eq!(filter.pending(), 0);
    // A request that was answered before its cancellation came can no longer be cancelled.
    pass(&mut filter, Side::Import, &unlink(3, 1)).unwrap();
    pass(&mut filter, Side::Export, &unlinked(3, 0)).unwrap();
    assert_eq!(pass(&mut filter, Side::Export, &returned(answer(1, 0))), Err(Violation::Unasked));
}

#[test]
fn what_is_pending_is_bounded() {
    let few = Rules { pending: 2, buffers: 100, packets: 6, ..Rules::default() };
    let ask = |filter: &mut Filter, request: Submit| pass(filter, Side::Import, &header(request)).map(|_| ());
    let mut number = filter(few);
    for seqnum in 1..=2 {
        assert_eq!(ask(&mut number, submit(seqnum, Direction::In, 1)), Ok(()));
    }
    assert_eq!(ask(&mut number, submit(3, Direction::In, 1)), Err(Violation::TooMuch));
    let mut bytes = filter(few);
    assert_eq!(ask(&mut bytes, submit(1, Direction::In, 60)), Ok(()));
    assert_eq!(ask(&mut bytes, submit(2, Direction::In, 41)), Err(Violation::TooMuch));
    let mut packets = filter(few);
    assert_eq!(
        ask(&mut packets, Submit { packets: 7, ..submit(1, Direction::In, 9) }),
        Err(Violation::TooMuch)
    );
    let mut again = filter(few);
    assert_eq!(ask(&mut again, submit(1, Direction::In, 1)), Ok(()));
    assert_eq!(ask(&mut again, submit(1, Direction::In, 1)), Err(Violation::Reused));
    // An answer makes room for another request.
    let mut free = filter(few);
    for seqnum in 1..20 {
        assert_eq!(ask(&mut free, submit(seqnum, Direction::In, 100)), Ok(()));
        pass(&mut free, Side::Export, &returned(answer(seqnum, 0))).unwrap();
    }
}

#[test]
fn nothing_is_asked_before_the_device_is_known() {
    let mut filter = Filter::new(Rules::default());
    let early = pass(&mut filter, Side::Import, &header(submit(1, Direction::In, 8)));
    assert_eq!(early, Err(Violation::Early));
}

#[test]
fn vendor_requests_and_other_configurations_can_be_forbidden() {
    let strict = Rules { vendor_requests: false, other_configurations: false, ..Rules::default() };
    let (vendor, configure) = ([0x40, 1, 0, 0, 0, 0, 0, 0], |value| [0, 9, value, 0, 0, 0, 0, 0]);
    let told = |rules, setups: &[[u8; 8]]| {
        let mut filter = filter(rules);
        let mut numbered = (1..).zip(setups);
        numbered.try_for_each(|(seqnum, setup)| {
            pass(&mut filter, Side::Import, &control(seqnum, *setup)).map(|_| ())
        })
    };
    assert_eq!(told(strict, &[vendor]), Err(Violation::VendorRequest));
    assert_eq!(told(strict, &[configure(1), configure(1)]), Ok(()));
    assert_eq!(told(strict, &[configure(1), configure(2)]), Err(Violation::Configuration));
    assert_eq!(told(Rules::default(), &[vendor, configure(1), configure(2)]), Ok(()));
}

#[test]
fn an_end_inside_a_message_is_told_from_one_between_two() {
    let mut filter = filter(Rules::default());
    let whole = [header(submit(1, Direction::Out, 3)), vec![0; 3]].concat();
    let mut silent = Filter::new(Rules::default());
    assert_eq!(silent.handle_end(Side::Export), Ok(()), "an export that failed has no line");
    assert_eq!(pass(&mut silent, Side::Export, b"1 48"), Ok(Vec::new()));
    assert_eq!(silent.handle_end(Side::Export), Err(Violation::Cut));
    for cut in 1..whole.len() {
        let mut filter = super::tests::filter(Rules::default());
        pass(&mut filter, Side::Import, &whole[..cut]).unwrap();
        assert_eq!(filter.handle_end(Side::Import), Err(Violation::Cut), "{cut}");
    }
    pass(&mut filter, Side::Import, &whole).unwrap();
    assert_eq!(filter.handle_end(Side::Import), Ok(()));
}

#[test]
fn a_violation_names_a_field_and_no_bytes() {
    let text: String = alloc::format!("{}", Violation::Field(Field::BufferLength));
    assert_eq!(text, "transfer_buffer_length has a value that it cannot have");
}

proptest! {
    /// The pieces in which a stream comes make no difference, and complete messages are told from cut ones.
    #[test]
    fn pieces_do_not_matter(cuts in proptest::collection::vec(1usize..40, 1..60), export in any::<bool>()) {
        let (command, back) = isochronous(if export { Direction::In } else { Direction::Out });
        let (mut whole, mut cut) = (filter(Rules::default()), filter(Rules::default()));
        if export {
            pass(&mut whole, Side::Import, &command).unwrap();
            pass(&mut cut, Side::Import, &command).unwrap();
        }
        let (side, bytes) = if export { (Side::Export, back) } else { (Side::Import, command) };
        let mut out = Vec::new();
        let mut rest = bytes.as_slice();
        for len in cuts.iter().cycle() {
            let (piece, behind) = rest.split_at((*len).min(rest.len()));
            out.extend(pass(&mut cut, side, piece).unwrap());
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(out, pass(&mut whole, side, &bytes).unwrap());
    }

    /// Every header that is understood is written as it was, except for fields without a meaning.
    #[test]
    fn headers_are_said_again(bytes in any::<[u8; HEADER_LEN]>(), command in 1u8..=4) {
        let mut bytes = bytes;
        bytes[..4].copy_from_slice(&[0, 0, 0, command]);
        if let Ok(command) = Command::from_bytes(bytes) {
            prop_assert_eq!(Command::from_bytes(command.to_bytes()), Ok(command));
        }
        if let Ok(answer) = Answer::from_bytes(bytes) {
            prop_assert_eq!(Answer::from_bytes(answer.to_bytes()), Ok(answer));
        }
    }
}
