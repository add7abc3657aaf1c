//! Two pumps against each other over every transport. The environment (`QREXEC_ENGINE`) chooses the driver, so that
//! the same tests are run with poll and with io_uring.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use engine::pump::{Call, Ending, Outcome, StderrCopy, run};
use ring::{Channel, Kind};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata};
use wire::header::{Header, ty};
use wire::stream::Role;
use wire::version::Version;

mod common;

use common::link;

const KINDS: [Kind; 2] = [Kind::Shm, Kind::Socket];

/// The other ends of the descriptors that one side of the call pumps.
struct Local {
    call: Call,
    /// What the call reads and sends.
    feed: Option<File>,
    /// What the call writes comes out here.
    out: File,
    /// The other end of its stderr.
    err: Option<File>,
}

fn local(role: Role, version: Version) -> Local {
    let (feed_r, feed_w) = rustix::pipe::pipe().unwrap();
    let (out_r, out_w) = rustix::pipe::pipe().unwrap();
    let (err_r, err_w) = rustix::pipe::pipe().unwrap();
    let mut call = Call::new(role, version);
    call.sink = Some(out_w);
    call.source = Some(feed_r);
    let err = if role == Role::Service {
        call.stderr = Some(err_r);
        err_w
    } else {
        call.stderr = Some(err_w);
        err_r
    };
    Local { call, feed: Some(feed_w.into()), out: out_r.into(), err: Some(err.into()) }
}

fn start(channel: Channel, call: Call) -> JoinHandle<Outcome> {
    thread::spawn(move || run(channel, call))
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        })
        .collect()
}

fn feed(mut to: File, bytes: Vec<u8>) -> JoinHandle<()> {
    thread::spawn(move || to.write_all(&bytes).unwrap())
}

fn drain(mut from: File) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        from.read_to_end(&mut all).unwrap();
        all
    })
}

/// A whole call: both streams full of noise, stderr too, with every size of ring and on every transport.
#[test]
fn every_byte_arrives_both_ways_at_once() {
    for kind in KINDS {
        for size in [1024, 4096, 65_536, 1 << 20] {
            let dir = tempfile::tempdir().unwrap();
            let [client, service] = link(kind, dir.path(), size);
            let mut c = local(Role::Client, client.1);
            let mut s = local(Role::Service, service.1);
            let (up, down, err) = (noise(3 << 20, 1), noise(5 << 20, 2), noise(100_000, 3));
            let running = [start(client.0, c.call), start(service.0, s.call)];
            let feeding = [
                feed(c.feed.take().unwrap(), up.clone()),
                feed(s.feed.take().unwrap(), down.clone()),
                feed(s.err.take().unwrap(), err.clone()),
            ];
            let got = [drain(c.out), drain(s.out), drain(c.err.take().unwrap())].map(|t| t.join().unwrap());
            assert!(got[0] == down && got[1] == up && got[2] == err, "{kind:?} {size}");
            for thread in feeding {
                thread.join().unwrap();
            }
            let [client, service] = running.map(|t| t.join().unwrap());
            assert_eq!(client.remote, Some(0), "{client:?}");
            assert!(client.lost().is_none() && service.lost().is_none(), "{client:?} {service:?}");
            assert_eq!(client.bytes_out, service.bytes_in);
            assert_eq!(service.bytes_out, (down.len() + err.len()) as u64);
        }
    }
}

/// The link breaks in the middle: what had arrived is delivered, and the loss is reported.
#[test]
fn a_lost_link_is_never_a_silent_success() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let [client, service] = link(kind, dir.path(), 4096);
        let c = local(Role::Client, client.1);
        let running = start(client.0, c.call);
        drop(service);
        let outcome = running.join().unwrap();
        assert!(outcome.lost().is_some() && outcome.remote.is_none(), "{kind:?} {outcome:?}");
    }
}

/// stderr without a reader waits in the spill; stdout continues.
#[test]
fn unread_stderr_does_not_stop_stdout() {
    let dir = tempfile::tempdir().unwrap();
    let [client, service] = link(Kind::Shm, dir.path(), 65_536);
    let mut c = local(Role::Client, client.1);
    let mut s = local(Role::Service, service.1);
    let running = [start(client.0, c.call), start(service.0, s.call)];
    // More than a pipe holds, less than pipe and spill together.
    let err = noise(200_000, 7);
    feed(s.err.take().unwrap(), err.clone()).join().unwrap();
    let down = noise(1 << 20, 8);
    let feeding = feed(s.feed.take().unwrap(), down.clone());
    drop(c.feed.take());
    let mut got = vec![0u8; down.len()];
    c.out.read_exact(&mut got).unwrap();
    assert!(got == down);
    feeding.join().unwrap();
    assert!(drain(c.err.take().unwrap()).join().unwrap() == err);
    assert_eq!(running.map(|t| t.join().unwrap())[0].remote, Some(0));
}

/// A service that closes its stdin has ended that stream, but not the call.
#[test]
fn a_closed_reader_discards_and_the_exit_code_still_comes() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let [client, service] = link(kind, dir.path(), 4096);
        let mut c = local(Role::Client, client.1);
        let mut s = local(Role::Service, service.1);
        let running = [start(client.0, c.call), start(service.0, s.call)];
        drop(s.out);
        let feeding = feed(c.feed.take().unwrap(), noise(1 << 20, 4));
        feeding.join().unwrap();
        feed(s.feed.take().unwrap(), b"done".to_vec()).join().unwrap();
        drop(s.err.take());
        assert_eq!(drain(c.out).join().unwrap(), b"done");
        assert_eq!(running.map(|t| t.join().unwrap())[0].remote, Some(0), "{kind:?}");
    }
}

/// A caller whose output has no reader any more ends the call, and with it the service.
#[test]
fn a_caller_without_a_reader_ends_an_endless_service() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let [client, service] = link(kind, dir.path(), 4096);
        let c = local(Role::Client, client.1);
        let mut s = local(Role::Service, service.1);
        let running = [start(client.0, c.call), start(service.0, s.call)];
        drop(c.out);
        let mut endless = s.feed.take().unwrap();
        while endless.write_all(&[b'y'; 4096]).is_ok() {}
        let [client, service] = running.map(|t| t.join().unwrap());
        assert!(matches!(client.ending, Ending::Unread), "{kind:?} {client:?}");
        assert!(service.lost().is_some(), "{kind:?} {service:?}");
    }
}

/// Socket ends: both directions on one descriptor, ended one by one by shutdown.
#[test]
fn one_socket_for_both_directions() {
    let dir = tempfile::tempdir().unwrap();
    let [client, service] = link(Kind::Shm, dir.path(), 65_536);
    let mut c = local(Role::Client, client.1);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut call = Call::new(Role::Service, service.1);
    call.sink = Some(OwnedFd::from(theirs.try_clone().unwrap()));
    call.source = Some(OwnedFd::from(theirs));
    let running = [start(client.0, c.call), start(service.0, call)];
    let up = noise(2 << 20, 5);
    let feeding = feed(c.feed.take().unwrap(), up.clone());
    let echo = thread::spawn(move || {
        let mut all = Vec::new();
        (&ours).read_to_end(&mut all).unwrap();
        (&ours).write_all(&all).unwrap();
        all
    });
    assert!(drain(c.out).join().unwrap() == up);
    assert!(echo.join().unwrap() == up);
    feeding.join().unwrap();
    assert_eq!(running.map(|t| t.join().unwrap())[0].remote, Some(0));
}

#[test]
fn the_terminal_filter_replaces_and_keeps_the_length() {
    let dir = tempfile::tempdir().unwrap();
    let [client, service] = link(Kind::Shm, dir.path(), 4096);
    let mut c = local(Role::Client, client.1);
    c.call.filter_sink = true;
    let mut s = local(Role::Service, service.1);
    let running = [start(client.0, c.call), start(service.0, s.call)];
    drop((c.feed.take(), s.err.take()));
    feed(s.feed.take().unwrap(), b"a\x1b[31mred\xff\n".to_vec()).join().unwrap();
    assert_eq!(drain(c.out).join().unwrap(), b"a_[31mred_\n");
    assert_eq!(running.map(|t| t.join().unwrap())[0].remote, Some(0));
}

/// Half a header, then silence: the pump sleeps (and does not spin) until the link closes.
#[test]
fn half_a_header_costs_no_cpu_and_ends_with_the_link() {
    let dir = tempfile::tempdir().unwrap();
    let [client, mut service] = link(Kind::Shm, dir.path(), 4096);
    let c = local(Role::Client, client.1);
    let running = start(client.0, c.call);
    service.0.write(&[0x91, 1, 0]).unwrap();
    service.0.flush().unwrap();
    // The pump has answered the doorbell once it asks to be rung again.
    while service.0.arm(true, false).unwrap() {}
    drop(service);
    let outcome = running.join().unwrap();
    assert!(outcome.lost().is_some());
    assert!(outcome.cost.sleeps < 20, "{outcome:?}");
}

/// Regular files at both ends: nothing to poll, nothing cut short.
#[test]
fn files_as_source_and_sinks() {
    let dir = tempfile::tempdir().unwrap();
    let [client, service] = link(Kind::Shm, dir.path(), 65_536);
    let mut c = local(Role::Client, client.1);
    let mut s = local(Role::Service, service.1);
    let (down, err) = (noise(3 << 20, 11), noise(300_000, 12));
    let path = |name| dir.path().join(name);
    std::fs::write(path("in"), &down).unwrap();
    s.call.source = Some(File::open(path("in")).unwrap().into());
    c.call.sink = Some(File::create(path("out")).unwrap().into());
    c.call.stderr = Some(File::create(path("err")).unwrap().into());
    let running = [start(client.0, c.call), start(service.0, s.call)];
    drop(c.feed.take());
    feed(s.err.take().unwrap(), err.clone()).join().unwrap();
    assert_eq!(running.map(|t| t.join().unwrap())[0].remote, Some(0));
    assert!(std::fs::read(path("out")).unwrap() == down && std::fs::read(path("err")).unwrap() == err);
}

/// A call that moved much and is then quiet returns its ring's memory, and continues normally afterwards.
#[test]
fn an_idle_call_rests_and_wakes() {
    let dir = tempfile::tempdir().unwrap();
    let [client, service] = link(Kind::Shm, dir.path(), 65_536);
    let mut c = local(Role::Client, client.1);
    let mut s = local(Role::Service, service.1);
    let running = [start(client.0, c.call), start(service.0, s.call)];
    drop((s.feed.take(), s.err.take()));
    let up = noise(3 << 20, 21);
    let mut feed_end = c.feed.take().unwrap();
    let mut got = vec![0u8; up.len()];
    for _ in 0..2 {
        let writing = feed(feed_end.try_clone().unwrap(), up.clone());
        s.out.read_exact(&mut got).unwrap();
        writing.join().unwrap();
        assert!(got == up);
        // Longer than the time after which the pump counts as idle: no event tells that nothing has happened.
        thread::sleep(Duration::from_millis(1300));
    }
    feed_end.write_all(b"end").unwrap();
    drop(feed_end);
    assert_eq!(drain(s.out).join().unwrap(), b"end");
    let outcomes = running.map(|t| t.join().unwrap());
    assert_eq!(outcomes[0].remote, Some(0));
    if std::env::var_os("QREXEC_ENGINE").is_none_or(|engine| engine != "uring") {
        assert_eq!(outcomes[0].cost.engine, "poll", "the last word of a rested call is small");
    }
}

/// A peer whose bytes have all arrived when the call begins: these messages, then a header that no data link has.
fn breached(messages: &[(u32, &[u8])]) -> (Outcome, String) {
    let dir = tempfile::tempdir().unwrap();
    let [(ours, version), (mut theirs, _)] = link(Kind::Shm, dir.path(), 65_536);
    let mut bytes = Vec::new();
    for (ty, body) in messages.iter().copied().chain([(0x300, &b""[..])]) {
        bytes.extend(Header::new(ty, body.len() as u32).to_bytes());
        bytes.extend(body);
    }
    assert_eq!(theirs.write(&bytes).unwrap(), bytes.len());
    let Local { call, feed, mut out, err } = local(Role::Client, version);
    let outcome = run(ours, call);
    drop((theirs, feed, err));
    let mut said = String::new();
    out.read_to_string(&mut said).unwrap();
    (outcome, said)
}

#[test]
fn what_came_before_a_breach_counts() {
    let (outcome, said) = breached(&[(ty::DATA_STDOUT, b"data")]);
    assert_eq!((said.as_str(), outcome.remote), ("data", None));
    assert!(outcome.lost().is_some_and(|why| why.to_string().contains("0x300")));

    let exit = (ty::DATA_EXIT_CODE, &3_i32.to_le_bytes()[..]);
    let (outcome, said) = breached(&[(ty::DATA_STDOUT, b"data"), exit]);
    assert_eq!((said.as_str(), outcome.remote), ("data", Some(3)));
    assert!(outcome.lost().is_none(), "{outcome:?}");
}

/// Does something between the pump's two looks: whether the peer is there, and what has arrived.
struct BetweenTwoLooks(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl tracing::Subscriber for BetweenTwoLooks {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "engine::pump::sleep"
    }

    fn event(&self, _: &Event<'_>) {
        if let Some(act) = self.0.lock().unwrap().take() {
            act();
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// A peer sends its last bytes and closes just when the other side is about to sleep: the bytes must not be lost.
#[test]
fn last_words_between_two_looks_are_heard() {
    let dir = tempfile::tempdir().unwrap();
    let [(ours, version), (mut theirs, _)] = link(Kind::Shm, dir.path(), 65_536);
    let (spoken, has_spoken) = mpsc::channel();
    let speak = move || {
        let exit = Header::new(ty::DATA_EXIT_CODE, 4).to_bytes();
        let words = [&exit[..], &3_i32.to_le_bytes()].concat();
        assert_eq!(theirs.write(&words).unwrap(), words.len());
        drop(theirs);
        spoken.send(()).unwrap();
    };
    // Without local descriptors: once the peer is gone there is nothing else to wait for.
    let call = Call::new(Role::Client, version);
    // While there is only one subscriber, an event that another test's thread reaches first is switched off for good,
    // since that thread has no subscriber. With two of them, tracing asks each time.
    let _other = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new());
    let between = BetweenTwoLooks(Mutex::new(Some(Box::new(speak))));
    let outcome = tracing::subscriber::with_default(between, || run(ours, call));
    has_spoken.try_recv().expect("the pump has been about to sleep");
    assert_eq!(outcome.remote, Some(3));
    assert!(outcome.lost().is_none(), "{outcome:?}");
}

/// Endless error output, always more than its pipe holds: stdout arrives all the same.
#[test]
fn a_flood_of_error_output_does_not_starve_stdout() {
    for logged in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let [client, service] = link(Kind::Shm, dir.path(), 65_536);
        let mut c = local(Role::Client, client.1);
        let mut s = local(Role::Service, service.1);
        if logged {
            let log = File::create(dir.path().join("log")).unwrap();
            s.call.log_stderr = Some(StderrCopy::to(Ok(log.into())));
        }
        let running = [start(client.0, c.call), start(service.0, s.call)];
        let mut flood = s.err.take().unwrap();
        let enough = Arc::new(AtomicBool::new(false));
        let until = enough.clone();
        let flooding = thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                flood.write_all(&[b'!'; 65_536]).unwrap();
            }
        });
        let mut err = c.err.take().unwrap();
        let (begun, has_begun) = mpsc::channel();
        let reading = thread::spawn(move || {
            err.read_exact(&mut [0]).unwrap();
            begun.send(()).unwrap();
            std::io::copy(&mut err, &mut std::io::sink()).unwrap()
        });
        has_begun.recv().unwrap();
        let bytes = noise(300_000, 5);
        feed(s.feed.take().unwrap(), bytes.clone());
        let mut got = vec![0; bytes.len()];
        c.out.read_exact(&mut got).unwrap();
        enough.store(true, Ordering::Relaxed);
        assert!(got == bytes);
        flooding.join().unwrap();
        drop((c.feed, s.out));
        let [client, _] = running.map(|t| t.join().unwrap());
        assert_eq!(client.remote, Some(0), "{client:?}");
        reading.join().unwrap();
    }
}
