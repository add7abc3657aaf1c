//! Programs as processes, streams by hand, and trees to compare.

// Every test file is a program of its own and uses its own part of this.
#![allow(dead_code, unreachable_pub)]

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use wire::filecopy::{Answer, AnswerReader, Answered, Checksum, Code, Crc32, ENTRY_LEN, EntryHeader, Time};

pub const TIMES: [Time; 2] = [
    Time { seconds: 1_000_000_000, nanoseconds: 5 },
    Time { seconds: 1_234_567_890, nanoseconds: 123_456_789 },
];

/// Far more than any step needs: turns a hang into a failure.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A program of ours.
pub fn ours(name: &str) -> PathBuf {
    let built = match name {
        "qfile-agent" => env!("CARGO_BIN_EXE_qfile-agent"),
        "qfile-dom0-agent" => env!("CARGO_BIN_EXE_qfile-dom0-agent"),
        "qfile-unpacker" => env!("CARGO_BIN_EXE_qfile-unpacker"),
        "qfile-dom0-unpacker" => env!("CARGO_BIN_EXE_qfile-dom0-unpacker"),
        "qubes-fs-tree-check" => env!("CARGO_BIN_EXE_qubes-fs-tree-check"),
        "tar2qfile" => env!("CARGO_BIN_EXE_tar2qfile"),
        "qvm-copy" => env!("CARGO_BIN_EXE_qvm-copy"),
        "qvm-move" => env!("CARGO_BIN_EXE_qvm-move"),
        other => panic!("no program {other}"),
    };
    built.into()
}

/// Upstream's program, where `QREXEC_COPY_PEER_DIR` names a folder that has it.
pub fn upstreams(name: &str) -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("QREXEC_COPY_PEER_DIR")?);
    Some(folder.join(name)).filter(|path| path.exists())
}

/// Says that something was not tried, and lets `.ci/run` say so again at its end.
pub fn skipped(why: &str) {
    println!("skipped: {why}");
    if let Some(list) = std::env::var_os("CI_SKIPPED") {
        let mut list = fs::File::options().append(true).open(list).unwrap();
        writeln!(list, "SKIPPED: {why}").unwrap();
    }
}

/// A stream by hand.
#[derive(Clone, Default)]
pub struct Stream(pub Vec<u8>);

impl Stream {
    /// An entry whose name is written as it is, without a NUL.
    pub fn raw(mut self, name: &[u8], mode: u32, len: u64, body: &[u8]) -> Self {
        let [accessed, modified] = TIMES;
        let name_len = u32::try_from(name.len()).unwrap();
        let header = EntryHeader { name_len, mode, body_len: len, accessed, modified };
        self.0.extend(header.to_bytes());
        self.0.extend(name);
        self.0.extend(body);
        self
    }

    pub fn entry(self, name: &[u8], mode: u32, body: &[u8]) -> Self {
        self.raw(&[name, b"\0"].concat(), mode, body.len() as u64, body)
    }

    pub fn file(self, name: &str, body: &[u8]) -> Self {
        self.entry(name.as_bytes(), 0o100_644, body)
    }

    pub fn folder(self, name: &str, mode: u32) -> Self {
        self.entry(name.as_bytes(), 0o40_000 | mode, b"")
    }

    pub fn link(self, name: &str, target: &[u8]) -> Self {
        self.entry(name.as_bytes(), 0o120_777, target)
    }

    pub fn end(mut self) -> Self {
        self.0.extend([0; ENTRY_LEN]);
        self
    }
}

/// What a receiver made of a stream.
pub struct Received {
    pub answer: Option<Answer>,
    pub status: i32,
    pub stderr: String,
}

impl Received {
    /// The code, the name and the exit status.
    pub fn told(&self) -> (u32, String, i32) {
        let answer = self.answer.as_ref().unwrap_or_else(|| panic!("no answer: {}", self.stderr));
        let name = answer.last_name.clone().unwrap_or_default();
        (answer.code.0, String::from_utf8_lossy(&name).into_owned(), self.status)
    }
}

/// Gives `stream` to a receiver that works in `folder`.
pub fn receive(folder: &Path, options: &[&str], stream: &Stream) -> Received {
    let mut command = Command::new(ours("qfile-unpacker"));
    command.args(options).arg("").arg(folder);
    receive_by(command, stream)
}

pub fn receive_by(mut command: Command, stream: &Stream) -> Received {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let bytes = stream.0.clone();
    // A receiver that refuses does not read on.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&bytes)));
    let (status, stdout, stderr) = outcome(child);
    writer.join().unwrap();
    let answer = match read_answer(&stdout) {
        Some(Answered::Whole(answer)) => Some(answer),
        _ => None,
    };
    if let Some(answer) = answer.as_ref().filter(|answer| answer.code == Code::GOOD) {
        assert_eq!(answer.checksum, sum(&stream.0));
    }
    Received { answer, status, stderr }
}

pub fn read_answer(bytes: &[u8]) -> Option<Answered> {
    let mut reader = AnswerReader::default();
    reader.handle_input(bytes);
    reader.handle_end();
    reader.poll_answer()
}

pub fn sum(bytes: &[u8]) -> u32 {
    let mut sum = Crc32::default();
    sum.update(bytes);
    sum.value()
}

/// Waits for a child's end and gives what it said.
pub fn outcome(mut child: Child) -> (i32, Vec<u8>, String) {
    let mut stderr = child.stderr.take().unwrap();
    let errors = std::thread::spawn(move || {
        let mut text = Vec::new();
        stderr.read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    });
    let mut stdout = Vec::new();
    if let Some(mut out) = child.stdout.take() {
        out.read_to_end(&mut stdout).unwrap();
    }
    let status = wait(&mut child);
    (status, stdout, errors.join().unwrap())
}

/// A shell's view of how a child ended; fails if it does not.
pub fn wait(child: &mut Child) -> i32 {
    wait_within(child, LIMIT).expect("the program hangs")
}

/// The same, at most so long.
pub fn wait_within(child: &mut Child, limit: Duration) -> Option<i32> {
    if let Ok(handle) = pidfd_open(Pid::from_raw(child.id() as i32).unwrap(), PidfdFlags::empty()) {
        let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
        if poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&limit)).unwrap() == 0 {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
    }
    Some(code(child.wait().unwrap()))
}

pub fn code(status: ExitStatus) -> i32 {
    status.code().or(status.signal().map(|signal| 128 + signal)).unwrap()
}

/// How two programs are joined.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Joint {
    Pipes,
    Sockets,
    /// One socket for both directions.
    Socket,
}

/// A sender and a receiver, joined.
pub struct Pair {
    pub sender: Child,
    pub receiver: Child,
}

pub fn join(mut sender: Command, mut receiver: Command, joint: Joint) -> Pair {
    let socket = || {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap()
    };
    let pipe = || {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        (write, read)
    };
    // Each: the writer's end, the reader's end.
    let ((data_out, data_in), (answer_out, answer_in)): ((OwnedFd, OwnedFd), (OwnedFd, OwnedFd)) = match joint
    {
        Joint::Pipes => (pipe(), pipe()),
        Joint::Sockets => (socket(), socket()),
        Joint::Socket => {
            let (a, b) = socket();
            let again = (b.try_clone().unwrap(), a.try_clone().unwrap());
            ((a, b), again)
        }
    };
    receiver.stdin(data_in).stdout(answer_out).stderr(Stdio::piped());
    sender.stdin(answer_in).stdout(data_out).stderr(Stdio::piped());
    Pair { receiver: receiver.spawn().unwrap(), sender: sender.spawn().unwrap() }
}

impl Pair {
    /// Both statuses, and both texts.
    pub fn outcome(self) -> ((i32, String), (i32, String)) {
        let receiver = std::thread::spawn(move || outcome(self.receiver));
        let (sent, _, said) = outcome(self.sender);
        let (received, _, told) = receiver.join().unwrap();
        ((sent, said), (received, told))
    }
}

pub fn sender(program: &Path, args: &[&str], cwd: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(cwd);
    for name in ["PROGRESS_TYPE", "FILECOPY_TOTAL_BYTES"] {
        command.env_remove(name);
    }
    command
}

pub fn receiver(program: &Path, options: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(options).arg(rustix::process::getuid().as_raw().to_string()).arg(folder);
    command
}

/// Everything below a folder: path, mode, times of files and folders, content or target.
pub fn listing(folder: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder_now) = open.pop() {
        for entry in fs::read_dir(&folder_now).unwrap() {
            let path = entry.unwrap().path();
            let stat = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(folder).unwrap().as_os_str().as_bytes().escape_ascii().to_string();
            let mode = stat.mode();
            if stat.is_symlink() {
                lines.push(format!("{name} -> {}", fs::read_link(&path).unwrap().display()));
            } else if stat.is_dir() {
                lines.push(format!("{name} {mode:o} {}.{}", stat.mtime(), stat.mtime_nsec()));
                open.push(path);
            } else if stat.is_file() {
                let body = sum(&fs::read(&path).unwrap());
                lines.push(format!(
                    "{name} {mode:o} {}.{} {} {body:x}",
                    stat.mtime(),
                    stat.mtime_nsec(),
                    stat.len()
                ));
            } else {
                lines.push(format!("{name} special {}", stat.file_type().is_fifo()));
            }
        }
    }
    lines.sort();
    lines
}

/// Bytes that do not repeat soon.
pub fn bytes(len: usize) -> Vec<u8> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(len)
    .collect()
}

/// A tree with all that can be copied.
pub fn tree(at: &Path) {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    fs::create_dir_all(at.join("t/b/c")).unwrap();
    fs::create_dir(at.join("t/read-only")).unwrap();
    fs::write(at.join("t/empty"), "").unwrap();
    fs::write(at.join("t/b/hundred thousand"), bytes(100_000)).unwrap();
    fs::write(at.join("t/read-only/f"), "x").unwrap();
    symlink("b/c", at.join("t/l")).unwrap();
    symlink("../l", at.join("t/b/up")).unwrap();
    mode(&at.join("t/empty"), 0o640);
    mode(&at.join("t/b/c"), 0o750);
    let second = std::time::UNIX_EPOCH + Duration::new(1_234_567_890, 987_654_321);
    for name in ["t/empty", "t/b/hundred thousand", "t/b/c", "t/b", "t/read-only"] {
        let file = fs::File::open(at.join(name)).unwrap();
        file.set_times(fs::FileTimes::new().set_modified(second)).unwrap();
    }
    mode(&at.join("t/read-only"), 0o555);
}
