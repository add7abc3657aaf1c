//! The relay of a lab's Windows VM: it starts the agent, and speaks the socket transport for the VM's stand-in of
//! `libvchan.dll`, which reaches it by a stream on the loopback.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::keeper::read_plan;
use super::plan::{Layout, Plan, apply};
use super::windows::WindowsRooms;
use super::{Error, role};

/// `service` in this variable of a lab: the service manager of the VM starts the agent.
const STARTED_AS: &str = "QREXEC_LAB_WINDOWS_AGENT";

/// How often wine is started until it starts.
const STARTS: usize = 5;
/// Longest request to the relay, in bytes.
const MAX_REQUEST: u64 = 200;
/// How long a request may take.
const REQUEST: Duration = Duration::from_secs(10);
/// Pause before a server that is not there is looked for again.
const AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// How the agent of a Windows VM is started: by its relay.
pub(super) fn agent(plan: &Plan, vm: &str) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(&plan.exe);
    command.arg0(role::PROGRAM).arg(role::WINDOWS).arg(&plan.root).arg(vm);
    command
}

/// The relay's main function: starts the agent, carries its channels, and ends with it.
pub(super) fn main(root: &Path, vm: &str) -> i32 {
    match run(&Layout::new(root), vm) {
        Ok(code) => code,
        Err(error) => {
            engine::say::error(format_args!("{error}"));
            1
        }
    }
}

fn run(layout: &Layout, vm: &str) -> Result<i32, Error> {
    let plan = read_plan(layout)?;
    let windows = plan.windows.as_ref().ok_or_else(|| Error::unknown_vm(vm))?;
    let own = plan.id(vm).ok_or_else(|| Error::unknown_vm(vm))?;
    let rooms = WindowsRooms::new(layout.machine(vm));
    let failed = |error| Error::io("cannot relay for a Windows VM", error);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    let word = random_word().map_err(failed)?;
    let text = format!("{} {word}\n", listener.local_addr().map_err(failed)?);
    write_whole(&rooms.relay(), &text).map_err(failed)?;
    let relay = Arc::new(Relay { folder: layout.vchan(), own, word });
    std::thread::spawn(move || relay.listen(&listener));
    let environment = plan.environment(vm)?;
    let agent = rooms.tools().join("bin/qrexec-agent.exe");
    warm_up(&windows.wine, &environment)?;
    hold(&windows.wine, &environment)?;
    let wine = |words: &[&OsStr], stdin| {
        // Whoever ends the relay ends what it has started.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(&windows.wine).args(words).stdin(stdin);
        apply(&mut command, &environment);
        let started = command.spawn().map_err(|error| Error::io("cannot start setpriv", error));
        let ended = started.and_then(|mut child| {
            // Held open, for a program that is to wait.
            let stdin = child.stdin.take();
            let status = child.wait().map_err(|error| Error::io("cannot wait for wine", error));
            drop(stdin);
            status
        });
        ended.map(|status| status.code().unwrap_or(255))
    };
    if plan.env.iter().any(|(name, value)| name == STARTED_AS && value == "service") {
        wine(&[agent.as_os_str(), OsStr::new("-i")], Stdio::null())?;
        wine(&["net", "start", "QrexecAgent"].map(OsStr::new), Stdio::null())?;
        // Without an ordinary program wine ends, services and all.
        return wine(&[OsStr::new("cmd.exe")], Stdio::piped());
    }
    wine(&[agent.as_os_str(), OsStr::new("--run")], Stdio::null())
}

/// Starts wine's server. Servers of one user share a folder below /tmp, made by the first and removed by the last one, and
/// a program that starts while another lab's server makes or removes it fails: so this is tried again.
fn warm_up(wine: &Path, environment: &[(OsString, Option<OsString>)]) -> Result<(), Error> {
    for _ in 0..STARTS {
        let mut command = Command::new(wine);
        command.args(["cmd.exe", "/c", "exit 0"]).stdin(Stdio::null()).stdout(Stdio::null());
        apply(&mut command, environment);
        let status = command.status().map_err(|error| Error::io("cannot start wine", error))?;
        if status.success() {
            return Ok(());
        }
    }
    Err(Error::new("wine does not start"))
}

/// Keeps wine up until the lab ends. About a second after its last program wine ends its own services, and a program that
/// starts just then may never begin: so an agent that is restarted finds this one there.
fn hold(wine: &Path, environment: &[(OsString, Option<OsString>)]) -> Result<(), Error> {
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 2147483647 | exec \"$0\" cmd.exe"]).arg(wine);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    apply(&mut command, environment);
    // The lab ends it, like everything that carries the lab's mark.
    command.spawn().map(drop).map_err(|error| Error::io("cannot start sh", error))
}

fn random_word() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Readers see the old file or the new one.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension("new");
    let _ = fs::remove_file(&draft);
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&draft, path)
}

/// What all connections share.
struct Relay {
    folder: PathBuf,
    own: u32,
    word: String,
}

impl Relay {
    fn listen(self: Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming().filter_map(Result::ok) {
            let relay = self.clone();
            std::thread::spawn(move || {
                // The VM sees its channel end.
                let _ = relay.carry(stream);
            });
        }
    }

    fn carry(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REQUEST))?;
        let request = Request::read(&mut stream, &self.word)?;
        stream.set_read_timeout(None)?;
        let Some(socket) = self.meet(&request, &mut stream)? else { return Ok(()) };
        stream.write_all(b"+")?;
        splice(stream, socket)
    }

    /// The other machine's end; `None` if the VM gives up before.
    fn meet(&self, request: &Request, stream: &mut TcpStream) -> io::Result<Option<UnixStream>> {
        let (peer, port) = (request.peer, request.port);
        if request.offers {
            let path = self.folder.join(format!("vchan.{}.{peer}.{port}.sock", self.own));
            let bound = engine::unix::Bound::new(&path, 0o600)?;
            stream.write_all(b"!")?;
            loop {
                if let Some(fd) = bound.accept()? {
                    let socket = UnixStream::from(fd);
                    socket.set_nonblocking(false)?;
                    return Ok(Some(socket));
                }
                let ready = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
                let mut both = [ready(bound.as_fd()), ready(stream.as_fd())];
                poll(&mut both, None)?;
                // Before the other machine is there, the VM has nothing to say but its end.
                if both.get(1).is_some_and(|of_vm| !of_vm.revents().is_empty()) {
                    return Ok(None);
                }
            }
        }
        stream.write_all(b"!")?;
        let path = self.folder.join(format!("vchan.{peer}.{}.{port}.sock", self.own));
        loop {
            if let Ok(socket) = UnixStream::connect(&path) {
                return Ok(Some(socket));
            }
            let mut of_vm = [PollFd::new(stream, PollFlags::IN)];
            if poll(&mut of_vm, Some(&AGAIN))? > 0 {
                return Ok(None);
            }
        }
    }
}

/// What the stand-in asks for: `WORD offer|connect DOMAIN PORT` and a line feed.
struct Request {
    offers: bool,
    peer: u32,
    port: u32,
}

impl Request {
    fn read(stream: &mut impl Read, word: &str) -> io::Result<Self> {
        let mut line = Vec::new();
        let mut byte = [0];
        // One by one: what is behind the line belongs to the call.
        while (line.len() as u64) < MAX_REQUEST && stream.read(&mut byte)? == 1 && byte != *b"\n" {
            line.extend_from_slice(&byte);
        }
        let text = String::from_utf8(line).map_err(io::Error::other)?;
        let parts: Vec<&str> = text.split(' ').collect();
        let bad = || io::Error::from(io::ErrorKind::InvalidData);
        match parts.as_slice() {
            [said, role @ ("offer" | "connect"), peer, port] if *said == word => Ok(Self {
                offers: *role == "offer",
                peer: peer.parse().map_err(|_| bad())?,
                port: port.parse().map_err(|_| bad())?,
            }),
            _ => Err(bad()),
        }
    }
}

/// Carries bytes both ways until both have ended.
fn splice(stream: TcpStream, socket: UnixStream) -> io::Result<()> {
    let (mut from_vm, mut to_other) = (stream.try_clone()?, socket.try_clone()?);
    let there = std::thread::spawn(move || {
        let _ = io::copy(&mut from_vm, &mut to_other);
        let _ = to_other.shutdown(Shutdown::Write);
    });
    let (mut from_other, mut to_vm) = (socket, stream);
    let copied = io::copy(&mut from_other, &mut to_vm);
    let _ = to_vm.shutdown(Shutdown::Write);
    let _ = there.join();
    copied.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_prove_that_they_are_of_the_lab() {
        let read = |text: &str| Request::read(&mut text.as_bytes(), "w0rd");
        let request = read("w0rd offer 0 512\nrest").unwrap();
        assert!(request.offers && request.peer == 0 && request.port == 512);
        assert!(!read("w0rd connect 3 514\n").unwrap().offers);
        for bad in
            ["", "\n", "word offer 0 512\n", "w0rd give 0 512\n", "w0rd offer 0\n", "w0rd offer -1 512\n"]
        {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        assert!(read(&"w".repeat(1000)).is_err());
    }
}
