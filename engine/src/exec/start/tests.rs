use super::*;
use crate::Installation;
use crate::exec::{ServiceConfig, Users};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use wire::command::Command;

struct Lab {
    dir: tempfile::TempDir,
    services: Services,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let folder = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).expect("mkdir");
            crate::exec::SearchPath::new(path.as_os_str())
        };
        let (folders, configs) = (folder("services"), folder("config"));
        let services = Services {
            folders,
            configs,
            users: Users::Own("joan".to_owned()),
            installation: Installation::System,
        };
        Self { dir, services }
    }

    fn service(&self, name: &str, mode: u32, text: &str) {
        let path = self.dir.path().join("services").join(name);
        std::fs::write(&path, text).expect("write");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("chmod");
    }

    fn config(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join("config").join(name), text).expect("write");
    }

    fn prepare(&self, cmdline: &str) -> Result<Prepared, ExecError> {
        let command = Command::parse_without_user(cmdline.as_bytes()).expect(cmdline);
        let config = match &command.kind {
            wire::command::CommandKind::Service(call) => self.services.config(&call.service)?,
            wire::command::CommandKind::Shell(_) => ServiceConfig::default(),
        };
        self.services.prepare(&command.kind, &config)
    }

    fn start(&self, cmdline: &str) -> Result<Started, ExecError> {
        let prepared = self.prepare(cmdline)?;
        loop {
            match self.services.start(&prepared, Some("joan"), Stderr::Piped) {
                // A process that another test has just forked may still hold the script open for writing, until it
                // executes its program.
                Err(ExecError::Spawn { source, .. })
                    if source.kind() == io::ErrorKind::ExecutableFileBusy =>
                {
                    std::thread::yield_now();
                }
                other => return other,
            }
        }
    }

    /// Runs a call with this input. Returns output, error output and exit code.
    fn call(&self, cmdline: &str, input: &str) -> (String, String, i32) {
        let mut started = self.start(cmdline).expect(cmdline);
        let mut stdin = std::fs::File::from(started.stdin);
        stdin.write_all(input.as_bytes()).expect("write");
        drop(stdin);
        let text = |fd: OwnedFd| {
            let mut text = String::new();
            std::fs::File::from(fd).read_to_string(&mut text).expect("read");
            text
        };
        let (out, err) = (text(started.stdout), text(started.stderr.expect("piped")));
        (out, err, started.child.as_mut().expect("a process").wait().expect("wait"))
    }
}

#[test]
fn a_service_gets_its_description_and_its_streams() {
    let lab = Lab::new();
    lab.service(
        "test.Add",
        0o755,
        "#!/bin/sh\nread a b\necho $((a+b)) \"$QREXEC_REMOTE_DOMAIN|$QREXEC_SERVICE_FULL_NAME|\
         $QREXEC_SERVICE_ARGUMENT|$1|$#\"\necho oops >&2\n[ -S /dev/fd/0 ] && [ -S /dev/fd/1 ] && exit 7\n",
    );
    let (out, err, code) = lab.call("QUBESRPC test.Add+x work", "1 2\n");
    assert_eq!(out, "3 work|test.Add+x|x|x|1\n");
    assert_eq!(err, "oops\n");
    assert_eq!(code, 7);
    let (out, ..) = lab.call("QUBESRPC test.Add+ work", "1 2\n");
    assert_eq!(out, "3 work|test.Add+|||0\n");
}

#[test]
fn a_command_goes_to_a_shell() {
    let lab = Lab::new();
    let (out, _, code) = lab.call("echo \"$QREXEC_AGENT_PID\"; cat; kill -9 $$", "in");
    assert_eq!(out, format!("{}\nin", std::process::id()));
    assert_eq!(code, 137);
}

#[test]
fn a_text_is_run_by_the_shell_with_the_argument() {
    let lab = Lab::new();
    lab.service("old.Text", 0o644, "echo text $1 $#\n");
    lab.service("old.NoInterpreter", 0o755, "echo script $1 $#\n");
    assert_eq!(lab.call("QUBESRPC old.Text+a work", "").0, "text a 1\n");
    assert_eq!(lab.call("QUBESRPC old.Text work", "").0, "text 0\n");
    // Root may read files that others may not, and everybody may read this one: both ways have the same result.
    assert_eq!(lab.call("QUBESRPC old.NoInterpreter+a work", "").0, "script a 1\n");
}

/// The bytes of a program must not reach a shell, which would execute them as commands.
#[test]
fn a_program_of_no_machine_is_no_text() {
    let lab = Lab::new();
    for (name, text) in [("bad.Nul", "\0"), ("bad.Line", "echo \0 x\n"), ("bad.Elf", "\x7fELF\necho ran\n")] {
        for mode in [0o755, 0o644] {
            lab.service(name, mode, text);
            let error = lab.start(&format!("QUBESRPC {name}+a work")).expect_err(name);
            assert_eq!(error.code(), 125, "{name}");
            assert!(error.to_string().contains("Exec format error"), "{error}");
        }
    }
    lab.service("good.Text", 0o755, "echo first; exec tail -n 1 \"$0\"\n\0binary\n");
    assert_eq!(lab.call("QUBESRPC good.Text work", "").0, "first\n\0binary\n");
}

#[test]
fn a_service_may_have_pipes_which_it_can_open_by_name() {
    let lab = Lab::new();
    lab.service(
        "test.Names",
        0o755,
        "#!/bin/sh\n[ -p /dev/stdin ] && [ -p /dev/stdout ] || exit 3\n\
         cat /dev/stdin >/dev/stdout && echo e >/dev/stderr\n",
    );
    assert_eq!(lab.call("QUBESRPC test.Names work", "").2, 3);
    lab.config("test.Names", "pipes=true\n");
    let said = lab.call("QUBESRPC test.Names work", "in");
    assert_eq!(said, ("in".to_owned(), "e\n".to_owned(), 0));
    let started = lab.start("QUBESRPC test.Names work").expect("starts");
    assert!(!started.one_socket && !started.splice, "a pipe cannot carry both directions");
}

#[test]
fn a_service_gets_no_descriptor_but_its_streams() {
    let lab = Lab::new();
    let (_kept_open, _too) = rustix::pipe::pipe().expect("pipe");
    lab.service("test.Fds", 0o755, "#!/bin/sh\nexec ls /proc/self/fd\n");
    let (out, ..) = lab.call("QUBESRPC test.Fds work", "");
    // The folder that `ls` reads is the fourth descriptor.
    assert_eq!(out.lines().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
}

#[test]
fn failures_have_their_codes() {
    let lab = Lab::new();
    let code = |cmdline: &str| lab.start(cmdline).expect_err(cmdline).code();
    assert_eq!(code("QUBESRPC test.None work"), 127);
    lab.service("test.Interpreter", 0o755, "#!/no/such/interpreter\n");
    assert_eq!(code("QUBESRPC test.Interpreter work"), 127);
    lab.service("test.Config", 0o755, "#!/bin/sh\n");
    lab.config("test.Config+x", "rubbish");
    assert_eq!(code("QUBESRPC test.Config+x work"), 125);
    assert_eq!(lab.call("QUBESRPC test.Config work", "").2, 0);
    let prepared = lab.prepare("true").expect("a command");
    let other = lab.services.start(&prepared, Some("somebody-else"), Stderr::Piped);
    assert_eq!(other.expect_err("not us").code(), 125);
}

#[test]
fn a_socket_service_is_told_what_is_called() {
    let lab = Lab::new();
    let path = lab.dir.path().join("services").join(format!("test.{}", "Socket".repeat(30)));
    // The name is too long for `bind`, so the socket has a short one, and a link has the long one.
    let short = lab.dir.path().join("s");
    let listener = UnixListener::bind(&short).expect("bind");
    std::os::unix::fs::symlink(&short, &path).expect("symlink");
    let name = path.file_name().expect("name").to_str().expect("text");
    lab.config(name, "exit-on-service-eof=true\n");

    let started = lab.start(&format!("QUBESRPC {name}+arg work")).expect("connects");
    assert!(started.exit_on_service_eof && !started.exit_on_client_eof);
    assert!(started.child.is_none() && started.stderr.is_none());
    let (mut peer, _) = listener.accept().expect("accept");
    let mut told = vec![0; name.len() + 10];
    peer.read_exact(&mut told).expect("read");
    assert_eq!(told, format!("{name}+arg work\0").into_bytes());
    peer.write_all(b"hello").expect("write");
    drop(peer);
    let mut said = String::new();
    std::fs::File::from(started.stdout).read_to_string(&mut said).expect("read");
    assert_eq!(said, "hello");

    lab.config(name, "skip-service-descriptor=true\n");
    let started = lab.start(&format!("QUBESRPC {name} work")).expect("connects");
    drop(started);
    let (mut peer, _) = listener.accept().expect("accept");
    assert_eq!(peer.read(&mut told).expect("read"), 0);
    // Shut down and not closed: a process that another test has just forked may hold the socket until it executes its
    // program.
    rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).expect("shutdown");
    assert_eq!(lab.start(&format!("QUBESRPC {name} work")).expect_err("nobody").code(), 125);
}

#[test]
fn a_tcp_service_is_connected() {
    let lab = Lab::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("address").port();
    let link = lab.dir.path().join("services/test.Tcp");
    std::os::unix::fs::symlink("/dev/tcp/127.0.0.1", link).expect("symlink");
    let started = lab.start(&format!("QUBESRPC test.Tcp+{port} work")).expect("connects");
    let (mut peer, _) = listener.accept().expect("accept");
    std::fs::File::from(started.stdin).write_all(b"in").expect("write");
    drop(started.stdout);
    let mut got = String::new();
    peer.read_to_string(&mut got).expect("read");
    assert_eq!(got, format!("test.Tcp+{port} work\0in"));
}

#[test]
fn detached_programs_run_on_and_sockets_are_told() {
    let lab = Lab::new();
    lab.service("test.Mark", 0o755, "#!/bin/sh\ncat >/dev/null; echo \"done $1\"; echo log $1 >&2\n");
    let (log, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).expect("pipe");
    let prepared = lab.prepare("QUBESRPC test.Mark+x work").expect("there");
    lab.start("QUBESRPC test.Mark work").map(drop).expect("nobody writes to it any more");
    lab.services.start_detached(&prepared, Some("joan"), Some(theirs.as_fd())).expect("starts");
    drop(theirs);
    let mut said = String::new();
    std::fs::File::from(log).read_to_string(&mut said).expect("read");
    assert_eq!(said, "log x\n");

    let path = lab.dir.path().join("services/test.Told");
    let listener = UnixListener::bind(&path).expect("bind");
    let prepared = lab.prepare("QUBESRPC test.Told work").expect("there");
    lab.services.start_detached(&prepared, None, None).expect("connects");
    let (mut peer, _) = listener.accept().expect("accept");
    let mut told = String::new();
    peer.read_to_string(&mut told).expect("read");
    // Unchanged: only a daemon adds a plus.
    assert_eq!(told, "test.Told work\0");
}
