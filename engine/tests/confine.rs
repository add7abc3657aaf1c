//! A hostile version of a call's last step: it confines itself as every call does, and then tries everything that it
//! must not be able to do. Each attempt is also made unconfined, to show that it does not fail for another reason.
//!
//! Without the usual harness, which has threads: for each attempt a process of its own is confined.
#![allow(unsafe_code)] // ptrace, fork and executable memory have no safe equivalent.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use engine::call;
use engine::confine::Confinement;
use engine::localfd::{Direction, LocalFd};
use engine::process::{Child, fork_pump};
use engine::pump::Call;
use ring::{Channel, Kind, Sizes, Transport};
use rustix::io::ReadWriteFlags;
use rustix::pipe::{SpliceFlags, splice};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use wire::stream::Role;
use wire::version::Version;

/// The kernel's answer to system calls that only an attacker makes.
const KILLED: i32 = 128 + libc::SIGSYS;
/// The exit code of an attempt that succeeded; all others are error numbers.
const DONE: i32 = 0;
const NOT_HERE: i32 = 200;

/// What was opened before the process was confined.
struct Before {
    folder: tempfile::TempDir,
    _listener: UnixListener,
    unconnected: OwnedFd,
    datagrams: UnixDatagram,
    file: File,
    pipe: (OwnedFd, OwnedFd),
    child: std::process::Child,
}

/// The folder of all files of this test, so that a process that may still do so can remove them.
static ROOT: OnceLock<PathBuf> = OnceLock::new();

type Attempt = fn(&mut Before) -> io::Result<()>;

/// Each attempt with its possible results.
const ATTEMPTS: &[(&str, Attempt, &[i32])] = &[
    ("reads a file by an absolute path", |_| File::open("/etc/passwd").map(drop), &[libc::EPERM]),
    ("reads a file of its own", |_| File::open("/proc/self/environ").map(drop), &[libc::EPERM]),
    ("makes a file", |it| File::create(it.folder.path().join("new")).map(drop), &[libc::EPERM]),
    ("lists a folder", |_| std::fs::read_dir("/").map(drop), &[libc::EPERM]),
    ("removes a file", |it| std::fs::remove_file(it.folder.path().join("socket")), &[libc::EPERM]),
    ("makes a socket", |_| UnixDatagram::unbound().map(drop), &[KILLED]),
    ("connects to a socket", connects, &[KILLED]),
    (
        "sends to another name",
        |it| it.datagrams.send_to(b"x", it.folder.path().join("post")).map(drop),
        &[libc::EPERM],
    ),
    ("becomes a program", |_| Err(Command::new("/bin/true").exec()), &[KILLED]),
    ("starts a program", |_| Command::new("/bin/true").status().map(drop), &[KILLED, libc::EPERM]),
    ("forks", forks, &[KILLED]),
    ("starts a thread", starts_a_thread, &[libc::EPERM]),
    ("traces its child", traces, &[KILLED]),
    ("kills a process", |it| it.child.kill(), &[KILLED]),
    ("makes an io_uring instance", |_| io_uring::IoUring::new(4).map(drop), &[KILLED]),
    ("makes memory for a program", makes_executable_memory, &[libc::EPERM]),
    (
        "makes a file without a name",
        |_| Ok(rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).map(drop)?),
        &[libc::EPERM],
    ),
    ("writes over what a file had", writes_elsewhere, &[libc::EPERM]),
    ("moves bytes to another place in a file", splices_elsewhere, &[libc::EPERM]),
];

/// A confined process may append to an open file, and write nowhere else in it.
fn writes_elsewhere(before: &mut Before) -> io::Result<()> {
    let bytes = [io::IoSlice::new(b"x")];
    rustix::io::pwritev2(&before.file, &bytes, 0, ReadWriteFlags::NOWAIT)
        .or_else(|_| rustix::io::pwritev2(&before.file, &bytes, 0, ReadWriteFlags::empty()))?;
    Ok(())
}

fn splices_elsewhere(before: &mut Before) -> io::Result<()> {
    rustix::io::write(&before.pipe.1, b"x")?;
    splice(&before.pipe.0, None, &before.file, Some(&mut 0), 1, SpliceFlags::empty())?;
    Ok(())
}

fn connects(before: &mut Before) -> io::Result<()> {
    let address = rustix::net::SocketAddrUnix::new(before.folder.path().join("socket"))?;
    Ok(rustix::net::connect(&before.unconnected, &address)?)
}

fn forks(_: &mut Before) -> io::Result<()> {
    // SAFETY: this process has one thread, and the child ends at once.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: takes a number and ends the process.
        0 => unsafe { libc::_exit(0) },
        _ => Ok(()),
    }
}

fn starts_a_thread(_: &mut Before) -> io::Result<()> {
    std::thread::Builder::new().spawn(|| ()).map(|thread| drop(thread.join()))
}

fn traces(before: &mut Before) -> io::Result<()> {
    let null = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: this request takes no pointer.
    match unsafe { libc::ptrace(libc::PTRACE_SEIZE, before.child.id() as i32, null, null) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn makes_executable_memory(_: &mut Before) -> io::Result<()> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new range wherever there is room.
    let made = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
    if made == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn main() {
    let root = tempfile::tempdir().expect("a folder");
    ROOT.get_or_init(|| root.path().to_owned());
    what_is_forbidden_fails();
    the_second_door_holds_where_the_first_is_open();
    a_service_that_was_started_before_is_free();
    a_pipe_that_others_share_is_written_behind_the_door();
}

fn what_is_forbidden_fails() {
    for (name, attempt, expected) in ATTEMPTS {
        let free = status(Confinement::Off, false, *attempt);
        if free == NOT_HERE || free != DONE && *name == "makes an io_uring instance" {
            println!("skipped: {name}: not possible here anyway ({free})");
        } else {
            assert_eq!(free, DONE, "{name}, unconfined");
        }
        let confined = status(Confinement::On, false, *attempt);
        assert!(expected.contains(&confined), "{name}: {confined}, expected one of {expected:?}");
        println!("{name}: {confined} ... ok");
    }
}

/// A process that lends pages to a pipe must be able to open it: Landlock forbids everything but that pipe.
fn the_second_door_holds_where_the_first_is_open() {
    let reads: Attempt = |_| File::open("/etc/passwd").map(drop);
    let status = status(Confinement::On, true, reads);
    assert!([libc::EACCES, libc::EPERM].contains(&status), "{status}");
    println!("reads a file where pages are lent: {status} ... ok");
}

/// A service reads a file and starts a program after its parent was confined.
fn a_service_that_was_started_before_is_free() {
    let mut child = fork_pump(|| {
        let mut service = before().child;
        let stdin = service.stdin.take();
        let mut service = Child::try_from(service).expect("a child");
        close(Confinement::On, false);
        drop(stdin);
        service.wait().unwrap_or(99)
    })
    .expect("fork");
    assert_eq!(child.wait().expect("wait"), 7);
    println!("what was started before is free ... ok");
}

/// In both ways: by asking not to wait, and through a pipe of this process's own after somebody has spliced into the
/// shared one.
fn a_pipe_that_others_share_is_written_behind_the_door() {
    let mut child = fork_pump(|| {
        let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
        rustix::fs::fchmod(&writer, rustix::fs::Mode::empty()).expect("it is ours");
        without_overriding();
        let copy = writer.try_clone().expect("a copy");
        let shared = LocalFd::adopt(copy, Direction::Out).expect("adopted");
        let (from, to) = rustix::pipe::pipe().expect("a pipe");
        close(Confinement::On, false);
        let bytes = [7; 20_000];
        assert_eq!(shared.write(&bytes).ok(), Some(bytes.len()), "asked");
        rustix::io::write(&to, b"x").expect("written");
        splice(&from, None, &writer, None, 1, SpliceFlags::empty()).expect("spliced");
        assert_eq!(shared.write(&bytes).ok(), Some(bytes.len()), "spliced");
        assert_eq!(rustix::io::read(&reader, &mut [0; 50_000]).ok(), Some(40_001));
        0
    })
    .expect("fork");
    assert_eq!(child.wait().expect("wait"), 0);
    println!("a pipe that others share is written ... ok");
}

/// Gives up the right to open files whose mode forbids it.
fn without_overriding() {
    let mut sets = capabilities(None).expect("capabilities");
    sets.effective -= CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
    set_capabilities(None, sets).expect("fewer");
}

/// The exit status of a process that makes this attempt.
fn status(confinement: Confinement, lends: bool, attempt: Attempt) -> i32 {
    let mut child = fork_pump(|| {
        let mut before = before();
        close(confinement, lends);
        match attempt(&mut before) {
            Ok(()) => DONE,
            Err(error) => error.raw_os_error().unwrap_or(NOT_HERE),
        }
    })
    .expect("fork");
    child.wait().expect("wait")
}

fn before() -> Before {
    let folder = tempfile::tempdir_in(ROOT.get().expect("made")).expect("a folder");
    let _listener = UnixListener::bind(folder.path().join("socket")).expect("a listener");
    let post = UnixDatagram::bind(folder.path().join("post")).expect("a post");
    std::mem::forget(post);
    let datagrams = UnixDatagram::unbound().expect("a socket");
    datagrams.connect(folder.path().join("post")).expect("connected");
    let (family, kind) = (rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM);
    let unconnected = rustix::net::socket(family, kind, None).expect("a socket");
    let mut child = Command::new("sh");
    child.args(["-c", "read line; cat /etc/passwd >/dev/null && env true && exit 7"]);
    let child = child.stdin(std::process::Stdio::piped()).spawn().expect("a child");
    let file = tempfile::tempfile_in(folder.path()).expect("a file");
    let pipe = rustix::pipe::pipe().expect("a pipe");
    Before { folder, _listener, unconnected, datagrams, file, pipe, child }
}

/// Prepares a call and confines this process, as every call does.
fn close(confinement: Confinement, lends: bool) {
    let folder = tempfile::tempdir_in(ROOT.get().expect("made")).expect("a folder");
    let (ours, theirs) = channels(folder.path());
    let (service, sink) = io::pipe().expect("a pipe");
    let source = UnixStream::pair().expect("a socket").0;
    let mut call = Call::new(Role::Service, Version::OURS);
    (call.sink, call.source) = (Some(sink.into()), Some(source.into()));
    call.splice = lends;
    let prepared = call::prepare(ours, call).expect("prepared");
    let confined = prepared.confine(confinement).expect("confined");
    // Dropping these would close or remove what the attempts use.
    std::mem::forget((confined, theirs, service, folder));
}

fn channels(folder: &Path) -> (Channel, Channel) {
    let transport = |own| Transport::new(Kind::Shm, own, folder);
    let mut listener = transport(1).listen(0, 512, Sizes::both(1 << 20)).expect("listens");
    let mut connector = transport(0).connect(1, 512).expect("looks");
    let mut server = None;
    loop {
        server = server.or_else(|| listener.accept().expect("accepts"));
        if let Some(client) = connector.poll().expect("connects") {
            return (server.expect("was there first"), client);
        }
    }
}
