//! The filter for USB over IP in the pump: two kernels talk through two pumps. Valid traffic passes unchanged, and
//! each kind of violation by a peer at either end ends the call before the kernel there sees any of it.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use engine::pump::{Call, Failure, Outcome, Refused, run};
use ring::{Channel, Kind};
use wire::stream::Role;
use wire::usbip::{
    Answer, AttachLine, Command, Direction, PACKET_LEN, Packet, Rules, Speed, Submit, Submitted,
};
use wire::version::Version;

mod common;

use common::link;

const LIMIT: Duration = Duration::from_secs(10);
const DEVID: u32 = (2 << 16) | 7;

/// A call between two kernels.
struct Attached {
    import: UnixStream,
    export: UnixStream,
    client: JoinHandle<Outcome>,
    service: JoinHandle<Outcome>,
    _dir: tempfile::TempDir,
}

fn attached(kind: Kind, size: usize, import: Option<Rules>, export: Option<Rules>) -> Attached {
    let dir = tempfile::tempdir().unwrap();
    let [client, service] = link(kind, dir.path(), size);
    let start = |role, (channel, version): (Channel, Version), rules| {
        let (ours, kernels) = UnixStream::pair().unwrap();
        kernels.set_read_timeout(Some(LIMIT)).unwrap();
        let mut call = Call::new(role, version);
        call.sink = Some(OwnedFd::from(ours.try_clone().unwrap()));
        call.source = Some(OwnedFd::from(ours));
        call.usbip = rules;
        (kernels, thread::spawn(move || run(channel, call)))
    };
    let (import, client) = start(Role::Client, client, import);
    let (export, service) = start(Role::Service, service, export);
    Attached { import, export, client, service, _dir: dir }
}

/// Sends bytes at one end and receives them at the other.
fn passes(from: &UnixStream, to: &UnixStream, bytes: &[u8]) {
    thread::scope(|scope| {
        scope.spawn(|| (&*from).write_all(bytes).unwrap());
        let mut got = vec![0; bytes.len()];
        (&*to).read_exact(&mut got).unwrap();
        assert!(got == bytes, "{} bytes", bytes.len());
    });
}

fn line() -> Vec<u8> {
    AttachLine { devid: DEVID, speed: Speed::Super }.text().as_bytes().to_vec()
}

fn submit(seqnum: u32, direction: Direction, length: u32) -> Submit {
    let (flags, start_frame, packets, interval) = (0, 0, 0, 0);
    let (endpoint, setup) = (1, [0; 8]);
    Submit { seqnum, devid: DEVID, direction, endpoint, flags, length, start_frame, packets, interval, setup }
}

fn asked(submit: Submit) -> Vec<u8> {
    Command::Submit(submit).to_bytes().to_vec()
}

fn answered(seqnum: u32, length: usize, packets: u32) -> Vec<u8> {
    let answer = Submitted { seqnum, status: 0, length: length as u32, start_frame: 0, packets, errors: 0 };
    Answer::Submitted(answer).to_bytes().to_vec()
}

fn noise(len: usize) -> Vec<u8> {
    (0..len as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// A storage command of `length` bytes, both ways, with its three round trips.
fn command(seqnum: u32, direction: Direction, length: usize) -> [(Vec<u8>, Vec<u8>); 3] {
    let out = |seqnum, data: &[u8]| {
        let asked = [asked(submit(seqnum, Direction::Out, data.len() as u32)), data.to_vec()].concat();
        (asked, answered(seqnum, data.len(), 0))
    };
    let into = |seqnum, data: &[u8]| {
        let asked = asked(submit(seqnum, Direction::In, data.len() as u32));
        (asked, [answered(seqnum, data.len(), 0), data.to_vec()].concat())
    };
    let data = noise(length);
    let data = if direction == Direction::In { into(seqnum + 1, &data) } else { out(seqnum + 1, &data) };
    [out(seqnum, &noise(31)), data, into(seqnum + 2, &noise(13))]
}

/// An isochronous request of packets with gaps, and its answer.
fn isochronous(seqnum: u32, direction: Direction, packets: u32) -> (Vec<u8>, Vec<u8>) {
    let mut command = asked(Submit { packets, ..submit(seqnum, direction, packets * 100) });
    let sum: u32 = (0..packets).map(|n| n % 90).sum();
    let mut back = answered(seqnum, sum as usize, packets);
    match direction {
        Direction::Out => command.extend(noise(packets as usize * 100)),
        Direction::In => back.extend(noise(sum as usize)),
    }
    for n in 0..packets {
        let packet = Packet { offset: n * 100, length: 90, actual: 0, status: 0 };
        command.extend(packet.to_bytes());
        back.extend(Packet { actual: n % 90, ..packet }.to_bytes());
    }
    (command, back)
}

#[test]
fn valid_traffic_passes_as_it_is() {
    for (kind, size) in [(Kind::Shm, 4096), (Kind::Shm, 1 << 20), (Kind::Socket, 65_536)] {
        let call = attached(kind, size, Some(Rules::default()), Some(Rules::default()));
        let (import, export) = (&call.import, &call.export);
        // Byte by byte: nothing of the line passes before its last byte.
        line().iter().for_each(|byte| (&*export).write_all(&[*byte]).unwrap());
        let mut first = vec![0; line().len()];
        (&*import).read_exact(&mut first).unwrap();
        assert_eq!(first, line());
        let mut seqnum = 0;
        for length in [0, 1, 512, 4096, 8191, 8193, 120 << 10, 1 << 20] {
            for direction in [Direction::In, Direction::Out] {
                for (ask, answer) in command(seqnum, direction, length) {
                    passes(import, export, &ask);
                    passes(export, import, &answer);
                }
                seqnum += 3;
            }
        }
        for (direction, packets) in [(Direction::In, 32), (Direction::Out, 6), (Direction::In, 1024)] {
            // Several requests are pending, and are answered together.
            let all: Vec<_> = (0..4).map(|n| isochronous(seqnum + n, direction, packets)).collect();
            let (ask, answer): (Vec<_>, Vec<_>) = all.into_iter().unzip();
            passes(import, export, &ask.concat());
            passes(export, import, &answer.concat());
            seqnum += 4;
        }
        let cancel = Command::Unlink { seqnum: seqnum + 1, devid: DEVID, target: seqnum }.to_bytes();
        passes(import, export, &[asked(submit(seqnum, Direction::In, 8)), cancel.to_vec()].concat());
        passes(export, import, &Answer::Unlinked { seqnum: seqnum + 1, status: -104 }.to_bytes());

        call.export.shutdown(Shutdown::Write).unwrap();
        assert_eq!((&call.import).read(&mut [0; 1]).unwrap(), 0);
        call.import.shutdown(Shutdown::Write).unwrap();
        let outcomes = [call.client, call.service].map(|side| side.join().unwrap());
        assert_eq!(outcomes[0].remote, Some(0), "{kind:?} {size} {outcomes:?}");
        assert!(outcomes.iter().all(|outcome| outcome.failed().is_none() && outcome.lost().is_none()));
    }
}

/// Without the filter no byte is checked or changed.
#[test]
fn a_call_without_the_filter_takes_anything() {
    let call = attached(Kind::Shm, 65_536, None, None);
    passes(&call.export, &call.import, &noise(100_000));
    passes(&call.import, &call.export, &noise(100_000));
}

/// What one side sends after valid messages, and the field that the other side's error names.
struct Wrong {
    /// The valid messages before it, from import and export.
    before: [Vec<u8>; 2],
    bytes: Vec<u8>,
    named: &'static str,
}

fn with_word(mut bytes: Vec<u8>, at: usize, word: u32) -> Vec<u8> {
    bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
    bytes
}

/// A violation for every check of an import's messages.
fn wrong_commands() -> Vec<Wrong> {
    let header = asked(submit(1, Direction::In, 8));
    let (iso, _) = isochronous(1, Direction::In, 4);
    let first_packet = iso.len() - 4 * PACKET_LEN;
    let unlink = Command::Unlink { seqnum: 2, devid: DEVID, target: 1 }.to_bytes().to_vec();
    let fields = [
        (with_word(header.clone(), 0, 3), "command has"),
        (with_word(header.clone(), 8, DEVID + 1), "devid has"),
        (with_word(header.clone(), 12, 2), "direction has"),
        (with_word(header.clone(), 16, 16), "ep has"),
        (with_word(header.clone(), 24, 0x7fff_ffff), "transfer_buffer_length has"),
        (with_word(header.clone(), 32, 1025), "number_of_packets has"),
        (with_word(unlink, 24, 1), "a field that is always zero has"),
        (with_word(iso.clone(), first_packet + 16, 50), "offset of a packet has"),
        (with_word(iso, first_packet + 52, 500), "length of a packet has"),
    ];
    let mut all: Vec<_> = fields
        .into_iter()
        .map(|(bytes, named)| Wrong { before: [Vec::new(), line()], bytes, named })
        .collect();
    all.push(Wrong {
        before: [header.clone(), line()],
        bytes: header.clone(),
        named: "the seqnum of a command is",
    });
    all.push(Wrong { before: [Vec::new(), Vec::new()], bytes: header, named: "a command came before" });
    all
}

/// A violation for every check of an export's messages.
fn wrong_answers() -> Vec<Wrong> {
    let header = asked(submit(1, Direction::In, 8));
    let said = [answered(1, 8, 0), noise(8)].concat();
    let (iso, back) = isochronous(1, Direction::In, 4);
    let first_packet = back.len() - 4 * PACKET_LEN;
    let unlink = Command::Unlink { seqnum: 2, devid: DEVID, target: 1 }.to_bytes().to_vec();
    let unlinked = Answer::Unlinked { seqnum: 2, status: -104 }.to_bytes().to_vec();
    let fields = [
        (&header, with_word(said.clone(), 0, 1), "command has"),
        (&header, with_word(said.clone(), 4, 2), "an answer has the seqnum"),
        (&header, with_word(said.clone(), 20, 1), "status has"),
        (&header, with_word(said.clone(), 24, 9), "actual_length has"),
        (&header, with_word(said.clone(), 32, 1), "number_of_packets has"),
        (&iso, with_word(back.clone(), first_packet + 24, 91), "actual_length of a packet has"),
        (&iso, with_word(back.clone(), first_packet + 24, 2), "actual_length of a packet has"),
        (&iso, with_word(back, first_packet + 12, 1), "status of a packet has"),
    ];
    let mut all: Vec<_> = fields
        .into_iter()
        .map(|(ask, bytes, named)| Wrong { before: [ask.clone(), line()], bytes, named })
        .collect();
    all.push(Wrong {
        before: [[header, unlink].concat(), [line(), unlinked].concat()],
        bytes: said,
        named: "an answer has the seqnum",
    });
    for bytes in [&b"1 40000\n"[..], b"01 480\n", b"1 480 more\n", &[b'1'; 65]] {
        all.push(Wrong {
            before: [Vec::new(), Vec::new()],
            bytes: bytes.to_vec(),
            named: "the first line is not",
        });
    }
    all
}

/// Sends valid messages and then the violation, and checks the result: `behind` is the side whose filter must act.
fn refuse(kind: Kind, from_import: bool, behind: Role, wrong: Wrong) {
    let filters = |role| (behind == role).then(Rules::default);
    let call = attached(kind, 65_536, filters(Role::Client), filters(Role::Service));
    let (import, export) = (&call.import, &call.export);
    let [commands, answers] = &wrong.before;
    // The line comes first, then commands, then their answers.
    let (first, answers) = answers.split_at(answers.len().min(line().len()));
    passes(export, import, first);
    passes(import, export, commands);
    passes(export, import, answers);
    let (from, to) = if from_import { (import, export) } else { (export, import) };
    (&*from).write_all(&wrong.bytes).unwrap();
    let mut seen = Vec::new();
    (&*to).read_to_end(&mut seen).unwrap();
    // If a header is valid and its packets are not, only the packets are held back.
    assert!(seen.is_empty() || seen.len() < wrong.bytes.len() - 3 * PACKET_LEN, "{}: {seen:?}", wrong.named);
    call.import.shutdown(Shutdown::Both).unwrap();
    call.export.shutdown(Shutdown::Both).unwrap();
    let (client, service) = (call.client.join().unwrap(), call.service.join().unwrap());
    let (filtering, role, other) = match behind {
        Role::Client => (client, Role::Client, service),
        Role::Service => (service, Role::Service, client),
    };
    let is_ours = from_import == (behind == Role::Client);
    let expected = if is_ours { Refused::Ours } else { Refused::Theirs };
    match filtering.failed() {
        Some(Failure::Refused { whose, why }) => {
            assert_eq!(*whose, expected);
            assert!(why.to_string().starts_with(wrong.named), "{why} instead of {}", wrong.named);
        }
        _ => panic!("{}: {filtering:?}", wrong.named),
    }
    let exit = filtering.exit(role);
    assert_eq!((exit.status, exit.trouble.unwrap().lines().count()), (125, 1));
    assert!(other.failed().is_none(), "{other:?}");
}

#[test]
fn each_wrong_command_is_refused_at_either_end() {
    for wrong in wrong_commands() {
        refuse(Kind::Shm, true, Role::Service, wrong);
    }
    for wrong in wrong_commands() {
        refuse(Kind::Socket, true, Role::Client, wrong);
    }
}

#[test]
fn each_wrong_answer_is_refused_at_either_end() {
    for wrong in wrong_answers() {
        refuse(Kind::Shm, false, Role::Client, wrong);
    }
    for wrong in wrong_answers() {
        refuse(Kind::Socket, false, Role::Service, wrong);
    }
}

/// However the bytes arrive, everything before a violation is sent on.
#[test]
fn what_came_before_a_violation_counts() {
    for behind in [Role::Client, Role::Service] {
        let filters = |role| (behind == role).then(Rules::default);
        let call = attached(Kind::Shm, 65_536, filters(Role::Client), filters(Role::Service));
        (&call.export).write_all(&[line(), vec![0; 48]].concat()).unwrap();
        let mut got = Vec::new();
        (&call.import).read_to_end(&mut got).unwrap();
        assert_eq!(got, line());
        call.import.shutdown(Shutdown::Both).unwrap();
        call.export.shutdown(Shutdown::Both).unwrap();
        let outcomes = [call.client, call.service].map(|side| side.join().unwrap());
        assert_eq!(outcomes.iter().filter(|outcome| outcome.failed().is_some()).count(), 1);
    }
}

/// What a local side has sent before it hands over its socket is checked like everything else.
#[test]
fn a_prefix_passes_through_the_filter_too() {
    for (prefix, passes) in [(line(), true), (b"no line\n".to_vec(), false)] {
        let dir = tempfile::tempdir().unwrap();
        let [client, service] = link(Kind::Shm, dir.path(), 65_536);
        let mut call = Call::new(Role::Service, service.1);
        call.prefix = prefix.clone();
        call.usbip = Some(Rules::default());
        let (mut heard, sink) = UnixStream::pair().unwrap();
        let mut caller = Call::new(Role::Client, client.1);
        caller.sink = Some(OwnedFd::from(sink));
        let caller = thread::spawn(move || run(client.0, caller));
        let outcome = run(service.0, call);
        let mut got = Vec::new();
        heard.read_to_end(&mut got).unwrap();
        assert_eq!((got == prefix, outcome.failed().is_none()), (passes, passes), "{outcome:?}");
        caller.join().unwrap();
    }
}
