//! Hostile versions of the ends of a file copy, which use more files than other calls: a receiver, a sender, and a
//! sender that moves. Each confines itself as the real one does, and then tries what it must not be able to do, and
//! what it must. Each attempt is also made unconfined, to show that it does not fail for another reason.
//!
//! Without the usual harness, which has threads: for each attempt a process of its own is confined.
#![allow(unsafe_code)] // fork, ptrace and numbers of system calls have no safe equivalent.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use engine::confine::{Confinement, Files, May, Needs, Place};
use engine::process::fork_pump;
use rustix::fs::{AtFlags, Mode, OFlags, linkat, mkdirat, openat, symlinkat, unlinkat};

/// The kernel's answer to system calls that only an attacker makes.
const KILLED: i32 = 128 + libc::SIGSYS;
/// The exit code of an attempt that succeeded; all others are error numbers.
const DONE: i32 = 0;
const NOT_HERE: i32 = 200;
/// Landlock's answer, and below it that of the list of system calls.
const ELSEWHERE: &[i32] = &[libc::EACCES];
const NEVER: &[i32] = &[libc::EPERM];
const DEADLY: &[i32] = &[KILLED];
const FREE: &[i32] = &[DONE];

/// Where attempts are made: `inside` is the folder of the copy, which contains a file `old`; so does `outside`.
struct Ground {
    inside: File,
    outside: File,
    path: PathBuf,
}

type Attempt = fn(&Ground) -> io::Result<()>;

/// Each attempt with its possible results in a receiver, a sender, and a sender that moves.
const ATTEMPTS: &[(&str, Attempt, [&[i32]; 3])] = &[
    // What these processes have to do.
    ("makes a file without a name and gives it one", |it| made(&it.inside), [FREE, NEVER, NEVER]),
    ("makes a folder", |it| Ok(mkdirat(&it.inside, "d", Mode::RWXU)?), [FREE, NEVER, NEVER]),
    ("makes a link", |it| Ok(symlinkat("old", &it.inside, "l")?), [FREE, NEVER, NEVER]),
    ("starts a thread", |_| thread(), [FREE, NEVER, NEVER]),
    ("reads a file", |it| reads(&it.inside), [FREE, FREE, FREE]),
    ("lists a folder", |it| lists(&it.inside), [FREE, FREE, FREE]),
    ("removes a file", |it| Ok(unlinkat(&it.inside, "old", AtFlags::empty())?), [FREE, NEVER, FREE]),
    // The same in a folder that is not the copy's.
    ("makes a file elsewhere", |it| made(&it.outside), [ELSEWHERE, NEVER, NEVER]),
    ("makes a folder elsewhere", |it| Ok(mkdirat(&it.outside, "d", Mode::RWXU)?), [ELSEWHERE, NEVER, NEVER]),
    ("makes a link elsewhere", |it| Ok(symlinkat("old", &it.outside, "l")?), [ELSEWHERE, NEVER, NEVER]),
    ("reads a file elsewhere", |it| reads(&it.outside), [ELSEWHERE, ELSEWHERE, ELSEWHERE]),
    ("lists a folder elsewhere", |it| lists(&it.outside), [ELSEWHERE, ELSEWHERE, ELSEWHERE]),
    ("reads by an absolute path", |_| File::open("/etc/passwd").map(drop), [ELSEWHERE, ELSEWHERE, ELSEWHERE]),
    ("reads through a link", through_a_link, [ELSEWHERE, ELSEWHERE, ELSEWHERE]),
    (
        "removes elsewhere",
        |it| Ok(unlinkat(&it.outside, "old", AtFlags::empty())?),
        [ELSEWHERE, NEVER, ELSEWHERE],
    ),
    // What none of them may do anywhere.
    ("empties a file", |it| opens(it, OFlags::WRONLY | OFlags::TRUNC), [NEVER, NEVER, NEVER]),
    ("writes behind a file", |it| opens(it, OFlags::WRONLY | OFlags::APPEND), [NEVER, NEVER, NEVER]),
    ("reads and writes a file", |it| opens(it, OFlags::RDWR), [NEVER, NEVER, NEVER]),
    ("renames a file", |it| fs::rename(it.path.join("old"), it.path.join("new")), [NEVER, NEVER, NEVER]),
    ("changes a mode by name", changes_a_mode, [NEVER, NEVER, NEVER]),
    ("makes a FIFO", makes_a_fifo, [NEVER, NEVER, NEVER]),
    ("becomes a program", |_| Err(Command::new("/bin/true").exec()), [DEADLY, DEADLY, DEADLY]),
    ("forks", |_| forks(), [DEADLY, DEADLY, DEADLY]),
    ("makes a socket", |_| std::net::TcpListener::bind("127.0.0.1:0").map(drop), [DEADLY, DEADLY, DEADLY]),
    ("traces a process", |_| traces(), [DEADLY, DEADLY, DEADLY]),
];

fn made(folder: &File) -> io::Result<()> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(folder, ".", flags, Mode::RUSR)?;
    rustix::io::pwrite(&file, b"x", 0)?;
    Ok(linkat(&file, "", folder, "new", AtFlags::EMPTY_PATH)?)
}

fn thread() -> io::Result<()> {
    std::thread::Builder::new().spawn(|| ())?.join().map_err(|_| io::ErrorKind::Other.into())
}

fn reads(folder: &File) -> io::Result<()> {
    let file = openat(folder, "old", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::read(&file, &mut [0; 8][..])?;
    Ok(())
}

fn lists(folder: &File) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut folder = rustix::fs::Dir::new(openat(folder, ".", flags, Mode::empty())?)?;
    folder.read().transpose()?;
    Ok(())
}

fn through_a_link(it: &Ground) -> io::Result<()> {
    File::open(it.path.join("way out").join("old")).map(drop)
}

fn opens(it: &Ground, flags: OFlags) -> io::Result<()> {
    openat(&it.inside, "old", flags | OFlags::CLOEXEC, Mode::empty())?;
    Ok(())
}

fn changes_a_mode(it: &Ground) -> io::Result<()> {
    fs::set_permissions(it.path.join("old"), PermissionsExt::from_mode(0o4755))
}

fn makes_a_fifo(it: &Ground) -> io::Result<()> {
    Ok(rustix::fs::mknodat(&it.inside, "fifo", rustix::fs::FileType::Fifo, Mode::RUSR, 0)?)
}

fn forks() -> io::Result<()> {
    // SAFETY: this process has one thread, and the child ends at once.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: takes a number and ends the process.
        0 => unsafe { libc::_exit(0) },
        _ => Ok(()),
    }
}

fn traces() -> io::Result<()> {
    let null = std::ptr::null_mut::<libc::c_void>();
    // Unconfined, the error is that there is no such process.
    // SAFETY: this request takes no pointer.
    match unsafe { libc::ptrace(libc::PTRACE_SEIZE, 0, null, null) } {
        -1 if io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH) => Ok(()),
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Whether this kernel has Landlock, by the version of its rules.
fn has_landlock() -> bool {
    const VERSION: libc::c_long = 1;
    let (null, nothing): (libc::c_long, libc::c_long) = (0, 0);
    // SAFETY: with this flag, no structure and no length, the call gives a number and reads no memory.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, null, nothing, VERSION) >= 1 }
}

fn main() {
    let landlock = has_landlock();
    for (name, attempt, expected) in ATTEMPTS {
        let free = status(None, *attempt);
        if free == libc::ENOENT && name.ends_with("gives it one") {
            println!("skipped: {name}: a kernel before 6.10 does so by way of /proc only");
            continue;
        }
        assert_eq!(free, DONE, "{name}, unconfined");
        for (files, expected) in [Files::Make, Files::Read, Files::Move].into_iter().zip(expected) {
            if *expected == ELSEWHERE && !landlock {
                println!("skipped: {files:?}: {name}: this kernel has no Landlock");
                continue;
            }
            let confined = status(Some(files), *attempt);
            assert!(
                expected.contains(&confined),
                "{files:?}: {name}: {confined}, expected one of {expected:?}"
            );
            println!("{files:?}: {name}: {confined} ... ok");
        }
    }
}

/// The exit status of a process that makes this attempt.
fn status(files: Option<Files>, attempt: Attempt) -> i32 {
    let (inside, outside) = (folder(), folder());
    symlink(outside.path(), inside.path().join("way out")).expect("a link");
    let mut child = fork_pump(|| {
        let open = |folder: &tempfile::TempDir| File::open(folder.path()).expect("a folder");
        let ground =
            Ground { inside: open(&inside), outside: open(&outside), path: inside.path().to_owned() };
        if let Some(files) = files {
            let at = ground.inside.as_fd();
            let places = match files {
                Files::Make => vec![May::Make],
                Files::Move => vec![May::Read, May::Remove],
                _ => vec![May::Read],
            };
            let places: Vec<_> = places.into_iter().map(|may| Place { at, may }).collect();
            let needs = Needs { files, ..Needs::default() };
            Confinement::On.close_around(needs, &places).expect("confined");
        }
        match attempt(&ground) {
            Ok(()) => DONE,
            Err(error) => error.raw_os_error().unwrap_or(NOT_HERE),
        }
    })
    .expect("fork");
    child.wait().expect("wait")
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("old"), "old").expect("a file");
    folder
}
