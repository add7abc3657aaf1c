//! The service that ends when the user has a session, without any: with programs of the test's own for those of Qubes
//! and of systemd.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::steps::root;

/// A qube: a folder for its sockets, and one for the programs that say what is the case there.
struct Qube(TempDir);

impl Qube {
    /// With windows or not, and whose user id the service has.
    fn new(windows: bool, id: u32) -> Self {
        let qube = Self(tempfile::tempdir().unwrap());
        let answer = if windows { "True" } else { "False" };
        let database = format!("case $* in *gui-enabled) echo {answer};; */default-user) echo alice;; esac");
        qube.program("qubesdb-read", &database);
        qube.program("id", &format!("echo {id}"));
        // Its first line says that the service waits.
        qube.program("sleep", "echo waits; exec /bin/sleep 0.1");
        qube
    }

    /// Another process writes it: a child that another test forks meanwhile would keep it open for writing, and a file
    /// that is cannot be executed.
    fn program(&self, name: &str, script: &str) {
        let path = self.0.path().join(name);
        let write = "printf '#!/bin/sh\\n%s\\n' \"$2\" >\"$1\" && chmod 755 \"$1\"";
        let status = Command::new("/bin/sh").args(["-c", write, "sh"]).arg(path).arg(script).status();
        assert!(status.unwrap().success());
    }

    fn session(&self) -> UnixListener {
        UnixListener::bind(self.0.path().join("qrexec-server.alice.sock")).unwrap()
    }

    fn manager(&self) -> UnixListener {
        let path = self.0.path().join("systemd/private");
        fs::create_dir(path.parent().unwrap()).unwrap();
        UnixListener::bind(path).unwrap()
    }

    fn command(&self) -> Command {
        let path = std::env::join_paths(
            [self.0.path().to_owned()].into_iter().chain(["/usr/bin", "/bin"].map(PathBuf::from)),
        );
        let mut command = Command::new("timeout");
        command.arg("60").arg(root().join("dist/qubes-rpc/qubes.WaitForSession"));
        command.env("QREXEC_AGENT_PID", std::process::id().to_string());
        command.env("PATH", path.unwrap()).env("QREXEC_SESSION_SOCKETS", self.0.path());
        command.env("XDG_RUNTIME_DIR", self.0.path()).env_remove("QREXEC_SERVICE_ARGUMENT");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// What it says on both streams, and its status.
    fn ended(&self) -> (String, String, Option<i32>) {
        let output = self.command().output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr), output.status.code())
    }
}

fn end(mut service: Child) -> Option<i32> {
    // Its output is read to the end, so that no write of it fails.
    service.stdout.take().unwrap().read_to_end(&mut Vec::new()).unwrap();
    service.wait().unwrap().code()
}

#[test]
fn a_session_that_is_there_is_not_waited_for() {
    let qube = Qube::new(true, 0);
    let _session = qube.session();
    assert_eq!(qube.ended(), (String::new(), String::new(), Some(0)));
}

#[test]
fn it_waits_until_the_session_is_there() {
    let qube = Qube::new(true, 0);
    let mut service = qube.command().spawn().unwrap();
    let mut said = BufReader::new(service.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "waits\n");
    assert_eq!(service.try_wait().unwrap(), None);
    let _session = qube.session();
    service.stdout = Some(said.into_inner());
    assert_eq!(end(service), Some(0));
}

/// Whoever asked has gone: here a process that has ended.
#[test]
fn it_does_not_wait_for_nobody() {
    let qube = Qube::new(true, 0);
    let mut asking = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let mut service = qube.command().env("QREXEC_AGENT_PID", asking.id().to_string()).spawn().unwrap();
    let mut said = BufReader::new(service.stdout.take().unwrap());
    said.read_line(&mut String::new()).unwrap();
    drop(asking.stdin.take());
    assert!(asking.wait().unwrap().success());
    service.stdout = Some(said.into_inner());
    assert_eq!(end(service), Some(1));
}

#[test]
fn a_qube_without_windows_has_no_session_to_wait_for() {
    assert_eq!(Qube::new(false, 0).ended(), (String::new(), String::new(), Some(0)));
    // Neither has a system that knows nothing of Qubes.
    let other = Qube::new(true, 0);
    other.program("qubesdb-read", "exit 127");
    assert_eq!(other.ended(), (String::new(), String::new(), Some(0)));
}

#[test]
fn the_users_own_service_manager_is_waited_for() {
    let qube = Qube::new(true, 1000);
    let (_session, _manager) = (qube.session(), qube.manager());
    qube.program("systemctl", "echo $*; case $* in *--wait*) exit 1;; esac");
    let said = "--user --wait is-system-running\n--user --failed --no-legend --plain\n".to_owned();
    assert_eq!(qube.ended(), (String::new(), said, Some(1)));
    // Root, for whom the agent calls, has none.
    qube.program("id", "echo 0");
    assert_eq!(qube.ended(), (String::new(), String::new(), Some(0)));
}

#[test]
fn it_takes_no_argument() {
    let qube = Qube::new(true, 0);
    let status = qube.command().env("QREXEC_SERVICE_ARGUMENT", "x").status().unwrap();
    assert_eq!(status.code(), Some(2));
}
