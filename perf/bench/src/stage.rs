//! Where calls are measured: a lab of two VMs, one that calls and one that serves, with the programs of one build; or
//! this VM, which calls, and another real one, which serves.

use std::collections::HashSet;
use std::io::Read;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::roles::Role;
use super::settings::Settings;
use super::{PROGRAM, copies, upstream};
use cli::failure::Failure;
use lab::{DOM0, Lab, Process, Transport};

/// The VM that calls.
const CALLER: &str = "work";
/// The VM that serves.
const SERVER: &str = "vault";
/// The name of agents, and of their processes for calls.
const AGENT: &str = "qrexec-agent";

/// The service that ends at once.
const TRUE_SERVICE: &str = "bench.True";

/// What that service is: the smallest program that every system has.
const TRUE: &str = "/bin/true";

/// The service that does what a case of ordinary programs has written down for it.
const LIFE_SERVICE: &str = "bench.Life";

/// Where that is, in the stage's folder.
const LIFE_TEXT: &str = "life";

/// What calls.
const CLIENT: &str = "qrexec-client-vm";

/// The same program behind a filter of USB over IP.
const FILTERED: &str = "bench.Filtered";

/// The service behind the socket.
const SOCKET_SERVICE: &str = "bench.Socket";

/// The service that unpacks what `tar` packed.
pub(super) const UNTAR: &str = "bench.Untar";

/// The service that takes files in upstream's way, where the programs are upstream's.
const UNPACK: &str = "bench.Unpack";

/// The folder in place of the serving VM's `QubesIncoming`.
const ARRIVED: &str = "arrived";

/// What is copied, in whichever folder.
pub(super) const COPIED: &str = "t";

/// Complaints that are shown, at most.
const WARNINGS: usize = 20;

/// How long a socket service waits for the description of its call.
const DESCRIBED_WITHIN: Duration = Duration::from_secs(10);

/// A place for calls and the name of the build in it.
#[derive(Debug)]
pub(super) struct Stage {
    /// What the build is called in results.
    pub(super) name: String,
    place: Place,
    exe: PathBuf,
    folder: PathBuf,
    compared: bool,
    /// The programs are upstream's.
    is_upstream: bool,
    /// Upstream's sender of files, which is to be used instead of ours.
    sender: Option<PathBuf>,
}

#[derive(Debug)]
enum Place {
    Lab {
        lab: Box<Lab>,
        agents: HashSet<i32>,
        _socket_service: SocketService,
    },
    /// The VM that serves is another machine, of which nothing but its answers is seen.
    Apart {
        target: String,
        environment: Vec<(String, String)>,
    },
}

impl Stage {
    /// Starts a lab with the programs in `bin_dir`, as far as it has them, else with this executable's.
    /// `folder` is for files of the measurements.
    pub(super) fn start(
        name: &str,
        bin_dir: Option<&Path>,
        settings: &Settings,
        folder: &Path,
    ) -> Result<Self, Failure> {
        let exe = std::env::current_exe().map_err(Failure::during("finding this executable"))?;
        let folder = tempfile::tempdir_in(folder).map_err(Failure::during("a temporary folder"))?.keep();
        let socket = folder.join("socket");
        let socket_service = SocketService::start(&socket)?;
        let life = upstream::script(
            &folder.join("life.sh"),
            &format!("#!/bin/sh\n. {}\n", upstream::quoted(&folder.join(LIFE_TEXT))),
        )?;
        let mut builder = Lab::builder()
            .vm(CALLER)
            .vm(SERVER)
            .transport(settings.transport.unwrap_or(Transport::Shm))
            .service(SERVER, PROGRAM, &exe)
            .service(SERVER, FILTERED, &exe)
            .service(SERVER, TRUE_SERVICE, TRUE)
            .service(SERVER, LIFE_SERVICE, life)
            .service(SERVER, SOCKET_SERVICE, &socket);
        let arrived = folder.join(ARRIVED).join(CALLER);
        std::fs::create_dir_all(&arrived).map_err(Failure::during("a folder for copies"))?;
        builder = builder.script(SERVER, UNTAR, &copies::untar(&arrived));
        let is_upstream = bin_dir.is_some_and(upstream::is_upstream);
        if !is_upstream {
            builder = builder.config(SERVER, FILTERED, "filter='usbip'\n");
        }
        let mut sender = None;
        if let Some(bin_dir) = bin_dir {
            builder = if is_upstream {
                builder = builder.script(SERVER, UNPACK, &copies::unpack(bin_dir, &arrived));
                sender = Some(bin_dir.join("qfile-agent"));
                builder.bin_dir(upstream::adapt(bin_dir, &folder)?).transport(Transport::Socket)
            } else {
                builder.bin_dir(bin_dir)
            };
        }
        for (name, value) in &settings.environment {
            builder = builder.env(name, value);
        }
        let lab = builder.start().map_err(Failure::during("the lab"))?;
        copies::redirect(&lab.layout().home(SERVER), &folder.join(ARRIVED))?;
        let agents = serving(&lab).iter().map(|process| process.pid).collect();
        let place = Place::Lab { lab: Box::new(lab), agents, _socket_service: socket_service };
        Ok(Self { name: name.to_owned(), place, exe, folder, compared: false, is_upstream, sender })
    }

    /// Calls from this VM to `target`, whose agent has this program as a service.
    pub(super) fn apart(
        name: &str,
        target: &str,
        settings: &Settings,
        folder: &Path,
    ) -> Result<Self, Failure> {
        let exe = std::env::current_exe().map_err(Failure::during("finding this executable"))?;
        let place = Place::Apart { target: target.to_owned(), environment: settings.environment.clone() };
        let folder = folder.to_owned();
        Ok(Self {
            name: name.to_owned(),
            place,
            exe,
            folder,
            compared: false,
            is_upstream: false,
            sender: None,
        })
    }

    /// The same stage, only for comparison.
    pub(super) fn compared(self) -> Self {
        Self { compared: true, ..self }
    }

    /// `qrexec-client-vm` in the calling VM, asking for `service` of the other with rings of at least `buffer`.
    pub(super) fn call(&self, buffer: Option<u64>, service: &str) -> Result<Command, Failure> {
        self.call_by(buffer.map(|size| format!("--buffer-size={size}")), service)
    }

    fn call_by(&self, options: impl IntoIterator<Item = String>, service: &str) -> Result<Command, Failure> {
        let (lab, target) = match &self.place {
            Place::Lab { lab, .. } => (Some(lab), SERVER),
            Place::Apart { target, .. } => (None, target.as_str()),
        };
        // Upstream's client does not know of the variable that ours goes by.
        let agent = lab.map(|lab| format!("--agent-socket={}", lab.layout().agent_socket(CALLER).display()));
        let options = agent.into_iter().chain(options);
        self.client(options.chain([target.to_owned(), service.to_owned()]))
    }

    /// `qrexec-client-vm` in the calling VM.
    fn client(&self, args: impl Iterator<Item = String>) -> Result<Command, Failure> {
        match &self.place {
            Place::Lab { lab, .. } => {
                let argv = std::iter::once(CLIENT.to_owned()).chain(args);
                lab.command(CALLER, argv).map_err(Failure::during("the lab"))
            }
            Place::Apart { environment, .. } => {
                let mut command = Command::new(&self.exe);
                command.arg0(CLIENT).args(args).envs(environment.iter().map(|(name, value)| (name, value)));
                Ok(command)
            }
        }
    }

    /// A call of a role of this executable, started by the serving VM's agent.
    pub(super) fn call_role(&self, buffer: Option<u64>, role: Role) -> Result<Command, Failure> {
        self.call(buffer, &format!("{PROGRAM}+{}", role.words().join("+")))
    }

    /// A call of a USB device, over one socket that is the client's stdin.
    pub(super) fn call_device(&self, device: &'static str, filtered: bool) -> Result<Command, Failure> {
        let words = Role::Device(device).words().join("+");
        let filter = filtered.then(|| "--filter=usbip".to_owned());
        let service = if filtered { FILTERED } else { PROGRAM };
        let options = filter.into_iter().chain(["--use-stdin-socket".to_owned()]);
        self.call_by(options, &format!("{service}+{words}"))
    }

    /// Whether its programs have a filter of USB over IP.
    pub(super) fn has_usb_filter(&self) -> bool {
        !self.is_upstream
    }

    /// A call of a program that ends at once.
    pub(super) fn call_true(&self) -> Result<Command, Failure> {
        // Another VM has this program as a service, and no other.
        if self.is_apart() { self.call_role(None, Role::True) } else { self.call(None, TRUE_SERVICE) }
    }

    /// A call of a service that does what [`Stage::life_text`] says.
    pub(super) fn call_life(&self) -> Result<Command, Failure> {
        self.call(None, LIFE_SERVICE)
    }

    /// The file for it, a text for the shell.
    pub(super) fn life_text(&self) -> PathBuf {
        self.folder.join(LIFE_TEXT)
    }

    /// That program without any qrexec.
    pub(super) fn bare_true(&self) -> Result<Command, Failure> {
        if self.is_apart() { self.role(Role::True) } else { Ok(Command::new(TRUE)) }
    }

    /// A call of a service behind a socket, which hangs up at once.
    pub(super) fn call_socket(&self) -> Result<Command, Failure> {
        self.call(None, SOCKET_SERVICE)
    }

    /// What copies [`COPIED`] of the working folder to the other VM.
    pub(super) fn copy(&self) -> Result<Command, Failure> {
        if let Some(sender) = &self.sender {
            let mut command = self.call(None, UNPACK)?;
            command.arg(sender).arg(COPIED);
            return Ok(command);
        }
        let Place::Lab { lab, .. } = &self.place else { return Err(Failure::trouble("not without a lab")) };
        let argv = ["qvm-copy", "--without-progress", "--to", SERVER, COPIED];
        lab.command(CALLER, argv).map_err(Failure::during("the lab"))
    }

    /// Where that arrives.
    pub(super) fn arrived(&self) -> PathBuf {
        self.folder.join(ARRIVED).join(CALLER)
    }

    /// For files that all stages use.
    pub(super) fn shared(&self) -> &Path {
        self.folder.parent().unwrap_or(&self.folder)
    }

    /// A role of this executable without any qrexec, in the calling VM.
    pub(super) fn role(&self, role: Role) -> Result<Command, Failure> {
        let mut command = Command::new(&self.exe);
        command.arg0(PROGRAM).args(role.words());
        let Place::Lab { lab, .. } = &self.place else { return Ok(command) };
        for (name, value) in lab.environment(CALLER).map_err(Failure::during("the lab"))? {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Ok(command)
    }

    /// `qrexec-client-vm` that has nothing to do and says so.
    pub(super) fn idle_client(&self) -> Result<Command, Failure> {
        self.client(std::iter::empty())
    }

    /// Whether the other end is on another machine, with a clock of its own and out of sight.
    pub(super) fn is_apart(&self) -> bool {
        matches!(self.place, Place::Apart { .. })
    }

    /// The processes that the serving VM's agent has started for the calls under way, as far as they are in sight.
    pub(super) fn pumps(&self) -> Vec<i32> {
        let Place::Lab { lab, agents, .. } = &self.place else { return Vec::new() };
        serving(lab).iter().map(|process| process.pid).filter(|pid| !agents.contains(pid)).collect()
    }

    /// Every process of qrexec that is in sight: clients, agents with their processes for calls, daemons; no service.
    pub(super) fn qrexec(&self) -> Vec<Process> {
        let Place::Lab { lab, .. } = &self.place else { return Vec::new() };
        qrexec(lab).collect()
    }

    /// For files of measurements.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// By which the processes of the lab are known.
    pub(super) fn token(&self) -> &str {
        match &self.place {
            Place::Lab { lab, .. } => &lab.plan().token,
            Place::Apart { target, .. } => target,
        }
    }

    /// Where the serving VM's agent says what happens, if that is in sight.
    pub(super) fn agent_log(&self) -> Option<PathBuf> {
        let Place::Lab { lab, .. } = &self.place else { return None };
        Some(lab.layout().log(SERVER).join("agent.log"))
    }

    /// Where the caller's agent and daemon and the server's daemon and agent, the four between a client and its
    /// service, say what happens, if that is in sight.
    pub(super) fn logs(&self) -> Option<[PathBuf; 4]> {
        let Place::Lab { lab, .. } = &self.place else { return None };
        let (layout, dom0) = (lab.layout(), lab.layout().log(DOM0));
        let daemon = |vm: &str| dom0.join(format!("daemon-{vm}.log"));
        let agent = |vm: &str| layout.log(vm).join("agent.log");
        Some([agent(CALLER), daemon(CALLER), daemon(SERVER), agent(SERVER)])
    }

    /// What agents and daemons have complained about.
    pub(super) fn warnings(&self) -> String {
        let texts =
            self.logs().unwrap_or_default().map(|log| std::fs::read_to_string(log).unwrap_or_default());
        // The time, then the level.
        let complaint =
            |line: &&str| line.split_whitespace().take(2).any(|word| matches!(word, "WARN" | "ERROR"));
        let lines = texts.iter().flat_map(|text| text.lines().filter(complaint)).take(WARNINGS);
        lines.map(|line| format!("\n{line}")).collect()
    }

    /// Whether it is only there for comparison, so that calls may be lost.
    pub(super) fn is_compared(&self) -> bool {
        self.compared
    }

    /// Ends the lab, if it is one.
    pub(super) fn down(self) -> Result<(), Failure> {
        match self.place {
            Place::Lab { lab, .. } => lab.down().map_err(Failure::during("the lab")),
            Place::Apart { .. } => Ok(()),
        }
    }
}

/// The serving VM's agent and its processes for calls.
fn serving(lab: &Lab) -> Vec<Process> {
    qrexec(lab).filter(|process| process.vm == SERVER && process.program == AGENT).collect()
}

fn qrexec(lab: &Lab) -> impl Iterator<Item = Process> {
    let programs = [AGENT, "qrexec-daemon", CLIENT];
    lab.processes().into_iter().filter(move |process| programs.contains(&process.program.as_str()))
}

/// Accepts connections, reads the description of the call, and hangs up.
#[derive(Debug)]
struct SocketService {
    path: PathBuf,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl SocketService {
    fn start(path: &Path) -> Result<Self, Failure> {
        let listener = UnixListener::bind(path).map_err(Failure::during("a socket for a service"))?;
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            while let Ok((mut connection, _)) = listener.accept() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let _ = connection.set_read_timeout(Some(DESCRIBED_WITHIN));
                // To hang up on bytes that were not read would be an error for the other side.
                let mut bytes = [0; 512];
                while let Ok(got) = connection.read(&mut bytes) {
                    if got == 0 || bytes.get(..got).is_some_and(|bytes| bytes.contains(&0)) {
                        break;
                    }
                }
            }
        });
        Ok(Self { path: path.to_owned(), ended, thread: Some(thread) })
    }
}

impl Drop for SocketService {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // A connection of our own is what the thread waits for.
        let woken = std::os::unix::net::UnixStream::connect(&self.path);
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            let _ = thread.join();
        }
    }
}
