//! An agent in a process of its own, and a daemon that the test plays.

use std::ffi::OsString;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use engine::datalink;
use engine::link::Framed;
use engine::pump::{self, Call, Outcome};
use ring::{Channel, Kind, Listener, Sizes, Transport};
use rustix::event::{PollFd, PollFlags, poll};
use wire::control::{Endpoint, ExecParams, MAX_LOCAL_BODY, Message};
use wire::frame::Frame;
use wire::handshake::hello;
use wire::names::{DomainId, Port};
use wire::stream::Role;
use wire::version::Version;

/// The domain id of the VM.
const VM: u32 = 7;
/// Longest time for any event that must come.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
const RINGS: Sizes = Sizes { left: 4096, right: 4096 };

/// One VM with its agent.
pub(crate) struct Lab {
    dir: tempfile::TempDir,
    agent: Child,
    dom0: Transport,
    /// The user of the test.
    pub(crate) user: String,
}

impl Lab {
    /// A VM without services; the agent waits for its daemon.
    pub(crate) fn start() -> Self {
        Self::start_with(|_| Vec::new())
    }

    /// The same, with more arguments for the agent; they may depend on the lab's folder.
    pub(crate) fn start_with(args: impl FnOnce(&Path) -> Vec<OsString>) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        for name in ["shm", "services", "config"] {
            std::fs::create_dir(dir.path().join(name)).expect("mkdir");
        }
        std::fs::set_permissions(dir.path().join("shm"), PermissionsExt::from_mode(0o700)).expect("chmod");
        let uid = rustix::process::geteuid();
        let user = engine::exec::Account::by_uid(uid).map_or(uid.as_raw().to_string(), |a| a.name);
        let agent = program(dir.path(), super::AS_AGENT)
            .arg(format!("--agent-socket={}", dir.path().join("agent").display()))
            .args(args(dir.path()))
            .spawn()
            .expect("agent");
        let dom0 = Transport::new(Kind::Shm, 0, &dir.path().join("shm"));
        Self { dir, agent, dom0, user }
    }

    /// A fork server of this VM, not started yet.
    pub(crate) fn fork_server(&self) -> Command {
        program(self.dir.path(), super::AS_FORK_SERVER)
    }

    /// The multiplexer of this VM, without arguments yet.
    pub(crate) fn multiplexer(&self) -> Command {
        program(self.dir.path(), super::AS_MULTIPLEXER)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn service(&self, name: &str, script: &str) {
        let path = self.path("services").join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("write");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("chmod");
    }

    /// Connects as the daemon, up to the end of the handshake.
    pub(crate) fn daemon(&self) -> Daemon {
        self.daemon_of(Version::OURS)
    }

    /// The same, as a daemon of this version.
    pub(crate) fn daemon_of(&self, version: Version) -> Daemon {
        let mut daemon = self.met();
        daemon.send_raw(hello(version).to_vec());
        daemon
    }

    /// The same, before it has sent anything.
    pub(crate) fn met(&self) -> Daemon {
        let channel = self.dom0.connect(VM, Port::CONTROL.0).expect("connector");
        let channel = channel.connect_within(LIMIT).expect("the agent is there");
        let mut daemon = Daemon { link: Framed::new(channel, MAX_LOCAL_BODY) };
        // The server of the link sends first.
        assert_eq!(daemon.hear(), Some(Message::Hello(4)));
        daemon
    }

    /// Connects as a program of the VM.
    pub(crate) fn program(&self) -> UnixStream {
        UnixStream::connect(self.path("agent")).expect("the agent's socket")
    }

    /// Waits until the agent has its socket, which it makes after the handshake.
    pub(crate) fn wait_for_socket(&self) {
        self.wait_for("agent", true);
    }

    /// Waits until a file of the lab exists, or does not exist any more.
    pub(crate) fn wait_for(&self, name: &str, there: bool) {
        let start = std::time::Instant::now();
        while self.path(name).exists() != there {
            assert!(start.elapsed() < LIMIT, "{name}: not in time");
            std::thread::yield_now();
        }
    }

    /// Asks for a command or service and plays its caller, which sends `input`.
    pub(crate) fn call(&self, daemon: &mut Daemon, port: u32, command: &str, input: &str) -> Answer {
        let mut caller = self.begin(daemon, port, command);
        caller.say(input);
        caller.finish()
    }

    /// Asks for a command or service; its caller's stdin stays open.
    pub(crate) fn begin(&self, daemon: &mut Daemon, port: u32, command: &str) -> Caller {
        self.ask(daemon, port, command).accept()
    }

    /// Asks for a command or service, without waiting for it.
    pub(crate) fn ask(&self, daemon: &mut Daemon, port: u32, command: &str) -> Asked {
        let listener = self.dom0.listen(VM, port, RINGS).expect("listener");
        daemon.exec(false, port, &format!("{}:{command}", self.user));
        Asked(listener)
    }

    /// Asks for something to be started without streams. Returns the code.
    pub(crate) fn just(&self, daemon: &mut Daemon, port: u32, command: &str) -> i32 {
        let listener = self.dom0.listen(VM, port, RINGS).expect("listener");
        daemon.exec(true, port, &format!("{}:{command}", self.user));
        let (mut channel, _) =
            datalink::greet(listener.accept_within(LIMIT).expect("the call's process")).expect("HELLO");
        let mut message = Vec::new();
        while message.len() < 12 {
            let mut bytes = [0; 32];
            let count = channel.read(&mut bytes).expect("read");
            message.extend_from_slice(&bytes[..count]);
            if count == 0 && !channel.arm(true, false).expect("arm") {
                readable(&channel);
                channel.on_ready().expect("ready");
            }
        }
        assert_eq!(message[..8], [0x93, 1, 0, 0, 4, 0, 0, 0]);
        i32::from_le_bytes(message[8..].try_into().expect("four bytes, no more"))
    }

    /// Tells the agent to end. Returns its exit status.
    pub(crate) fn end(&mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.agent);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("kill");
        self.agent.wait().expect("wait").code()
    }
}

/// This program in another role, as part of the VM whose files are below `dir`.
fn program(dir: &Path, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.arg(role).stdin(Stdio::null());
    command.env("QREXEC_INSTALLATION", "lab");
    command.env("QREXEC_TRANSPORT", "shm").env("QREXEC_SHM_DIR", dir.join("shm"));
    command.env("QREXEC_SERVICE_PATH", dir.join("services"));
    command.env("QUBES_RPC_CONFIG_PATH", dir.join("config"));
    command.env("VCHAN_DOMAIN", VM.to_string()).env("QREXEC_MEMINFO_PID", dir.join("meminfo.pid"));
    command
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

/// The daemon's end of the control link.
pub(crate) struct Daemon {
    link: Framed<Channel>,
}

impl Daemon {
    /// The next message; `None`: the agent closed the link.
    pub(crate) fn hear(&mut self) -> Option<Message> {
        let frame = self.hear_frame()?;
        Some(Message::decode(frame.ty, &frame.body).expect("well formed"))
    }

    /// The same, in the form in which it was sent.
    pub(crate) fn hear_frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.link.next().expect("well framed") {
                return Some(frame);
            }
            if !self.link.is_open() {
                return None;
            }
            if !self.link.arm().expect("arm") {
                readable(&self.link);
                self.link.on_ready().expect("ready");
            }
        }
    }

    pub(crate) fn send(&mut self, message: &Message) {
        self.send_raw(message.encode(Version::V4).expect("fits"));
    }

    pub(crate) fn send_raw(&mut self, bytes: Vec<u8>) {
        self.link.send(bytes).expect("room");
        self.link.flush().expect("sent");
    }

    fn exec(&mut self, just: bool, port: u32, cmdline: &str) {
        let params = ExecParams {
            connect_domain: DomainId::DOM0,
            connect_port: Port(port),
            cmdline: cmdline.as_bytes().to_vec(),
        };
        self.send(&Message::Exec { just, params });
    }

    /// The next message, which must say that the call on this port has ended.
    pub(crate) fn expect_end(&mut self, port: u32) {
        let endpoint = Endpoint { domain: DomainId::DOM0, port: Port(port) };
        assert_eq!(self.hear(), Some(Message::ConnectionTerminated(endpoint)));
    }
}

/// A call that was asked for.
pub(crate) struct Asked(Listener);

impl Asked {
    /// Waits for the call's process.
    pub(crate) fn accept(self) -> Caller {
        let channel = self.0.accept_within(LIMIT).expect("the call's process");
        let (channel, version) = datalink::greet(channel).expect("HELLO");
        Caller::new(channel, version)
    }
}

/// What a caller has received.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) code: Option<i32>,
}

/// The caller's side of a call: a pump in a thread, with pipes to the test.
pub(crate) struct Caller {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    pump: std::thread::JoinHandle<Outcome>,
}

impl Caller {
    fn new(channel: Channel, version: Version) -> Self {
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("pipe");
        let ((their_in, stdin), (stdout, their_out), (stderr, their_err)) = (pipe(), pipe(), pipe());
        let call = Call {
            sink: Some(their_out),
            source: Some(their_in),
            stderr: Some(their_err),
            ..Call::new(Role::Client, version)
        };
        let pump = std::thread::spawn(move || pump::run(channel, call));
        Self { stdin, stdout, stderr, pump }
    }

    pub(crate) fn say(&mut self, text: &str) {
        assert_eq!(rustix::io::write(&self.stdin, text.as_bytes()).expect("write"), text.len());
    }

    /// The next bytes of the service's output.
    pub(crate) fn hear(&mut self) -> String {
        let mut bytes = [0; 100];
        let count = rustix::io::read(&self.stdout, &mut bytes).expect("read");
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    /// Sends no more, and reads everything that comes.
    pub(crate) fn finish(self) -> Answer {
        drop(self.stdin);
        let text = |fd: OwnedFd| {
            let mut text = String::new();
            std::fs::File::from(fd).read_to_string(&mut text).expect("read");
            text
        };
        let (out, err) = (text(self.stdout), text(self.stderr));
        Answer { out, err, code: self.pump.join().expect("pump").remote }
    }
}

/// The next connection, whose peer soon sends something.
pub(crate) fn accept(listener: &UnixListener) -> UnixStream {
    readable(listener);
    let (stream, _) = listener.accept().expect("somebody");
    stream.set_read_timeout(Some(LIMIT)).expect("timeout");
    stream
}

fn readable(fd: &impl AsFd) {
    let limit = rustix::event::Timespec { tv_sec: LIMIT.as_secs() as i64, tv_nsec: 0 };
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    assert_eq!(poll(&mut fds, Some(&limit)), Ok(1), "nothing came");
}
