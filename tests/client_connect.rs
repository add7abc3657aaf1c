//! `qrexec-client -c`, and the older policy programs that end in it: answers to requests that wait in a qube. This test plays the daemons and the caller.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::common;
use engine::datalink;
use engine::link::Framed;
use engine::pump::{self, Call};
use ring::{Channel, Kind, Sizes, Transport};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wire::control::{Endpoint, ExecParams, Message, ServiceParams};
use wire::frame::Decoder;
use wire::handshake::{HELLO_LEN, hello};
use wire::header::ty;
use wire::names::{DomainId, Ident, Port};
use wire::stream::Role;
use wire::version::Version;

const SOURCE: u32 = 3;
const TARGET: u32 = 5;
const PATIENCE: Duration = Duration::from_secs(20);

fn folder() -> tempfile::TempDir {
    let private = std::fs::Permissions::from_mode(0o700);
    tempfile::Builder::new().permissions(private).tempdir().unwrap()
}

fn start(folder: &Path, args: &[&str]) -> Child {
    spawn(folder, common::called("qrexec-client").args(args))
}

fn spawn(folder: &Path, program: &mut Command) -> Child {
    program
        .env("QREXEC_SOCKET_DIR", folder)
        .env("QREXEC_SERVICE_PATH", folder.join("services"))
        .env("QREXEC_INSTALLATION", "lab")
        .env("QREXEC_TRANSPORT", "shm")
        .env("QREXEC_SHM_DIR", folder)
        .env("VCHAN_DOMAIN", "0")
        .env("QREXEC_QUBESD_DIR", folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// A daemon's local socket.
struct Daemon(UnixListener);

impl Daemon {
    fn listen(folder: &Path, qube: &str) -> Self {
        Self(UnixListener::bind(folder.join(format!("qrexec.{qube}"))).unwrap())
    }

    /// Greets the next client and takes its request.
    fn request(&self) -> (Message, UnixStream) {
        let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(&self.0.as_fd(), PollFlags::IN)], Some(&patience)).unwrap();
        assert_eq!(ready, 1, "nobody asks");
        let (mut client, _) = self.0.accept().unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(&hello(Version::V3)).unwrap();
        let mut greeting = [0; HELLO_LEN];
        client.read_exact(&mut greeting).unwrap();
        assert_eq!(greeting, hello(Version::V3));
        let mut decoder = Decoder::new(65_535);
        loop {
            let mut bytes = [0; 256];
            let count = client.read(&mut bytes).unwrap();
            assert_ne!(count, 0, "the client hung up");
            decoder.push(&bytes[..count]);
            if let Some(frame) = decoder.next().unwrap() {
                return (Message::decode(frame.ty, &frame.body).unwrap(), client);
            }
        }
    }
}

fn endpoint(domain: u32, port: u32) -> Endpoint {
    Endpoint { domain: DomainId(domain), port: Port(port) }
}

fn answer(client: &mut UnixStream, ty: u32, told: Endpoint) {
    client.write_all(&wire::Header::new(ty, 8).to_bytes()).unwrap();
    client.write_all(&told.to_bytes()).unwrap();
}

/// `qrexec-client -c` up to the point where both qubes know; its connection to the target's daemon, still open.
fn introduces(folder: &Path, [target, source]: [&Daemon; 2], options: &[&str]) -> (Child, UnixStream) {
    let command = "user:QUBESRPC test.X+ vault";
    let child = start(folder, &[&["-d", "work"], options, &["-c", "SOCKET7,vault,3", command]].concat());
    let (request, mut waits) = target.request();
    let params = ExecParams {
        connect_domain: DomainId(SOURCE),
        connect_port: Port(0),
        cmdline: command.as_bytes().to_vec(),
    };
    assert_eq!(request, Message::Exec { just: false, params });
    answer(&mut waits, ty::EXEC_CMDLINE, endpoint(TARGET, 515));

    let (told, _) = source.request();
    let expected = ServiceParams { endpoint: endpoint(TARGET, 515), ident: Ident::numbered(7) };
    assert_eq!(told, Message::ServiceConnect(expected));
    (child, waits)
}

#[test]
fn two_qubes_are_introduced() {
    let folder = folder();
    let daemons = [Daemon::listen(folder.path(), "work"), Daemon::listen(folder.path(), "3")];
    let daemons = [&daemons[0], &daemons[1]];
    let (mut waiting, mut end) = introduces(folder.path(), daemons, &["-W"]);
    // One that was started later and waits for nothing is gone, though its call goes on; that with -W is there.
    let (mut other, mut its_end) = introduces(folder.path(), daemons, &[]);
    assert_eq!(its_end.read(&mut [0; 9]).unwrap(), 0, "without -W it hangs up");
    assert_eq!(other.wait().unwrap().code(), Some(0));
    end.set_nonblocking(true).unwrap();
    assert_eq!(end.read(&mut [0; 9]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(waiting.try_wait().unwrap(), None, "-W waits for the end");
    drop(end);
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
}

/// Upstream's policy program calls so for a disposable; without `-W` it is gone as soon as it may be.
#[test]
fn a_qube_that_was_introduced_may_be_killed_when_the_call_has_ended() {
    let folder = folder();
    let daemons = [Daemon::listen(folder.path(), "work"), Daemon::listen(folder.path(), "3")];
    let qubesd = UnixListener::bind(folder.path().join("qubesd.sock")).unwrap();
    let killed = || {
        let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        assert_eq!(poll(&mut [PollFd::new(&qubesd, PollFlags::IN)], Some(&patience)).unwrap(), 1);
        let (mut client, _) = qubesd.accept().unwrap();
        let mut request = Vec::new();
        client.read_to_end(&mut request).unwrap();
        assert_eq!(String::from_utf8(request).unwrap(), "admin.vm.Kill+ dom0 name work\0");
        client.write_all(b"0\0").unwrap();
    };
    let (mut waiting, end) = introduces(folder.path(), [&daemons[0], &daemons[1]], &["-EWk"]);
    qubesd.set_nonblocking(true).unwrap();
    assert_eq!(qubesd.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(waiting.try_wait().unwrap(), None, "-W waits for the end");
    drop(end);
    killed();
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
    let (mut other, _end) = introduces(folder.path(), [&daemons[0], &daemons[1]], &["-Ek"]);
    killed();
    assert_eq!(other.wait().unwrap().code(), Some(0));
}

#[test]
fn the_folder_of_the_sockets_may_be_named() {
    let (folder, elsewhere) = (folder(), folder());
    let daemons = [Daemon::listen(elsewhere.path(), "work"), Daemon::listen(elsewhere.path(), "3")];
    // The option comes before the variable, for both daemons.
    let option = format!("--socket-dir={}", elsewhere.path().display());
    let (mut child, _) = introduces(folder.path(), [&daemons[0], &daemons[1]], &[&option]);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Asks for a command and is told where to wait for the qube, which does not come.
fn waits_for_its_qube(folder: &Path, daemon: &Daemon, options: &[&str], port: u32) -> (Child, UnixStream) {
    let child = start(folder, &[&["-d", "work"], options, &["user:x"]].concat());
    let (_, mut client) = daemon.request();
    answer(&mut client, ty::EXEC_CMDLINE, endpoint(TARGET, port));
    (child, client)
}

#[test]
fn a_qube_is_waited_for_as_long_as_was_said_and_zero_is_for_ever() {
    let folder = folder();
    let daemon = Daemon::listen(folder.path(), "work");
    let (mut patient, _its) = waits_for_its_qube(folder.path(), &daemon, &["-w", "0"], 515);
    // Others begin later and give up sooner. That of nobody's choice takes ten seconds, so a full run only.
    let mut others = vec![(&["-w", "1"][..], 516, "within 1s")];
    if std::env::var_os("QREXEC_TEST_FULL").is_some() {
        others.push((&[], 517, "within 10s"));
    }
    for (options, port, said) in others {
        let (other, _its) = waits_for_its_qube(folder.path(), &daemon, options, port);
        let output = other.wait_with_output().unwrap();
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(125) && why.contains(said), "{options:?}: {output:?}");
    }
    assert_eq!(patient.try_wait().unwrap(), None);
    let transport = Transport::new(Kind::Shm, TARGET, folder.path());
    let (channel, version) = datalink::connect(&transport, 0, 515, PATIENCE).unwrap();
    pump::report(channel, version, 6, pump::NoStreams::FailedInVm).unwrap();
    assert_eq!(patient.wait().unwrap().code(), Some(6));
}

/// Its daemon hangs up when its agent is gone, or when the call is over.
#[test]
fn a_qube_whose_daemon_hangs_up_is_not_waited_for() {
    let folder = folder();
    let daemon = Daemon::listen(folder.path(), "work");
    let (child, its) = waits_for_its_qube(folder.path(), &daemon, &["-w", "0"], 515);
    drop(its);
    let output = child.wait_with_output().unwrap();
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(125) && why.contains("can't come"), "{output:?}");
    // What a short call has left is heard all the same.
    let (mut child, its) = waits_for_its_qube(folder.path(), &daemon, &["-w", "0"], 516);
    drop(its);
    let transport = Transport::new(Kind::Shm, TARGET, folder.path());
    let (channel, version) = datalink::connect(&transport, 0, 516, PATIENCE).unwrap();
    pump::report(channel, version, 6, pump::NoStreams::FailedInVm).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(6));
}

#[test]
fn the_policy_program_of_old_introduces_them_itself() {
    let folder = folder();
    std::fs::create_dir(folder.path().join("policy.d")).unwrap();
    std::fs::write(folder.path().join("policy.d/30.policy"), "test.X * vault work allow user=joe\n").unwrap();
    let qube = r#"{"type": "AppVM", "tags": [], "template_for_dispvms": false, "power_state": "Running"}"#;
    let system = format!("{{\"domains\": {{\"dom0\": {qube}, \"vault\": {qube}, \"work\": {qube}}}}}");
    std::fs::write(folder.path().join("system.json"), system).unwrap();
    let target = Daemon::listen(folder.path(), "work");
    let source = Daemon::listen(folder.path(), "3");
    std::os::unix::fs::symlink("qrexec.3", folder.path().join("qrexec.vault")).unwrap();
    let policy = |words: &[&str]| {
        let mut program = common::called("qrexec-policy");
        program.args(words).env("QREXEC_POLICY_DIR", folder.path().join("policy.d"));
        spawn(folder.path(), program.env("QREXEC_SYSTEM_INFO", folder.path().join("system.json")))
    };
    // Five words are the form of R3; R2 gives no number, which the source's link tells.
    for words in [&["3", "vault", "work", "test.X", "SOCKET7"][..], &["vault", "work", "test.X", "SOCKET7"]] {
        let mut child = policy(words);
        let (request, mut waits) = target.request();
        let cmdline = b"joe:QUBESRPC test.X vault".to_vec();
        let params = ExecParams { connect_domain: DomainId(SOURCE), connect_port: Port(0), cmdline };
        assert_eq!(request, Message::Exec { just: false, params }, "{words:?}");
        answer(&mut waits, ty::EXEC_CMDLINE, endpoint(TARGET, 515));
        let (told, _) = source.request();
        let expected = ServiceParams { endpoint: endpoint(TARGET, 515), ident: Ident::numbered(7) };
        assert_eq!(told, Message::ServiceConnect(expected));
        assert_eq!(child.wait().unwrap().code(), Some(0), "{words:?}");
    }
    let denied = policy(&["vault", "mail", "test.X", "SOCKET7"]).wait_with_output().unwrap();
    assert_eq!(denied.status.code(), Some(1), "{denied:?}");
    let unknown = policy(&["work", "vault", "test.X", "SOCKET7"]).wait_with_output().unwrap();
    let said = String::from_utf8(unknown.stderr).unwrap();
    assert!(unknown.status.code() == Some(125) && said.contains("qrexec.work"), "{said}");
}

#[test]
fn a_failed_introduction_is_137() {
    let folder = folder();
    let target = Daemon::listen(folder.path(), "work");
    let child = start(folder.path(), &["-d", "work", "-c", "SOCKET7,vault,3", "user:x"]);
    let (_, mut waits) = target.request();
    answer(&mut waits, ty::EXEC_CMDLINE, endpoint(TARGET, 515));
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(137));
}

/// Lets a request of the qube `vault` be served by dom0: the program, and the caller's end of the data link.
fn serves(folder: &Path, command: &str, port: u32) -> (Child, Channel, Version) {
    let daemon = Daemon::listen(folder, "3");
    let child = start(folder, &["-d", "dom0", "-c", "SOCKET7,vault,3", command]);
    let (told, mut client) = daemon.request();
    let expected = ServiceParams { endpoint: endpoint(0, 0), ident: Ident::numbered(7) };
    assert_eq!(told, Message::ServiceConnect(expected));
    answer(&mut client, ty::SERVICE_CONNECT, endpoint(SOURCE, port));
    std::fs::remove_file(folder.join("qrexec.3")).unwrap();

    let transport = Transport::new(Kind::Shm, SOURCE, folder);
    let (channel, version) = datalink::serve(&transport, 0, port, Sizes::both(65_536), PATIENCE).unwrap();
    (child, channel, version)
}

/// The same with `input`; gives the caller's exit code, what it read, and how the program ended.
fn served(folder: &Path, service: &str, input: &[u8]) -> (Option<i32>, String, Output) {
    let command = format!("QUBESRPC {service} vault name dom0");
    let (child, channel, version) = serves(folder, &command, 513);
    let (source, mut feed) = std::io::pipe().unwrap();
    let (mut heard, sink) = std::io::pipe().unwrap();
    feed.write_all(input).unwrap();
    drop(feed);
    let call =
        Call { sink: Some(sink.into()), source: Some(source.into()), ..Call::new(Role::Client, version) };
    let outcome = pump::run(channel, call);
    let mut text = String::new();
    heard.read_to_string(&mut text).unwrap();
    (outcome.remote, text, child.wait_with_output().unwrap())
}

/// The same, message by message: type and body up to the end of the link. What was said in several pieces is one.
fn messages(folder: &Path, command: &str, input: &[u8]) -> (Vec<(u32, Vec<u8>)>, Output) {
    let (child, channel, _) = serves(folder, command, 513);
    let mut link = Framed::new(channel, 65_536);
    for chunk in [input, b""].into_iter().skip(usize::from(input.is_empty())) {
        let header = wire::Header::new(ty::DATA_STDIN, chunk.len() as u32).to_bytes();
        link.send([&header[..], chunk].concat()).unwrap();
    }
    let mut heard: Vec<(u32, Vec<u8>)> = Vec::new();
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    loop {
        match link.next().unwrap() {
            Some(frame) => match heard.last_mut() {
                Some((ty, body)) if *ty == frame.ty && !frame.body.is_empty() => body.extend(frame.body),
                _ => heard.push((frame.ty, frame.body)),
            },
            None if !link.is_open() => return (heard, child.wait_with_output().unwrap()),
            None if link.arm().unwrap() => {}
            None => {
                assert_eq!(poll(&mut [PollFd::new(&link, PollFlags::IN)], Some(&patience)).unwrap(), 1);
                link.on_ready().unwrap();
            }
        }
    }
}

/// A service of dom0, a text for the shell.
fn service(folder: &Path, name: &str, script: &str) {
    std::fs::create_dir(folder.join("services")).unwrap();
    std::fs::write(folder.join("services").join(name), script).unwrap();
}

#[test]
fn dom0_serves_a_waiting_request() {
    let folder = folder();
    let script = "read line\necho \"$line $QREXEC_REMOTE_DOMAIN $1 $QREXEC_REQUESTED_TARGET\"\nexit 6\n";
    service(folder.path(), "test.Who", script);
    let (code, heard, output) = served(folder.path(), "test.Who+arg", b"hi\n");
    assert_eq!((code, heard.as_str()), (Some(6), "hi vault arg dom0\n"), "{output:?}");
    assert_eq!(output.status.code(), Some(6));
}

/// Policy programs of R3 call their own programs so, and those of the disposables of that time.
#[test]
fn dom0_runs_a_command_for_a_waiting_request() {
    let bash = if Path::new("/bin/bash").exists() { "bash" } else { "" };
    for nogui in ["", "nogui:"] {
        let folder = folder();
        let command = format!(
            "{nogui}read line; echo \"$line from $QREXEC_REMOTE_DOMAIN, ${{BASH_VERSION:+bash}}\"; echo err >&2; exit 6"
        );
        let (heard, output) = messages(folder.path(), &command, b"hi\n");
        let said = format!("hi from vault, {bash}\n").into_bytes();
        let (end, code) = (Vec::new(), 6_i32.to_le_bytes().to_vec());
        let expected = [
            (ty::DATA_STDERR, end.clone()),
            (ty::DATA_STDOUT, said),
            (ty::DATA_STDOUT, end),
            (ty::DATA_EXIT_CODE, code),
        ];
        assert_eq!(heard, expected, "{output:?}");
        assert_eq!(output.status.code(), Some(6), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "err\n", "its error output stays here");
    }
}

#[test]
fn what_cannot_be_started_says_the_ends_of_its_streams_and_then_its_code() {
    for (command, code) in [("QUBESRPC test.Missing+ vault name dom0", 127_i32), ("QUBESRPC a b c", 125)] {
        let folder = folder();
        let (heard, output) = messages(folder.path(), command, b"");
        let expected = [
            (ty::DATA_STDERR, Vec::new()),
            (ty::DATA_STDOUT, Vec::new()),
            (ty::DATA_EXIT_CODE, code.to_le_bytes().to_vec()),
        ];
        assert_eq!(heard, expected, "{output:?}");
        assert_eq!(output.status.code(), Some(code), "{output:?}");
    }
}

/// Daemons of other makes hand out other ports than ours.
#[test]
fn any_port_is_taken() {
    let folder = folder();
    let (child, channel, version) = serves(folder.path(), "exit 6", 42);
    let outcome = pump::run(channel, Call::new(Role::Client, version));
    assert_eq!((outcome.remote, child.wait_with_output().unwrap().status.code()), (Some(6), Some(6)));
}

#[test]
fn a_service_that_dom0_lacks_ends_the_call_with_127() {
    let folder = folder();
    let (code, heard, output) = served(folder.path(), "test.Missing+", b"");
    assert_eq!((code, heard.as_str()), (Some(127), ""));
    assert_eq!(output.status.code(), Some(127), "{output:?}");
}

#[test]
fn a_service_of_dom0_may_ask_for_one_socket() {
    let folder = folder();
    let script = "echo old; kill -USR1 $QREXEC_AGENT_PID; exec 1>&-; echo new >&0; cat >&0; \
                  kill -USR1 $QREXEC_AGENT_PID; exit 7";
    service(folder.path(), "test.One", script);
    let (code, heard, output) = served(folder.path(), "test.One+", b"through\n");
    assert_eq!((code, heard.as_str()), (Some(7), "old\nnew\nthrough\n"), "{output:?}");
    assert_eq!(output.status.code(), Some(7), "{output:?}");
}
