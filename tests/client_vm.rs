//! `qrexec-client-vm` alone: this test plays the agent and, behind the data link, the service.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::common;
use engine::datalink;
use ring::{Channel, Kind, Transport};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wire::control::Endpoint;
use wire::frame::{Decoder, Frame, LocalTriggerDecoder};
use wire::header::{Header, ty};
use wire::names::{DomainId, Port};
use wire::stream::{Kind as Stream, Outgoing, Role};
use wire::trigger::Trigger;
use wire::version::Version;

const CALLER: u32 = 3;
const TARGET: u32 = 5;
const PORT: u32 = 513;
const PATIENCE: Duration = Duration::from_secs(20);

fn private_folder() -> tempfile::TempDir {
    let private = std::fs::Permissions::from_mode(0o700);
    tempfile::Builder::new().permissions(private).tempdir().unwrap()
}

/// The program under test, by its name.
fn client(folder: &Path) -> PathBuf {
    let link = folder.join("qrexec-client-vm");
    std::os::unix::fs::symlink(common::EXE, &link).unwrap();
    link
}

/// One caller's machine: a folder with the agent's socket, and the program under test in it.
struct Caller {
    folder: tempfile::TempDir,
    agent: UnixListener,
    child: Child,
}

impl Caller {
    fn start(args: &[&str]) -> Self {
        Self::start_with(args, |command| command)
    }

    fn start_with(args: &[&str], adjust: impl Fn(&mut Command) -> &mut Command) -> Self {
        let folder = private_folder();
        let mut command = Command::new(client(folder.path()));
        command.args(args);
        Self::launch(command, folder, adjust)
    }

    /// The client by way of a shell, which gives it its streams.
    fn start_by_shell(redirection: &str, args: &[&str]) -> Self {
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
    fn request(&self) -> (Trigger, UnixStream) {
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
    fn allow(&self) -> (Service, UnixStream) {
        let (_, mut agent) = self.request();
        let endpoint = Endpoint { domain: DomainId(TARGET), port: Port(PORT) };
        agent.write_all(&endpoint.to_bytes()).unwrap();
        let transport = Transport::new(Kind::Shm, TARGET, self.folder.path());
        let (channel, version) = datalink::connect(&transport, CALLER, PORT, PATIENCE).unwrap();
        assert_eq!(version, Version::V4);
        (Service::new(channel), agent)
    }

    fn output(self) -> Output {
        self.child.wait_with_output().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// The service's end of a data link, played by hand.
struct Service {
    channel: Channel,
    out: Outgoing,
    decoder: Decoder,
}

impl Service {
    fn new(channel: Channel) -> Self {
        Self { channel, out: Outgoing::new(Role::Service, Version::V4), decoder: Decoder::new(65_536) }
    }

    fn raw(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let count = self.channel.write(bytes).unwrap();
            self.channel.flush().unwrap();
            bytes = &bytes[count..];
        }
    }

    /// Speaks without end, until the link ends.
    fn say_for_ever(&mut self) {
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

    fn say(&mut self, stream: Stream, bytes: &[u8]) {
        let header = self.out.header(stream, bytes.len() as u32).unwrap();
        self.raw(&header.to_bytes());
        self.raw(bytes);
    }

    fn end(&mut self, code: i32) {
        for stream in [Stream::Stderr, Stream::Stdout] {
            let header = self.out.eof(stream).unwrap();
            self.raw(&header.to_bytes());
        }
        let message = self.out.exit_code(code).unwrap();
        self.raw(&message);
    }

    /// Everything the client says, until it ends its stream.
    fn hear(&mut self) -> Vec<u8> {
        let mut heard = Vec::new();
        loop {
            match self.hear_chunk() {
                chunk if chunk.is_empty() => return heard,
                chunk => heard.extend(chunk),
            }
        }
    }

    /// The next that it says; nothing is the end of its stream.
    fn hear_chunk(&mut self) -> Vec<u8> {
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
fn wait_for(fd: &impl AsFd, what: &str) {
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&patience)).unwrap();
    assert_eq!(ready, 1, "the client sent no {what}");
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn data_both_ways_and_the_services_code() {
    let mut caller = Caller::start(&["--prefix-data=<", "-s", "orig", "$default", "test.Echo+x"]);
    caller.child.stdin.take().unwrap().write_all(b"hello").unwrap();
    let (mut service, _agent) = caller.allow();
    assert_eq!(service.hear(), b"<hello");
    service.say(Stream::Stdout, b"out \x1b[0m\n");
    service.say(Stream::Stderr, b"err\n");
    service.end(7);
    let output = caller.output();
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out \x1b[0m\n"[..], &b"err\n"[..]));
}

#[test]
fn the_prefix_is_sent_at_once() {
    for option in [&["-p", "first"][..], &["--prefix-data", "first"], &["--prefix-data=first"]] {
        let mut caller = Caller::start(&[option, &["a", "b"]].concat());
        let mut stdin = caller.child.stdin.take().unwrap();
        let (mut service, _agent) = caller.allow();
        // Nothing has come from stdin, and nothing says that something will.
        assert_eq!(service.hear_chunk(), b"first", "{option:?}");
        stdin.write_all(b"rest").unwrap();
        assert_eq!(service.hear_chunk(), b"rest");
        drop(stdin);
        assert_eq!(service.hear(), b"");
        service.end(0);
        assert_eq!(caller.output().status.code(), Some(0));
    }
}

#[test]
fn the_agents_socket_may_be_named() {
    // The option comes before the variable.
    let caller = Caller::start_with(&["--agent-socket=agent", "a", "b"], |command| {
        command.env("QREXEC_AGENT_SOCKET", "/nonexistent/agent")
    });
    let (request, agent) = caller.request();
    assert_eq!((request.target.as_str(), request.service.as_str()), ("a", "b"));
    drop(agent);
    assert_eq!(caller.output().status.code(), Some(126));
}

#[test]
fn the_request_says_what_was_asked_for() {
    let caller = Caller::start(&["-s", "orig", "$dispvm:a", "test.X+y z"]);
    let (request, agent) = caller.request();
    assert_eq!(request.source.unwrap().as_str(), "orig");
    assert_eq!(request.target.as_str(), "@dispvm:a");
    assert_eq!(request.service.as_str(), "test.X+y_z");
    assert_eq!(request.ident.as_str(), "SOCKET");
    drop(agent);
    let output = caller.output();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(126), "Request refused\n"));
}

#[test]
fn terminal_filters_on_demand() {
    let caller = Caller::start(&["-t", "-T", "a", "b"]);
    let (mut service, _agent) = caller.allow();
    service.say(Stream::Stdout, b"o\x1b\xffo\n");
    service.say(Stream::Stderr, b"e\x1b\n");
    service.end(0);
    let output = caller.output();
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("o__o\n", "e_\n"));
}

#[test]
fn a_lost_link_is_no_success() {
    let caller = Caller::start(&["a", "b"]);
    let (mut service, _agent) = caller.allow();
    service.say(Stream::Stdout, b"half");
    drop(service);
    let output = caller.output();
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(255), "half"));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("lost") && stderr.lines().count() == 1, "{stderr}");
}

#[test]
fn a_peer_that_breaks_the_protocol_is_lost() {
    let caller = Caller::start(&["a", "b"]);
    let (mut service, _agent) = caller.allow();
    service.raw(&Header::new(ty::DATA_STDOUT, 65_537).to_bytes());
    let output = caller.output();
    assert_eq!(output.status.code(), Some(255), "{}", text(&output.stderr));
}

#[test]
fn odd_exit_codes_are_failures() {
    for (body, status) in
        [(&[0, 1, 0, 0][..], 255), (&[0xff; 4][..], 255), (&[0, 0][..], 255), (&[5, 0, 0, 0, 9][..], 5)]
    {
        let caller = Caller::start(&["a", "b"]);
        let (mut service, _agent) = caller.allow();
        service.raw(&Header::new(ty::DATA_STDOUT, 0).to_bytes());
        service.raw(&Header::new(ty::DATA_EXIT_CODE, body.len() as u32).to_bytes());
        service.raw(body);
        let output = caller.output();
        assert_eq!(output.status.code(), Some(status), "{body:?}: {}", text(&output.stderr));
    }
}

#[test]
fn a_program_talks_to_the_service_and_finds_the_callers_streams() {
    let script = "echo to-service; read answer; echo \"got $answer\" >&$SAVED_FD_1; read line <&$SAVED_FD_0; \
                  echo \"$line ${SAVED_FD_2-none}\" >&$SAVED_FD_1";
    let mut caller = Caller::start(&["a", "b", "/bin/sh", "-c", script]);
    caller.child.stdin.take().unwrap().write_all(b"from-caller\n").unwrap();
    let (mut service, _agent) = caller.allow();
    service.say(Stream::Stdout, b"from-service\n");
    assert_eq!(service.hear(), b"to-service\n");
    service.end(0);
    let output = caller.output();
    assert_eq!(text(&output.stdout), "got from-service\nfrom-caller none\n");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn neither_failure_is_lost() {
    for (program, code, status) in
        [("exit 0", 4, 4), ("exit 3", 4, 4), ("exit 3", 0, 3), ("kill -9 $$", 0, 137)]
    {
        let caller = Caller::start(&["a", "b", "/bin/sh", "-c", program]);
        let (mut service, _agent) = caller.allow();
        service.end(code);
        let output = caller.output();
        assert_eq!(output.status.code(), Some(status), "{program}, {code}: {}", text(&output.stderr));
    }
}

#[test]
fn a_read_error_on_stdin_fails_the_call() {
    // Every read of it fails, as of a file on a broken disk.
    let broken = || std::fs::File::open("/proc/self/mem").unwrap();
    let caller = Caller::start_with(&["a", "b"], |command| command.stdin(broken()));
    let (mut service, _agent) = caller.allow();
    let output = caller.output();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{stderr}");
    assert!(stderr.contains("Input/output error") && stderr.lines().count() == 1, "{stderr}");
    // The service does not take what came for all that there is.
    assert_eq!(service.channel.read(&mut [0; 64]).unwrap(), 0);
}

#[test]
fn what_a_closed_stdout_does_not_take_is_missed() {
    for status in [125, 0] {
        let caller = Caller::start_by_shell(">&-", &["a", "b"]);
        let (mut service, _agent) = caller.allow();
        if status == 0 {
            service.end(0)
        } else {
            service.say(Stream::Stdout, b"precious")
        }
        let output = caller.output();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{stderr}");
        assert_eq!(stderr.lines().count(), usize::from(status != 0), "{stderr}");
    }
}

/// A caller whose stdout nobody reads any more.
fn unread_caller() -> (Caller, Option<std::process::ChildStdin>, Service, UnixStream) {
    let mut caller = Caller::start(&["a", "b"]);
    let stdin = caller.child.stdin.take();
    drop(caller.child.stdout.take());
    let (service, agent) = caller.allow();
    (caller, stdin, service, agent)
}

#[test]
fn when_the_only_reader_is_gone_the_call_ends() {
    // A service that says nothing, and does not end either, to a caller who has nothing more to say.
    let (caller, stdin, _service, _agent) = unread_caller();
    drop(stdin);
    let output = caller.output();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(141), ""));

    // One that speaks, and may never end.
    let (caller, stdin, mut service, _agent) = unread_caller();
    service.say_for_ever();
    let output = caller.output();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(141), ""));
    drop(stdin);

    // One that ends is waited for, whether there is more to send or not: nothing is lost.
    for stays in [false, true] {
        let (caller, stdin, mut service, _agent) = unread_caller();
        let _stdin = stdin.filter(|_| stays);
        service.end(4);
        assert_eq!(caller.output().status.code(), Some(4));
    }
}

#[test]
fn a_program_that_has_ended_does_not_keep_an_endless_service() {
    for (program, status) in [("read line", 141), ("read line; exit 3", 3)] {
        let caller = Caller::start(&["a", "b", "/bin/sh", "-c", program]);
        let (mut service, _agent) = caller.allow();
        service.say(Stream::Stdout, b"a line\n");
        service.say_for_ever();
        assert_eq!(caller.output().status.code(), Some(status), "{program}");
    }
    // A little that it leaves unread is its own affair.
    let caller = Caller::start(&["a", "b", "/bin/sh", "-c", "exec <&- >&-"]);
    let (mut service, _agent) = caller.allow();
    assert_eq!(service.hear(), b"");
    service.say(Stream::Stdout, &[b'.'; 60_000]);
    service.end(0);
    assert_eq!(caller.output().status.code(), Some(0));
}

#[test]
fn a_program_starts_only_after_the_call_was_allowed() {
    let caller = Caller::start(&["a", "b", "/bin/sh", "-c", ": > ran"]);
    let (_, agent) = caller.request();
    assert!(!caller.path("ran").exists());
    drop(agent);
    let ran = caller.path("ran");
    let folder = caller.folder.path().to_owned();
    let output = caller.output();
    assert_eq!(output.status.code(), Some(126));
    assert!(!ran.exists() && !folder.join("ran").exists());
}

#[test]
fn a_program_is_not_searched_for() {
    for (program, status) in [("true", 127), ("/nonexistent", 127), ("/etc/passwd", 125)] {
        let caller = Caller::start(&["a", "b", program]);
        let output = caller.output();
        assert_eq!(output.status.code(), Some(status), "{program}: {}", text(&output.stderr));
    }
}

#[test]
fn pass_local_stderr_saves_a_third_stream() {
    let caller = Caller::start_with(&["a", "b", "/bin/sh", "-c", "echo saved >&$SAVED_FD_2"], |command| {
        command.env("PASS_LOCAL_STDERR", "1")
    });
    let (mut service, _agent) = caller.allow();
    service.end(0);
    assert_eq!(text(&caller.output().stderr), "saved\n");
}

#[test]
fn one_socket_for_both_directions() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let caller = Caller::start_with(&["--use-stdin-socket", "a", "b"], move |command| {
        command.stdin(std::os::fd::OwnedFd::from(theirs.try_clone().unwrap()))
    });
    let (mut service, _agent) = caller.allow();
    (&ours).write_all(b"up").unwrap();
    ours.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(service.hear(), b"up");
    service.say(Stream::Stdout, b"down");
    service.end(0);
    let mut down = [0; 4];
    (&ours).read_exact(&mut down).unwrap();
    let output = caller.output();
    assert_eq!((&down, output.stdout.len(), output.status.code()), (b"down", 0, Some(0)));
}

#[test]
fn usage_errors_are_one_line() {
    for (args, status) in [
        (&["a"][..], 2),
        (&["--bogus", "a", "b"], 2),
        (&["--buffer-size=x", "a", "b"], 2),
        (&["--buffer-size=2M", "a", "b"], 125),
        (&["--use-stdin-socket", "a", "b"], 2),
    ] {
        let output = Caller::start(args).output();
        assert_eq!(output.status.code(), Some(status), "{args:?}");
        assert_eq!(text(&output.stderr).lines().count(), 1, "{}", text(&output.stderr));
    }
    let output = Caller::start(&["--help"]).output();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}

#[test]
fn without_an_agent_there_is_trouble() {
    let caller =
        Caller::start_with(&["a", "b"], |command| command.env("QREXEC_AGENT_SOCKET", "/nonexistent/agent"));
    assert_eq!(caller.output().status.code(), Some(125));
}

#[test]
fn asking_for_one_socket_does_not_end_the_call() {
    let script = "echo old; kill -USR1 $QREXEC_AGENT_PID; exec 1>&-; echo new >&0; read answer; \
                  kill -USR1 $QREXEC_AGENT_PID; echo \"got $answer\" >&0";
    let caller = Caller::start(&["a", "b", "/bin/sh", "-c", script]);
    let (mut service, _agent) = caller.allow();
    service.say(Stream::Stdout, b"answer\n");
    assert_eq!(text(&service.hear()), "old\nnew\ngot answer\n");
    service.end(0);
    let output = caller.output();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}
