//! A machine in a folder: sockets, shared memory, policy, services, logs.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use ring::{Kind, Transport};

use crate::DAEMON;
use crate::agent::Agent;
use crate::client::TestClient;
pub(crate) use crate::eventually::eventually;

/// Longer than anything here takes, shorter than anybody's patience.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

const SYSTEM: &str = r#"{"domains": {
    "dom0": {"type": "AdminVM", "tags": [], "template_for_dispvms": false, "power_state": "Running"},
    "work": {"type": "AppVM", "tags": [], "template_for_dispvms": false, "power_state": "Running"},
    "vault": {"type": "AppVM", "tags": [], "template_for_dispvms": false, "power_state": "Running"}}}"#;

thread_local! {
    /// The transport of the machines that scenarios make.
    pub(crate) static KIND: Cell<Kind> = const { Cell::new(Kind::Shm) };
}

pub(crate) struct World {
    root: tempfile::TempDir,
    kind: Kind,
}

impl World {
    pub(crate) fn new(policy: &str) -> Self {
        let world = Self { root: tempfile::tempdir().unwrap(), kind: KIND.get() };
        for folder in ["shm", "sockets", "policy", "services", "configs", "logs"] {
            let path = world.path(folder);
            fs::create_dir(&path).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
        }
        world.write("policy/30-test.policy", policy);
        world.write("system.json", SYSTEM);
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// A program under this path, a script for `/bin/sh`.
    pub(crate) fn script(&self, name: &str, text: &str) -> PathBuf {
        self.write(name, &format!("#!/bin/sh\n{text}\n"));
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
        self.path(name)
    }

    pub(crate) fn transport(&self, own: u32) -> Transport {
        Transport::new(self.kind, own, &self.path("shm"))
    }

    /// A daemon to be started; `args` ends with id and name.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .arg(DAEMON)
            .args(args)
            .stdin(Stdio::null())
            .env("QREXEC_INSTALLATION", "lab")
            .env("QREXEC_TRANSPORT", if self.kind == Kind::Shm { "shm" } else { "socket" })
            .env("QREXEC_SHM_DIR", self.path("shm"))
            .env("VCHAN_SOCKET_DIR", self.path("shm"))
            .env("VCHAN_DOMAIN", "0")
            .env("QREXEC_SOCKET_DIR", self.path("sockets"))
            .env("QREXEC_POLICY_DIR", self.path("policy"))
            .env("QREXEC_SYSTEM_INFO", self.path("system.json"))
            .env("QREXEC_SERVICE_PATH", self.path("services"))
            .env("QUBES_RPC_CONFIG_PATH", self.path("configs"))
            .env("QREXEC_LOG_DIR", self.path("logs"))
            .env("QREXEC_STARTUP_TIMEOUT", "20");
        command
    }

    /// A daemon in the foreground.
    pub(crate) fn daemon(&self, id: u32, name: &str) -> Daemon {
        self.daemon_with(&[], id, name)
    }

    pub(crate) fn daemon_with(&self, options: &[&str], id: u32, name: &str) -> Daemon {
        let id = id.to_string();
        let args = [&["-D"][..], options, &[&id, name]].concat();
        self.spawn(self.command(&args), name)
    }

    pub(crate) fn spawn(&self, mut command: Command, name: &str) -> Daemon {
        let log = self.path(&format!("logs/{name}.stderr"));
        let file = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let child = command.stderr(file).spawn().unwrap();
        Daemon { child, log }
    }

    /// A daemon with an agent that said HELLO.
    pub(crate) fn vm(&self, id: u32, name: &str) -> (Daemon, Agent) {
        let agent = Agent::listen(self, id);
        let daemon = self.daemon(id, name);
        (daemon, agent.greeted())
    }

    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.path("sockets").join(format!("qrexec.{name}"))
    }

    /// A local client after its HELLO.
    pub(crate) fn client(&self, name: &str) -> TestClient {
        eventually("the local socket", || self.socket(name).exists());
        TestClient::connect(&self.socket(name)).greeted()
    }
}

/// A process that does not outlive its test.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the end of the daemon", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the log has a line with this in it, and gives that line.
    pub(crate) fn logged(&self, text: &str) -> String {
        let mut found = None;
        eventually(text, || {
            found = self.log().lines().find(|line| line.contains(text)).map(str::to_owned);
            found.is_some()
        });
        found.unwrap()
    }

    /// What it has used of a processor, in hundredths of a second.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields = stat.rsplit(')').next().unwrap().split_whitespace();
        Duration::from_millis(fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap() * 10).sum())
    }

    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(Path::new("/proc").join(self.pid().to_string()).join("fd")).unwrap().count()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}\n{}---", self.log.display(), self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
