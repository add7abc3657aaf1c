//! Local descriptors, in a program of their own: a process that another test starts would hold copies of these pipes.

use std::io;

use engine::localfd::{Direction, LocalFd};
use rustix::fs::{self, OFlags};

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

/// Opening the master anew would make another terminal, which nobody reads.
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

/// What a pipe holds after we have closed it: what its reader has not read, and nothing once that has gone.
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
