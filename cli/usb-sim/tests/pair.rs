//! A device and the stand-in kernel, with nothing but a socket between.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use usb_sim::host::{
    Class, Content, Disk, Host, Request, Stream, Trouble, Way, control_transfers, describe, keys, stream,
};
use usb_sim::{Kind, Machine, Medium, pattern, run_controller};

const PATIENCE: Duration = Duration::from_secs(20);

/// A device at work, and who has imported it.
fn import(kind: Kind) -> Host {
    let (ours, theirs) = UnixStream::pair().unwrap();
    thread::spawn(move || run_controller(&mut Machine::new(kind, None), OwnedFd::from(theirs)));
    Host::attach(ours.into(), PATIENCE).unwrap()
}

fn stick(bytes: usize) -> Host {
    import(Kind::Stick(Medium::Memory(pattern(bytes))))
}

#[test]
fn a_stick_is_read_and_written_and_compared() {
    let mut host = stick(4 << 20);
    let described = describe(&mut host).unwrap();
    assert_eq!(described.class, Class::Disk);
    assert_eq!(described.strings, ["qrexec", "Simulated stick", "SIM0001"]);
    let mut disk = Disk::open(&mut host, Content::Pattern).unwrap();
    assert_eq!(disk.bytes(), 4 << 20);
    for length in [4 << 10, 120 << 10, 1 << 20] {
        let read = disk.measure(Way::Read, length, 4 << 20).unwrap();
        assert!(read.bytes >= 4 << 20 && read.waits.count == (4usize << 20).div_ceil(length));
        disk.measure(Way::Write, length, 2 << 20).unwrap();
        disk.measure(Way::Read, length, 4 << 20).unwrap();
    }
    disk.sync().unwrap();
}

#[test]
fn another_content_is_noticed() {
    let mut content = pattern(1 << 20);
    content[(1 << 20) - 1] ^= 1;
    let mut host = import(Kind::Stick(Medium::Memory(content)));
    describe(&mut host).unwrap();
    let mut disk = Disk::open(&mut host, Content::Pattern).unwrap();
    disk.read(0, 2047).unwrap();
    assert!(matches!(disk.read(2047, 1), Err(Trouble::Wrong("the disk contains something else"))));
}

#[test]
fn a_refused_command_leaves_the_next_one_unharmed() {
    let mut host = stick(1 << 20);
    describe(&mut host).unwrap();
    let mut disk = Disk::open(&mut host, Content::Pattern).unwrap();
    assert!(matches!(disk.read(2048, 1), Err(Trouble::Failed("command", 1))));
    assert!(matches!(disk.write(2048, 1), Err(Trouble::Failed("command", 1))));
    disk.read(2040, 8).unwrap();
}

#[test]
fn small_control_transfers_are_measured() {
    let mut host = stick(1 << 20);
    let measured = control_transfers(&mut host, 100).unwrap();
    assert_eq!((measured.bytes, measured.waits.count), (200, 100));
    assert!(measured.waits.p50 > 0.0 && measured.waits.p50 <= measured.waits.worst);
}

#[test]
fn a_camera_sends_every_packet_in_order() {
    let mut host = import(Kind::Camera);
    assert_eq!(describe(&mut host).unwrap().class, Class::Camera);
    for how in [Stream::webcam(Duration::from_millis(100)), Stream::millisecond(Duration::from_millis(50))] {
        let seen = stream(&mut host, how).unwrap();
        assert!(seen.answers > 5, "{seen:?}");
        assert_eq!((seen.wrong, host.pending()), (0, 0), "{seen:?}");
        // In real time: no answer before its packets' time.
        assert!(seen.answers <= 101, "{seen:?}");
    }
}

#[test]
fn a_camera_that_nobody_feeds_in_time_says_so() {
    let mut host = import(Kind::Camera);
    describe(&mut host).unwrap();
    // One request in flight is always late: the next one is sent when it is over.
    let how = Stream { in_flight: 1, ..Stream::millisecond(Duration::from_millis(50)) };
    assert!(stream(&mut host, how).unwrap().starved > 5);
}

#[test]
fn a_keyboard_types() {
    let mut host = import(Kind::Keyboard(Some(Duration::from_millis(5))));
    assert_eq!(describe(&mut host).unwrap().class, Class::Keyboard);
    assert_eq!(keys(&mut host, 4).unwrap(), [4, 4]);
}

#[test]
fn a_device_that_is_unplugged_and_one_that_is_silent_are_told_apart() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    assert!(matches!(Host::attach(ours.into(), PATIENCE), Err(Trouble::Gone)));
    let (ours, theirs) = UnixStream::pair().unwrap();
    let silent = Host::attach(ours.into(), Duration::from_millis(10));
    assert!(matches!(silent, Err(Trouble::Silent)), "{silent:?}");
    drop(theirs);
}

#[test]
fn a_pending_request_is_cancelled() {
    let mut host = import(Kind::Keyboard(None));
    describe(&mut host).unwrap();
    let waits = host.submit(&Request::from_device(1, 8)).unwrap();
    let cancel = host.cancel(waits).unwrap();
    let answer = host.answer().unwrap();
    assert_eq!((answer.seqnum, answer.unlinked, answer.status, host.pending()), (cancel, true, -104, 0));
}
