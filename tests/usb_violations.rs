//! Each check of the filter of USB over IP, violated once by a peer at either end of a call: the call ends with a line that
//! names the field, and whoever is behind the filter sees nothing of it.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;
use std::thread;

use lab::Lab;
use wire::usbip::{
    Answer, AttachLine, Command, Direction, HEADER_LEN, MAX_LENGTH, MAX_PACKETS, Packet, Speed, Submit,
    Submitted,
};

use crate::common::{eventually, lab, within_deadline};

const DEVID: u32 = (2 << 16) | 7;

fn line() -> Vec<u8> {
    AttachLine { devid: DEVID, speed: Speed::High }.text().into_bytes()
}

fn submit(seqnum: u32, endpoint: u8, length: u32) -> Submit {
    let (direction, flags, start_frame) = (Direction::In, 0x200, 0);
    let (packets, interval, setup) = (0, 0, [0; 8]);
    Submit { seqnum, devid: DEVID, direction, endpoint, flags, length, start_frame, packets, interval, setup }
}

fn command(submit: Submit) -> Vec<u8> {
    Command::Submit(submit).to_bytes().to_vec()
}

fn answer(seqnum: u32, length: u32) -> Vec<u8> {
    let (status, start_frame, packets, errors) = (0, 0, 0, 0);
    Answer::Submitted(Submitted { seqnum, status, length, start_frame, packets, errors }).to_bytes().to_vec()
}

/// The same bytes with another word at one place.
fn with(mut bytes: Vec<u8>, at: usize, word: u32) -> Vec<u8> {
    bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
    bytes
}

/// A request of two isochronous packets of 8 bytes.
fn isochronous() -> Vec<u8> {
    let request = Submit { packets: 2, interval: 1, ..submit(1, 1, 16) };
    let packets = [0, 8].map(|offset| Packet { offset, length: 8, ..Packet::default() });
    [command(request), packets.iter().flat_map(|packet| packet.to_bytes()).collect()].concat()
}

/// Its answer: 16 bytes of data, then what became of the packets.
fn isochronous_answer() -> Vec<u8> {
    let answered = Submitted { seqnum: 1, status: 0, length: 16, start_frame: 0, packets: 2, errors: 0 };
    let packets = [0, 8].map(|offset| Packet { offset, length: 8, actual: 8, ..Packet::default() });
    let packets: Vec<u8> = packets.iter().flat_map(|packet| packet.to_bytes()).collect();
    [Answer::Submitted(answered).to_bytes().to_vec(), vec![0; 16], packets].concat()
}

/// What is wrong, what it is that a side sends, and what comes before that and is right.
struct Wrong {
    text: &'static str,
    before: Vec<u8>,
    bytes: Vec<u8>,
}

fn wrong(text: &'static str, before: Vec<u8>, bytes: Vec<u8>) -> Wrong {
    Wrong { text, before, bytes }
}

/// What an import sends; the line has come.
fn commands() -> Vec<Wrong> {
    let good = || command(submit(1, 1, 8));
    let alone = |text, bytes| wrong(text, Vec::new(), bytes);
    let setup = |setup| command(Submit { setup, ..submit(1, 0, 0) });
    vec![
        alone("command has", with(good(), 0, 3)),
        alone("devid has", with(good(), 8, DEVID + 1)),
        alone("direction has", with(good(), 12, 2)),
        alone("ep has", with(good(), 16, 16)),
        alone("transfer_buffer_length has", with(good(), 24, MAX_LENGTH + 1)),
        alone("number_of_packets has", with(good(), 32, MAX_PACKETS + 1)),
        alone("offset of a packet has", with(isochronous(), 48 + 16, 99)),
        alone("length of a packet has", with(isochronous(), 48 + 20, 251)),
        alone("a field that is always zero has", {
            with(Command::Unlink { seqnum: 2, devid: DEVID, target: 1 }.to_bytes().to_vec(), 44, 1)
        }),
        wrong("is that of a pending one", good(), good()),
        alone("a vendor's control request", setup([0x40, 1, 0, 0, 0, 0, 0, 0])),
        wrong(
            "another configuration",
            setup([0, 9, 1, 0, 0, 0, 0, 0]),
            with(setup([0, 9, 2, 0, 0, 0, 0, 0]), 4, 2),
        ),
        alone("a request to an interface for firmware", setup([0x21, 1, 0, 0, 0, 0, 0, 0])),
    ]
}

/// What an export sends. Before an answer comes the request for it.
fn answers() -> Vec<Wrong> {
    let asked = || command(submit(1, 1, 8));
    let to_request = |text, bytes| wrong(text, asked(), [bytes, vec![0; 8]].concat());
    vec![
        wrong("the first line is not", Vec::new(), b"131073 480 x\n".to_vec()),
        wrong("the first line is not", Vec::new(), b"131073 481\n".to_vec()),
        wrong("the first line is not", Vec::new(), vec![b'1'; 65]),
        to_request("command has", with(answer(1, 8), 0, 1)),
        to_request("no pending command", with(answer(1, 8), 4, 2)),
        to_request("no pending command", Answer::Unlinked { seqnum: 1, status: 0 }.to_bytes().to_vec()),
        to_request("status has", with(answer(1, 8), 20, 1)),
        to_request("actual_length has", with(answer(1, 8), 24, 9)),
        to_request("number_of_packets has", with(answer(1, 8), 32, 1)),
        wrong("actual_length of a packet has", isochronous(), with(isochronous_answer(), 64 + 24, 9)),
        wrong("status of a packet has", isochronous(), with(isochronous_answer(), 64 + 28, 1)),
    ]
}

/// A service that is a socket, for one call after the other.
struct Service {
    lab: Lab,
    listener: UnixListener,
    _folder: tempfile::TempDir,
}

impl Service {
    fn start(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let config = format!("skip-service-descriptor=true\n{config}");
        let lab = lab().service("vault", "test.Peer", &path).config("vault", "test.Peer", &config);
        Self { lab: lab.start().unwrap(), listener, _folder: folder }
    }

    /// A call, our end of its one socket, and the service's end.
    fn call(&self, options: &[&str]) -> (std::process::Child, UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let argv = [&["qrexec-client-vm", "--use-stdin-socket"], options, &["vault", "test.Peer"]].concat();
        let mut command = self.lab.command("work", argv).unwrap();
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::piped());
        let call = command.spawn().unwrap();
        let (service, _) = self.listener.accept().unwrap();
        (call, ours, service)
    }
}

/// Everything until the end, which may be a hard one.
fn rest(mut stream: &UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

#[test]
fn an_export_cannot_send_anything_wrong_to_an_import() {
    within_deadline(|| {
        let service = Service::start("");
        for Wrong { text, before, bytes } in answers() {
            let (call, mut import, mut export) = service.call(&["--filter", "usbip"]);
            let passes = if before.is_empty() { Vec::new() } else { line() };
            export.write_all(&passes).unwrap();
            let mut seen = vec![0; passes.len()];
            import.read_exact(&mut seen).unwrap();
            import.write_all(&before).unwrap();
            export.read_exact(&mut vec![0; before.len()]).unwrap();
            let _ = export.write_all(&bytes);
            let got = rest(&import);
            // Of a message, what is right in it may have gone on before: header and data of an isochronous answer.
            let allowed = if text.contains("of a packet") { 64 } else { 0 };
            assert!(got.len() <= allowed, "{text}: {} bytes", got.len());
            let output = call.wait_with_output().unwrap();
            let err = String::from_utf8(output.stderr).unwrap();
            assert!(err.contains("what the other side sent") && err.contains(text), "{text}: {err}");
            assert_eq!((output.status.code(), err.lines().count()), (Some(125), 1), "{text}: {err}");
        }
    });
}

#[test]
fn an_import_cannot_send_anything_wrong_to_an_export() {
    within_deadline(|| {
        let rules = "no-vendor-requests one-configuration no-firmware";
        let service = Service::start(&format!("filter='usbip {rules}'\n"));
        let log = service.lab.layout().log("vault").join("agent.log");
        let said = |text: &str| {
            let all = std::fs::read_to_string(&log).unwrap_or_default();
            all.lines().filter(|line| line.contains("USB filter") && line.contains(text)).count()
        };
        for Wrong { text, before, bytes } in commands() {
            let times = said(text);
            let (mut call, mut import, mut export) = service.call(&[]);
            export.write_all(&line()).unwrap();
            import.read_exact(&mut vec![0; line().len()]).unwrap();
            let device = thread::spawn(move || rest(&export));
            import.write_all(&[&before[..], &bytes].concat()).unwrap();
            let _ = import.shutdown(Shutdown::Write);
            let seen = device.join().unwrap();
            // A header may be right where its packets are not: they alone are held back.
            assert!(seen.starts_with(&before) && seen.len() <= before.len() + HEADER_LEN, "{text}: {seen:?}");
            assert!(seen.len() == before.len() || text.contains("packet"), "{text}: {seen:?}");
            assert_eq!(rest(&import).len(), 0, "{text}");
            assert_ne!(call.wait().unwrap().code(), Some(0), "{text}");
            eventually(text, || said(text) == times + 1);
        }
    });
}
