//! Hostile while meeting: offers, descriptors, servers that hang up and clients that leave.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ring::{Channel, Error, Kind, Orders};
use rustix::fs::SealFlags;
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::common::*;
use crate::raw::{SEALS, memfd, offer, send_with};
use crate::{DEADLINE, SMALL};

/// The result for an honest client whose server sends these bytes and descriptors and stays.
fn meet_with(bytes: &[u8], fds: &[OwnedFd]) -> Result<Channel, Error> {
    let bed = Bed::new(Kind::Shm);
    let listener = UnixListener::bind(bed.socket(1).unwrap()).unwrap();
    let mut connector = bed.connect(1);
    assert!(connector.poll().unwrap().is_none());
    let (socket, _) = listener.accept().unwrap();
    let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    assert!(send_with(&socket, bytes, &fds));
    connector.connect_within(LOST)
}

#[track_caller]
pub(crate) fn refused(bytes: &[u8], fds: &[OwnedFd]) {
    match meet_with(bytes, fds) {
        Err(Error::BadMeeting { .. }) => {}
        Err(other) => panic!("not the peer's fault: {other}"),
        Ok(_) => panic!("accepted"),
    }
}

fn honest_size() -> u64 {
    Orders::choose(SMALL).unwrap().region_bytes() as u64
}

pub(crate) fn honest_memfd() -> OwnedFd {
    memfd(honest_size(), SEALS)
}

fn honest_offer() -> Vec<u8> {
    offer(b"qrxs", 1, 12, 12)
}

/// The environment variable that turns a run of this program into a client without a free descriptor.
const FULL: &str = "RING_TEST_FULL";
/// The client's exit code if it has blamed itself.
const BLAMED_ITSELF: i32 = 10;

/// The other process of [`a_client_without_a_free_descriptor_does_not_blame_the_server`].
#[test]
fn client_without_a_free_descriptor() {
    if std::env::var_os(FULL).is_none() {
        return;
    }
    let bed = Bed::new(Kind::Shm);
    let listener = UnixListener::bind(bed.socket(1).unwrap()).unwrap();
    let mut connector = bed.connect(1);
    assert!(connector.poll().unwrap().is_none());
    let (socket, _) = listener.accept().unwrap();
    assert!(send_with(&socket, &honest_offer(), &[honest_memfd().as_fd()]));
    let null = File::open("/dev/null").unwrap();
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: Some(64) }).unwrap();
    let fill: Vec<File> = std::iter::from_fn(|| null.try_clone().ok()).collect();
    let met = connector.connect_within(LOST);
    drop(fill);
    assert!(matches!(met, Err(Error::Io { .. })), "{:?}", met.err());
    std::process::exit(BLAMED_ITSELF);
}

#[test]
fn a_client_without_a_free_descriptor_does_not_blame_the_server() {
    let mut client = again("meeting::client_without_a_free_descriptor", &[(FULL, Path::new("1"))]);
    assert_eq!(client.wait().unwrap().code(), Some(BLAMED_ITSELF));
}

#[test]
fn offers_of_another_kind_are_refused() {
    within(DEADLINE, || {
        assert!(meet_with(&honest_offer(), &[honest_memfd()]).is_ok(), "the honest one is accepted");
        for bytes in [
            offer(b"qrxt", 1, 12, 12),
            offer(b"sxrq", 1, 12, 12),
            offer(b"qrxs", 0, 12, 12),
            offer(b"qrxs", 2, 12, 12),
            offer(b"qrxs", 1, 9, 12),
            offer(b"qrxs", 1, 12, 21),
            offer(b"qrxs", 1, 10, 10),
            offer(b"qrxs", 1, 11, 11),
            offer(b"qrxs", 1, u16::MAX, u16::MAX),
            offer(b"qrxs", 1, 0, 0),
            honest_offer()[..11].to_vec(),
            honest_offer()[..1].to_vec(),
        ] {
            refused(&bytes, &[honest_memfd()]);
        }
    });
}

#[test]
fn pages_that_could_fault_or_not_be_mapped_are_refused() {
    within(DEADLINE, || {
        for bytes in [0, honest_size() - 4096, honest_size() - 1, honest_size() + 1, 1 << 40] {
            refused(&honest_offer(), &[memfd(bytes, SEALS)]);
        }
        for seals in [
            SealFlags::empty(),
            SealFlags::SHRINK | SealFlags::GROW,
            SealFlags::SHRINK | SealFlags::SEAL,
            SealFlags::GROW | SealFlags::SEAL,
            SEALS | SealFlags::WRITE,
            SEALS | SealFlags::FUTURE_WRITE,
        ] {
            refused(&honest_offer(), &[memfd(honest_size(), seals)]);
        }
        let writable = honest_memfd();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&writable));
        refused(&honest_offer(), &[File::open(path).unwrap().into()]);
    });
}

#[test]
fn what_is_not_a_memfd_is_refused() {
    within(DEADLINE, || {
        let file = tempfile::tempfile().unwrap();
        file.set_len(honest_size()).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let others: [OwnedFd; 5] = [
            file.into(),
            reader.into(),
            writer.into(),
            File::open("/dev/zero").unwrap().into(),
            UnixStream::pair().unwrap().0.into(),
        ];
        for fd in others {
            refused(&honest_offer(), &[fd]);
        }
    });
}

#[test]
fn any_other_number_of_descriptors_is_refused_and_none_stays_open() {
    within(DEADLINE, || {
        refused(&honest_offer(), &[]);
        for count in 2..=8 {
            let (mut reader, writer) = std::io::pipe().unwrap();
            let mut fds = vec![honest_memfd()];
            fds.resize_with(count - 1, honest_memfd);
            fds.push(writer.into());
            refused(&honest_offer(), &fds);
            drop(fds);
            // The pipe has ended, so no copy of its other end was kept.
            assert_eq!(reader.read(&mut [0]).unwrap(), 0, "{count} descriptors");
        }
    });
}

#[test]
fn a_server_that_hangs_up_is_retried_without_haste() {
    within(DEADLINE, || {
        let bed = Bed::new(Kind::Shm);
        let listener = UnixListener::bind(bed.socket(1).unwrap()).unwrap();
        let connector = bed.connect(1);
        let limit = Duration::from_millis(100);
        let done = Arc::new(AtomicBool::new(false));
        let hangs_up = std::thread::spawn({
            let done = done.clone();
            move || {
                let mut count = 0;
                for stream in listener.incoming() {
                    drop(stream);
                    count += 1;
                    if done.load(Ordering::SeqCst) {
                        break;
                    }
                }
                count
            }
        });
        let start = Instant::now();
        assert!(matches!(connector.connect_within(limit), Err(Error::Timeout(_))));
        assert!(start.elapsed() < limit + LOST);
        done.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(bed.socket(1).unwrap());
        let count = hangs_up.join().unwrap();
        assert!(count <= 100, "{count} attempts in {:?}", start.elapsed());
    });
}

#[test]
fn a_server_that_says_nothing_costs_the_deadline() {
    within(DEADLINE, || {
        let bed = Bed::new(Kind::Shm);
        let _listener = UnixListener::bind(bed.socket(1).unwrap()).unwrap();
        let limit = Duration::from_millis(30);
        assert!(matches!(bed.connect(1).connect_within(limit), Err(Error::Timeout(_))));
    });
}

/// Clients that come and go before the server looks do not keep an honest one from connecting.
#[test]
fn a_client_that_leaves_before_the_offer_is_passed_over() {
    within(DEADLINE, || {
        let bed = Bed::new(Kind::Shm);
        let listener = bed.listen(1, SMALL);
        for _ in 0..50 {
            drop(UnixStream::connect(bed.socket(1).unwrap()).unwrap());
        }
        let (mut server, mut client) = meet(listener, bed.connect(1));
        send(&mut client, b"hello");
        receive(&mut server, &mut [0; 5]);
    });
}
