//! Programs of every version at both ends, and a service side as its peer sees it, byte by byte.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use engine::datalink;
use engine::pump::{Call, Ending, NoStreams, Outcome, report, run};
use ring::{Channel, Kind, Sizes, Transport};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wire::header::{HEADER_LEN, Header, ty};
use wire::stream::Role;
use wire::version::Version;

const LIMIT: Duration = Duration::from_secs(20);
const KINDS: [Kind; 2] = [Kind::Shm, Kind::Socket];
const VERSIONS: [Version; 3] = [Version::V2, Version::V3, Version::V4];

/// Both ends of a data link, the client's first, after HELLOs of these versions.
fn link(kind: Kind, dir: &Path, own: [Version; 2]) -> [(Channel, Version); 2] {
    link_of_size(65_536, kind, dir, own)
}

fn link_of_size(size: usize, kind: Kind, dir: &Path, own: [Version; 2]) -> [(Channel, Version); 2] {
    let (server, client) = (Transport::new(kind, 1, dir), Transport::new(kind, 2, dir));
    let listener = server.listen(2, 513, Sizes::both(size)).unwrap();
    let other = thread::spawn(move || {
        let channel = client.connect(1, 513).unwrap().connect_within(LIMIT).unwrap();
        datalink::greet_as(channel, own[1], LIMIT).unwrap()
    });
    let ours = datalink::greet_as(listener.accept_within(LIMIT).unwrap(), own[0], LIMIT).unwrap();
    [ours, other.join().unwrap()]
}

fn noise(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn file(bytes: &[u8]) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    file.into()
}

fn start(channel: Channel, call: Call) -> JoinHandle<Outcome> {
    thread::spawn(move || run(channel, call))
}

/// A whole call between two pumps: the bytes of both directions, and the code.
#[test]
fn every_mixture_of_versions_carries_a_call() {
    for kind in KINDS {
        for own in VERSIONS.iter().flat_map(|a| VERSIONS.map(|b| [*a, b])) {
            let dir = tempfile::tempdir().unwrap();
            let [client, service] = link(kind, dir.path(), own);
            let agreed = own[0].min(own[1]);
            assert_eq!([client.1, service.1], [agreed; 2], "{kind:?} {own:?}");
            let (up, down) = (noise(200_000), noise(300_000));
            let (up_out, up_in) = rustix::pipe::pipe().unwrap();
            let (down_out, down_in) = rustix::pipe::pipe().unwrap();
            let ends = |sink, bytes: &[u8], role, version| Call {
                sink: Some(sink),
                source: Some(file(bytes)),
                ..Call::new(role, version)
            };
            let running = [
                start(client.0, ends(down_in, &up, Role::Client, client.1)),
                start(service.0, ends(up_in, &down, Role::Service, service.1)),
            ];
            let got = [up_out, down_out].map(|out| {
                thread::spawn(move || {
                    let mut all = Vec::new();
                    File::from(out).read_to_end(&mut all).map(|_| all).unwrap()
                })
            });
            let got = got.map(|thread| thread.join().unwrap());
            assert!(got == [up, down], "{kind:?} {own:?}");
            let [client, service] = running.map(|thread| thread.join().unwrap());
            assert_eq!(client.remote, Some(0), "{kind:?} {own:?}");
            assert!(client.lost().is_none() && service.lost().is_none(), "{kind:?} {own:?}");
        }
    }
}

/// Fails if the event does not come in time. Returns what has come.
fn wait(fd: &impl std::os::fd::AsFd, event: PollFlags) -> PollFlags {
    let limit = Timespec { tv_sec: LIMIT.as_secs() as i64, tv_nsec: 0 };
    let mut fds = [PollFd::new(fd, event)];
    assert_eq!(poll(&mut fds, Some(&limit)), Ok(1), "nothing came");
    fds[0].revents()
}

/// A peer that is only a channel.
struct Raw {
    channel: Channel,
    bytes: Vec<u8>,
}

impl Raw {
    fn say(&mut self, ty: u32, body: &[u8]) {
        let bytes = [&Header::new(ty, body.len() as u32).to_bytes()[..], body].concat();
        assert_eq!(self.channel.write(&bytes).unwrap(), bytes.len());
        self.channel.flush().unwrap();
    }

    /// The next message; `None`: the link has ended.
    fn next(&mut self) -> Option<(u32, Vec<u8>)> {
        loop {
            if let Some((header, rest)) = self.bytes.split_first_chunk::<HEADER_LEN>() {
                let Header { ty, len } = Header::from_bytes(*header);
                if let Some(body) = rest.get(..len as usize) {
                    let body = body.to_vec();
                    self.bytes.drain(..HEADER_LEN + body.len());
                    return Some((ty, body));
                }
            }
            let mut buffer = [0; 8192];
            let count = self.channel.read(&mut buffer).unwrap();
            self.bytes.extend_from_slice(&buffer[..count]);
            if count == 0 && !self.channel.is_open() && self.channel.readable().unwrap() == 0 {
                return None;
            }
            if count > 0 || self.channel.arm(true, false).unwrap() {
                continue;
            }
            wait(&self.channel, PollFlags::IN);
            self.channel.on_ready().unwrap();
        }
    }

    /// Reads everything up to the exit code. Returns the length of each chunk of stdout, and the code.
    fn until_the_end(&mut self) -> (Vec<usize>, i32) {
        let mut chunks = Vec::new();
        loop {
            match self.next().expect("an exit code before the end of the link") {
                (ty::DATA_STDOUT, body) => chunks.push(body.len()),
                (ty::DATA_STDERR, body) => assert!(body.is_empty()),
                (ty::DATA_EXIT_CODE, code) => {
                    return (chunks, i32::from_le_bytes(code.try_into().unwrap()));
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// A service side, and its peer.
fn service(kind: Kind, own: [Version; 2], call: impl FnOnce(Version) -> Call) -> (Raw, JoinHandle<Outcome>) {
    let dir = tempfile::tempdir().unwrap();
    let [client, (channel, version)] = link(kind, dir.path(), own);
    (Raw { channel: client.0, bytes: Vec::new() }, start(channel, call(version)))
}

#[test]
fn chunks_are_as_long_as_the_version_of_the_link_allows() {
    let down = noise(500_000);
    for kind in KINDS {
        for own in VERSIONS.iter().flat_map(|a| VERSIONS.map(|b| [*a, b])) {
            let (mut raw, running) = service(kind, own, |version| Call {
                source: Some(file(&down)),
                ..Call::new(Role::Service, version)
            });
            raw.say(ty::DATA_STDIN, b"");
            let (chunks, code) = raw.until_the_end();
            assert_eq!((code, chunks.iter().sum::<usize>()), (0, down.len()), "{kind:?} {own:?}");
            let (limit, longest) =
                (own[0].min(own[1]).max_chunk() as usize, chunks.into_iter().max().unwrap());
            assert!(longest <= limit && longest >= 4096, "{kind:?} {own:?}: {longest}");
            assert!(running.join().unwrap().lost().is_none());
        }
    }
}

const LATEST: [Version; 2] = [Version::V4; 2];

/// A service side on one end of a socket pair whose other end stays open.
fn on_socket(change: impl FnOnce(&mut Call)) -> (UnixStream, Raw, JoinHandle<Outcome>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (raw, running) = service(Kind::Shm, LATEST, |version| {
        let mut call = Call::new(Role::Service, version);
        call.sink = Some(theirs.try_clone().unwrap().into());
        call.source = Some(theirs.into());
        change(&mut call);
        call
    });
    (ours, raw, running)
}

/// A service without error output sends the end of it first.
#[test]
fn a_socket_service_ends_its_error_output_first() {
    let (service, mut raw, running) = on_socket(|_| ());
    assert_eq!(raw.next(), Some((ty::DATA_STDERR, Vec::new())));
    (&service).write_all(b"word").unwrap();
    assert_eq!(raw.next(), Some((ty::DATA_STDOUT, b"word".to_vec())));
    raw.say(ty::DATA_STDIN, b"");
    // The caller has ended only its own direction, so the service can still answer.
    assert_eq!((&service).read(&mut [0; 9]).unwrap(), 0);
    (&service).write_all(b"last").unwrap();
    assert_eq!(raw.next(), Some((ty::DATA_STDOUT, b"last".to_vec())));
    drop(service);
    assert_eq!(raw.until_the_end(), (vec![0], 0));
    assert!(running.join().unwrap().lost().is_none());
}

/// Even if all of the caller's data are there already.
#[test]
fn it_does_so_before_it_hears_anything() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let [(peer, _), (channel, version)] = link(kind, dir.path(), LATEST);
        let mut raw = Raw { channel: peer, bytes: Vec::new() };
        raw.say(ty::DATA_STDIN, b"word");
        raw.say(ty::DATA_STDIN, b"");
        let (_service, theirs) = UnixStream::pair().unwrap();
        let call = Call {
            sink: Some(theirs.try_clone().unwrap().into()),
            source: Some(theirs.into()),
            exit_on_client_eof: true,
            ..Call::new(Role::Service, version)
        };
        let running = start(channel, call);
        let said: Vec<_> = std::iter::from_fn(|| raw.next()).map(|(ty, _)| ty).collect();
        assert_eq!(said, [ty::DATA_STDERR, ty::DATA_STDOUT, ty::DATA_EXIT_CODE], "{kind:?}");
        assert!(running.join().unwrap().lost().is_none());
    }
}

/// A service that could not be started: the order of its messages, with a caller that does not know yet.
#[test]
fn a_failed_start_ends_in_the_order_of_its_place_and_takes_late_words() {
    let (out, err, code) = (ty::DATA_STDOUT, ty::DATA_STDERR, ty::DATA_EXIT_CODE);
    for (why, order) in [
        (NoStreams::FailedInVm, &[out, err, code][..]),
        (NoStreams::FailedInDom0, &[err, out, code]),
        (NoStreams::LeftAlone, &[code]),
    ] {
        for kind in KINDS {
            let dir = tempfile::tempdir().unwrap();
            let [(peer, _), (channel, version)] = link(kind, dir.path(), LATEST);
            let mut raw = Raw { channel: peer, bytes: Vec::new() };
            let reported = thread::spawn(move || report(channel, version, 125, why));
            let said: Vec<_> = order.iter().map(|_| raw.next().unwrap()).collect();
            assert_eq!(said.iter().map(|(ty, _)| *ty).collect::<Vec<_>>(), order, "{kind:?}");
            assert_eq!(said.last().unwrap().1, 125_i32.to_le_bytes());
            if why != NoStreams::LeftAlone {
                // `say` fails if the other side has closed.
                raw.say(ty::DATA_STDIN, b"what it was called for");
                raw.say(ty::DATA_STDIN, b"");
            }
            assert_eq!(raw.next(), None);
            reported.join().unwrap().unwrap();
        }
    }
}

/// When a process ends its stdin is closed, and others that share it may answer: what the process has sent comes
/// before.
#[test]
fn the_words_of_a_process_come_before_the_end_of_its_stdin() {
    for _ in 0..50 {
        let (sink, stdin) = UnixStream::pair().unwrap();
        let (source, stdout) = UnixStream::pair().unwrap();
        let mut process = std::process::Command::new("/bin/sh");
        process.args(["-c", "echo last"]).stdout(OwnedFd::from(stdout.try_clone().unwrap()));
        let child = process.stdin(std::process::Stdio::null()).spawn().unwrap();
        drop(process);
        let other = thread::spawn(move || {
            assert_eq!((&stdin).read(&mut [0]).unwrap(), 0);
            (&stdout).write_all(b"after").unwrap();
        });
        let (mut raw, running) = service(Kind::Shm, LATEST, |version| Call {
            sink: Some(sink.into()),
            source: Some(source.into()),
            child: Some(child.try_into().unwrap()),
            ..Call::new(Role::Service, version)
        });
        let mut said = Vec::new();
        while let Some((ty, body)) = raw.next() {
            if ty == ty::DATA_STDOUT && !body.is_empty() {
                said.push(String::from_utf8(body).unwrap());
            } else if ty == ty::DATA_EXIT_CODE {
                break;
            }
        }
        assert_eq!(said, ["last\n", "after"]);
        drop(raw);
        other.join().unwrap();
        assert!(running.join().unwrap().lost().is_none());
    }
}

#[test]
fn exit_on_client_eof_ends_the_call_though_the_service_goes_on() {
    let (service, mut raw, running) = on_socket(|call| call.exit_on_client_eof = true);
    raw.say(ty::DATA_STDIN, b"");
    assert_eq!(raw.until_the_end(), (vec![0], 0));
    assert!(running.join().unwrap().lost().is_none());
    drop(service);
}

#[test]
fn exit_on_service_eof_does_not_wait_for_the_caller() {
    let (service, mut raw, running) = on_socket(|call| call.exit_on_service_eof = true);
    (&service).write_all(b"last").unwrap();
    service.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(raw.until_the_end(), (vec![4, 0], 0));
    assert!(running.join().unwrap().lost().is_none());
}

#[test]
fn an_end_of_stdin_after_the_exit_code_is_no_breach() {
    for kind in KINDS {
        let (mut raw, running) = service(kind, LATEST, |version| Call::new(Role::Service, version));
        assert_eq!(raw.until_the_end(), (vec![0], 0), "{kind:?}");
        // `say` fails if the service side has closed: it waits for a caller that was about to send something.
        raw.say(ty::DATA_STDIN, b"late");
        raw.say(ty::DATA_STDIN, b"");
        drop(raw);
        let outcome = running.join().unwrap();
        assert!(matches!(outcome.ending, Ending::Complete), "{kind:?} {outcome:?}");
    }
}

/// The C programs read a header at once: at any moment it must be there as a whole or not at all, however little room
/// there is. `payload` bytes and the messages around them fill a small ring to its last bytes.
#[test]
fn a_header_is_written_in_one_piece() {
    for payload in 4060..=4084 {
        let dir = tempfile::tempdir().unwrap();
        let [client, (channel, version)] = link_of_size(4096, Kind::Shm, dir.path(), LATEST);
        let mut raw = Raw { channel: client.0, bytes: Vec::new() };
        let call = Call { source: Some(file(&noise(payload))), ..Call::new(Role::Service, version) };
        let running = start(channel, call);
        let begun = Instant::now();
        while raw.channel.readable().unwrap() < 4060 {
            assert!(begun.elapsed() < LIMIT, "the ring is not filled");
            thread::yield_now();
        }
        raw.say(ty::DATA_STDIN, b"");
        let (mut types, mut left) = (Vec::new(), 0);
        loop {
            let ready = raw.channel.readable().unwrap();
            assert!(
                ready <= left || ready >= left + HEADER_LEN,
                "{payload}: {ready} bytes, {left} of a body"
            );
            match (ready, left) {
                (0, _) => {
                    // The end of the link is an event, too.
                    if !raw.channel.arm(true, false).unwrap() {
                        wait(&raw.channel, PollFlags::IN);
                        raw.channel.on_ready().unwrap();
                    }
                }
                (_, 0) => {
                    let mut header = [0; HEADER_LEN];
                    assert_eq!(raw.channel.read(&mut header).unwrap(), HEADER_LEN);
                    let header = Header::from_bytes(header);
                    types.push(header.ty);
                    left = header.len as usize;
                    if header.ty == ty::DATA_EXIT_CODE {
                        break;
                    }
                }
                _ => left -= raw.channel.read(&mut [0]).unwrap(),
            }
        }
        types.sort_unstable();
        types.dedup();
        assert_eq!(types, [ty::DATA_STDOUT, ty::DATA_STDERR, ty::DATA_EXIT_CODE]);
        drop(raw);
        running.join().unwrap();
    }
}

/// A client that has received the exit code, with error output that is not read yet.
#[test]
fn after_the_exit_code_nothing_more_is_sent() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let [(channel, version), (peer, _)] = link(kind, dir.path(), LATEST);
        let mut raw = Raw { channel: peer, bytes: Vec::new() };
        let (source, feed) = rustix::pipe::pipe().unwrap();
        let (error_output, full) = rustix::pipe::pipe().unwrap();
        let room = rustix::pipe::fcntl_getpipe_size(&full).unwrap();
        File::from(full.try_clone().unwrap()).write_all(&vec![b'.'; room]).unwrap();
        let call = Call { source: Some(source), stderr: Some(full), ..Call::new(Role::Client, version) };
        let running = start(channel, call);
        rustix::io::write(&feed, b"before").unwrap();
        assert_eq!(raw.next(), Some((ty::DATA_STDIN, b"before".to_vec())));
        raw.say(ty::DATA_STDERR, b"last words");
        raw.say(ty::DATA_EXIT_CODE, &3_i32.to_le_bytes());
        // Nothing more is read from a process that would go on.
        assert!(wait(&feed, PollFlags::empty()).contains(PollFlags::ERR), "{kind:?}");
        assert_eq!(rustix::io::write(&feed, b"after"), Err(rustix::io::Errno::PIPE));
        assert!(!running.is_finished());
        let mut said = vec![0; room + 10];
        File::from(error_output).read_exact(&mut said).unwrap();
        assert!(said.ends_with(b"..last words"), "{kind:?}");
        assert_eq!(running.join().unwrap().remote, Some(3), "{kind:?}");
        // One end of stdin is allowed, and nothing else.
        let rest: Vec<_> = std::iter::from_fn(|| raw.next()).collect();
        assert!(rest.is_empty() || rest == [(ty::DATA_STDIN, Vec::new())], "{kind:?}: {rest:?}");
    }
}
