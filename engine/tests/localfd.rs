//! Local descriptors, in a program of their own: processes that another test starts would hold copies of these pipes.

use std::io;
use std::os::fd::OwnedFd;

use engine::localfd::{Direction, LocalFd};
use rustix::fs::{self, OFlags};
use rustix::pipe::{SpliceFlags, splice};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

#[test]
fn a_pipe_keeps_its_flags_and_ours_does_not_block() {
    let (r, w) = rustix::pipe::pipe().unwrap();
    let copy = r.try_clone().unwrap();
    let ours = LocalFd::adopt(copy, Direction::In).unwrap();
    assert!(ours.may_try());
    let mut buf = [0u8; 8];
    assert_eq!(ours.read(&mut buf).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert!(!fs::fcntl_getfl(&r).unwrap().contains(OFlags::NONBLOCK));
    rustix::io::write(&w, b"abc").unwrap();
    assert_eq!(ours.read(&mut buf).unwrap(), 3);
    drop(w);
    assert_eq!(ours.read(&mut buf).unwrap(), 0);
}

#[test]
fn without_a_reader_a_pipe_breaks_at_the_write_and_a_fifo_at_once() {
    let (r, w) = rustix::pipe::pipe().unwrap();
    drop(r);
    let pipe = LocalFd::adopt(w, Direction::Out).unwrap();
    assert_eq!(pipe.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    fs::mknodat(fs::CWD, &path, fs::FileType::Fifo, fs::Mode::RWXU, 0).unwrap();
    let both = fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, fs::Mode::empty()).unwrap();
    let w = fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, fs::Mode::empty()).unwrap();
    drop(both);
    let error = LocalFd::adopt(w, Direction::Out).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn a_socket_is_used_without_touching_its_flags() {
    let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
    let keep = a.try_clone().unwrap();
    let ours = LocalFd::adopt(a.into(), Direction::In).unwrap();
    assert_eq!(ours.read(&mut [0; 4]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert!(!fs::fcntl_getfl(&keep).unwrap().contains(OFlags::NONBLOCK));
    drop(b);
    assert_eq!(ours.read(&mut [0; 4]).unwrap(), 0);
}

/// Opening the master anew would make another terminal, which has no reader.
#[test]
fn the_master_of_a_terminal_is_used_as_it_is() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let ours = LocalFd::adopt(master.try_clone().unwrap(), Direction::Out).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let terminal = fs::open(name.as_c_str(), flags, fs::Mode::empty()).unwrap();
    assert_eq!(ours.write(b"ab\n").unwrap(), 3);
    let mut line = [0; 8];
    assert_eq!(rustix::io::read(&terminal, &mut line).unwrap(), 3);
}

/// A terminal: the master, and the side of programs.
fn terminal() -> (std::os::fd::OwnedFd, std::os::fd::OwnedFd) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let side = fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, fs::Mode::empty()).unwrap();
    (master, side)
}

/// The same error means the end of a terminal, and a failure of everything else.
#[test]
fn a_read_error_is_an_end_on_a_terminal_only() {
    let eio = Some(rustix::io::Errno::IO.raw_os_error());
    let broken = std::fs::File::open("/proc/self/mem").unwrap();
    let ours = LocalFd::adopt(broken.into(), Direction::In).unwrap();
    assert_eq!(ours.read(&mut [0; 8]).unwrap_err().raw_os_error(), eio);

    let (master, side) = terminal();
    let ours = LocalFd::adopt(side, Direction::In).unwrap();
    drop(master);
    assert_eq!(ours.read(&mut [0; 8]).unwrap(), 0);

    let (master, side) = terminal();
    let ours = LocalFd::adopt(master, Direction::In).unwrap();
    drop(side);
    assert_eq!(ours.read(&mut [0; 8]).unwrap(), 0);
}

/// A process in the background of a terminal is stopped by a read, even if there is nothing to read.
#[test]
fn a_terminal_is_not_read_before_it_is_readable() {
    let (_master, side) = terminal();
    let ours = LocalFd::adopt(side, Direction::In).unwrap();
    assert!(ours.may_try() && !ours.may_try_reading());
    // This terminal controls no session, so no process is in its background.
    assert!(!ours.is_in_background());
    let (pipe, _writer) = rustix::pipe::pipe().unwrap();
    assert!(LocalFd::adopt(pipe, Direction::In).unwrap().may_try_reading());
}

/// A larger write to a terminal could wait without ever being woken.
#[test]
fn a_terminal_that_may_block_is_written_little_at_a_time() {
    let (master, _side) = terminal();
    let ours = LocalFd::adopt(master, Direction::Out).unwrap();
    assert!(!ours.may_try());
    assert_eq!((ours.write_limit(), ours.write(&[b'x'; 2000]).unwrap()), (1024, 1024));
}

/// What a pipe holds after its write end was closed: what its reader has not read, and nothing once the reader is
/// gone.
#[test]
fn what_is_left_in_a_closed_pipe_is_known() {
    let (r, w) = rustix::pipe::pipe().unwrap();
    let ours = LocalFd::adopt(w, Direction::Out).unwrap();
    ours.write(b"abc").unwrap();
    let left = ours.left().unwrap();
    drop(ours);
    assert_eq!(left.held(), 3);
    let mut buf = [0; 2];
    assert_eq!(rustix::io::read(&r, &mut buf).unwrap(), 2);
    assert_eq!(left.held(), 1);
    drop(r);
    assert_eq!(left.held(), 0);
}

/// A pipe whose ends cannot be opened anew by this thread, as if another user had made it.
fn foreign_pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    fs::fchmod(&writer, fs::Mode::empty()).unwrap();
    let mut sets = capabilities(None).unwrap();
    sets.effective -= CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
    set_capabilities(None, sets).unwrap();
    (reader, writer)
}

/// After a splice the pipe can no longer be asked not to wait.
fn spliced_into(writer: &OwnedFd) {
    let (from, to) = rustix::pipe::pipe().unwrap();
    rustix::io::write(&to, b"x").unwrap();
    assert_eq!(splice(&from, None, writer, None, 1, SpliceFlags::empty()), Ok(1));
}

fn is_blocking(fd: &OwnedFd) -> bool {
    !fs::fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK)
}

#[test]
fn a_pipe_of_another_user_is_written_in_large_pieces_without_waiting() {
    let (reader, writer) = foreign_pipe();
    let ours = LocalFd::adopt(writer.try_clone().unwrap(), Direction::Out).unwrap();
    assert!(ours.may_try());
    assert_eq!(ours.write(&[7; 100_000]).unwrap(), 65_536);
    assert_eq!(ours.write(b"x").unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert!(is_blocking(&writer) && is_blocking(&reader));
    drop(reader);
    assert_eq!(ours.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

/// Every byte arrives once and in order, however much the reader takes at a time and wherever the way changes.
#[test]
fn a_pipe_that_others_splice_into_goes_on_in_large_pieces() {
    let (reader, writer) = foreign_pipe();
    let ours = LocalFd::adopt(writer.try_clone().unwrap(), Direction::Out).unwrap();
    let sent: Vec<u8> = (0..1_000_003_u32).map(|i| (i % 251) as u8).collect();
    let (mut at, mut largest) = (0, 0);
    let (mut got, mut buffer) = (Vec::new(), vec![0; 30_011]);
    let mut read = |got: &mut Vec<u8>| {
        let n = rustix::io::read(&reader, &mut buffer).unwrap();
        got.extend_from_slice(&buffer[..n]);
    };
    at += ours.write(&sent[..10]).unwrap();
    read(&mut got);
    spliced_into(&writer);
    read(&mut Vec::new());
    while got.len() < sent.len() {
        match ours.write(&sent[at..]) {
            Ok(n) => {
                at += n;
                largest = largest.max(n);
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        assert!(is_blocking(&writer));
        read(&mut got);
    }
    assert!(got == sent, "wrong bytes");
    assert_eq!(largest, 65_536);
    drop(reader);
    assert_eq!(ours.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

/// A FIFO can never be asked not to wait.
#[test]
fn a_fifo_of_another_user_is_written_in_large_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    fs::mknodat(fs::CWD, &path, fs::FileType::Fifo, fs::Mode::RWXU, 0).unwrap();
    let fifo = fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, fs::Mode::empty()).unwrap();
    fs::fchmod(&fifo, fs::Mode::empty()).unwrap();
    drop(foreign_pipe());
    let ours = LocalFd::adopt(fifo.try_clone().unwrap(), Direction::Out).unwrap();
    assert_eq!(ours.write(&[7; 100_000]).unwrap(), 65_536);
    assert_eq!(ours.write(b"x").unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let mut buffer = vec![0; 100_000];
    assert_eq!(rustix::io::read(&fifo, &mut buffer).unwrap(), 65_536);
    assert!(buffer[..65_536].iter().all(|byte| *byte == 7));
}

#[test]
fn a_pipe_of_another_user_is_read_without_waiting_until_others_splice() {
    let (reader, writer) = foreign_pipe();
    let ours = LocalFd::adopt(reader.try_clone().unwrap(), Direction::In).unwrap();
    let mut buffer = [0; 8];
    assert_eq!(ours.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    rustix::io::write(&writer, b"abc").unwrap();
    let (from, to) = rustix::pipe::pipe().unwrap();
    assert_eq!(splice(&reader, None, &to, None, 1, SpliceFlags::empty()), Ok(1));
    drop((from, to));
    // If it can no longer be asked, it is read once it is reported ready.
    let read = ours.read(&mut buffer).or_else(|error| {
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(!ours.may_try());
        ours.read(&mut buffer)
    });
    assert_eq!((read.unwrap(), &buffer[..2]), (2, &b"bc"[..]));
    assert!(is_blocking(&reader));
    drop(writer);
    assert_eq!(ours.read(&mut buffer).unwrap(), 0);
}
