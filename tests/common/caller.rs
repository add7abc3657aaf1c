//! `qrexec-client-vm` alone, for tests that play the agent and, behind the data link, the service.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use engine::datalink;
use ring::{Channel, Kind, Transport};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, WaitOptions};
use wire::control::Endpoint;
use wire::frame::{Decoder, Frame, LocalTriggerDecoder};
use wire::header::ty;
use wire::names::{DomainId, Port};
use wire::stream::{Kind as Stream, Outgoing, Role};
use wire::trigger::Trigger;
use wire::version::Version;

pub(crate) const CALLER: u32 = 3;
pub(crate) const TARGET: u32 = 5;
pub(crate) const PORT: u32 = 513;
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

fn private_folder() -> tempfile::TempDir {
    let private = std::fs::Permissions::from_mode(0o700);
    tempfile::Builder::new().permissions(private).tempdir().unwrap()
}

/// The program under test, by its name.
fn client(folder: &Path) -> PathBuf {
    let link = folder.join("qrexec-client-vm");
    std::os::unix::fs::symlink(super::EXE, &link).unwrap();
    link
}

/// One caller's machine: a folder with the agent's socket, and the program under test in it.
pub(crate) struct Caller {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) agent: UnixListener,
    pub(crate) child: Child,
}

impl Caller {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_with(args, |command| command)
    }

    pub(crate) fn start_with(args: &[&str], adjust: impl Fn(&mut Command) -> &mut Command) -> Self {
        let folder = private_folder();
        let mut command = Command::new(client(folder.path()));
        command.args(args);
        Self::launch(command, folder, adjust)
    }

    /// The client by way of a shell, which gives it its streams.
    pub(crate) fn start_by_shell(redirection: &str, args: &[&str]) -> Self {
        let folder = private_folder();
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", &format!("exec \"$0\" \"$@\" {redirection}")])
            .arg(client(folder.path()))
            .args(args);
        Self::launch(command, folder, |command| command)
    }

    fn launch(
        mut command: Command,
        folder: tempfile::TempDir,
        adjust: impl Fn(&mut Command) -> &mut Command,
    ) -> Self {
        let agent = UnixListener::bind(folder.path().join("agent")).unwrap();
        command
            .current_dir(folder.path())
            .env("QREXEC_AGENT_SOCKET", folder.path().join("agent"))
            .env("QREXEC_TRANSPORT", "shm")
            .env("QREXEC_SHM_DIR", folder.path())
            .env("VCHAN_DOMAIN", CALLER.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = adjust(&mut command).spawn().unwrap();
        Self { folder, agent, child }
    }

    /// Takes the request as the agent does.
    pub(crate) fn request(&self) -> (Trigger, UnixStream) {
        wait_for(&self.agent, "a request");
        let (mut client, _) = self.agent.accept().unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut decoder = LocalTriggerDecoder::new();
        loop {
            let mut bytes = [0; 256];
            let count = client.read(&mut bytes).unwrap();
            assert_ne!(count, 0, "the client hung up");
            if let Some(request) = decoder.feed(&bytes[..count]).unwrap() {
                return (request.unwrap(), client);
            }
        }
    }

    /// Allows the request and opens the service's end of the data link.
    pub(crate) fn allow(&self) -> (Service, UnixStream) {
        let agent = self.allow_alone();
        (self.come(), agent)
    }

    /// Allows the request, and nobody comes yet: the agent's end of the connection.
    pub(crate) fn allow_alone(&self) -> UnixStream {
        let (_, mut agent) = self.request();
        let endpoint = Endpoint { domain: DomainId(TARGET), port: Port(PORT) };
        agent.write_all(&endpoint.to_bytes()).unwrap();
        agent
    }

    /// The service comes.
    pub(crate) fn come(&self) -> Service {
        let transport = Transport::new(Kind::Shm, TARGET, self.folder.path());
        let (channel, version) = datalink::connect(&transport, CALLER, PORT, PATIENCE).unwrap();
        assert_eq!(version, Version::V4);
        Service::new(channel)
    }

    /// Stops the program; what happens before [`Caller::goes_on`] happens at once to it.
    pub(crate) fn pause(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, Signal::STOP).unwrap();
        rustix::process::waitpid(Some(pid), WaitOptions::UNTRACED).unwrap();
    }

    pub(crate) fn goes_on(&self) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), Signal::CONT).unwrap();
    }

    pub(crate) fn output(self) -> Output {
        self.child.wait_with_output().unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// The service's end of a data link, played by hand.
pub(crate) struct Service {
    pub(crate) channel: Channel,
    out: Outgoing,
    decoder: Decoder,
}

impl Service {
    fn new(channel: Channel) -> Self {
        Self { channel, out: Outgoing::new(Role::Service, Version::V4), decoder: Decoder::new(65_536) }
    }

    pub(crate) fn raw(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let count = self.channel.write(bytes).unwrap();
            self.channel.flush().unwrap();
            bytes = &bytes[count..];
        }
    }

    /// Speaks without end, until the link ends.
    pub(crate) fn say_for_ever(&mut self) {
        let header = self.out.header(Stream::Stdout, 4096).unwrap();
        let chunk = [&header.to_bytes()[..], &[b'y'; 4096]].concat();
        let mut rest = &chunk[..];
        while let Ok(count) = self.channel.write(rest).and_then(|count| self.channel.flush().map(|()| count))
        {
            rest = &rest[count..];
            if rest.is_empty() {
                rest = &chunk;
            }
        }
    }

    pub(crate) fn say(&mut self, stream: Stream, bytes: &[u8]) {
        let header = self.out.header(stream, bytes.len() as u32).unwrap();
        self.raw(&header.to_bytes());
        self.raw(bytes);
    }

    pub(crate) fn end(&mut self, code: i32) {
        for stream in [Stream::Stderr, Stream::Stdout] {
            let header = self.out.eof(stream).unwrap();
            self.raw(&header.to_bytes());
        }
        let message = self.out.exit_code(code).unwrap();
        self.raw(&message);
    }

    /// Everything the client says, until it ends its stream.
    pub(crate) fn hear(&mut self) -> Vec<u8> {
        let mut heard = Vec::new();
        loop {
            match self.hear_chunk() {
                chunk if chunk.is_empty() => return heard,
                chunk => heard.extend(chunk),
            }
        }
    }

    /// The next that it says; nothing is the end of its stream.
    pub(crate) fn hear_chunk(&mut self) -> Vec<u8> {
        loop {
            if let Some(Frame { ty, body }) = self.decoder.next().unwrap() {
                assert_eq!(ty, ty::DATA_STDIN);
                return body;
            }
            let mut bytes = [0; 4096];
            match self.channel.read(&mut bytes).unwrap() {
                0 => self.sleep(),
                count => self.decoder.push(&bytes[..count]),
            }
        }
    }

    fn sleep(&mut self) {
        if !self.channel.arm(true, false).unwrap() {
            wait_for(&self.channel, "data");
            self.channel.on_ready().unwrap();
        }
    }
}

/// A client that does not do what it should fails the test, it does not hang it.
pub(crate) fn wait_for(fd: &impl AsFd, what: &str) {
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&patience)).unwrap();
    assert_eq!(ready, 1, "the client sent no {what}");
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}
