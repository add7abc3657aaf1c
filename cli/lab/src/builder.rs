//! A lab as a library: what the tests and the benchmark use, and what the command line is made of.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::getuid;

use super::control::{Answer, ControlClient, Part, PartEnd, Request};
use super::plan::{
    Age, DEFAULT_POLICY, DEFAULT_VMS, DOM0, Entry, Layout, NAMES, Plan, Source, Transport, apply,
    check_file_name, check_vm_name,
};
use super::report::Report;
use super::sweep::{self, Process};
use super::usb::Usb;
use super::windows::Windows;
use super::{Error, keeper, role, start, store};

/// Collects what a lab is to be; [`Builder::start`] makes it.
#[derive(Debug)]
pub struct Builder {
    plan: Plan,
    name: Option<String>,
}

impl Default for Builder {
    fn default() -> Self {
        let plan = Plan {
            root: PathBuf::new(),
            token: String::new(),
            vms: Vec::new(),
            transport: Transport::default(),
            age: Age::default(),
            user: String::new(),
            policy: DEFAULT_POLICY.to_owned(),
            ask: false,
            exe: PathBuf::new(),
            bin_dir: None,
            entries: Vec::new(),
            env: Vec::new(),
            namespace: true,
            stay: false,
            bare: false,
            windows: None,
            usb: None,
        };
        Self { plan, name: None }
    }
}

impl Builder {
    /// Adds a VM; without any, there are `work` and `vault`.
    #[must_use]
    pub fn vm(mut self, name: &str) -> Self {
        self.plan.vms.push(name.to_owned());
        self
    }

    /// Adds a VM that is Windows, as far as wine is. The whole lab goes over sockets then, without a namespace.
    ///
    /// # Errors
    /// This machine has no wine, or no programs for Windows.
    pub fn windows_vm(mut self, name: &str) -> Result<Self, Error> {
        let windows = self.plan.windows.take().map_or_else(Windows::of_this_machine, Ok)?;
        let vms = windows.vms.iter().cloned().chain([name.to_owned()]).collect();
        self.plan.windows = Some(Windows { vms, ..windows });
        self.plan.transport = Transport::Socket;
        // wine's server tells its programs by their numbers, which are others outside.
        self.plan.namespace = false;
        Ok(self.vm(name))
    }

    /// The text of the policy, in the format of `policy.d`. Default: calls between VMs are allowed, calls to dom0 are not.
    #[must_use]
    pub fn policy(mut self, text: &str) -> Self {
        self.plan.policy = text.to_owned();
        self
    }

    /// The policy may ask the user and tell them, by the `qrexec-policy-agent` that runs in dom0. Default: whatever would
    /// have to be asked is refused.
    #[must_use]
    pub fn ask(mut self, wanted: bool) -> Self {
        self.plan.ask = wanted;
        self
    }

    /// Whether the VMs have the services with which one begins, `qubes.VMShell` among them. Default: they have.
    #[must_use]
    pub fn default_services(mut self, wanted: bool) -> Self {
        self.plan.bare = !wanted;
        self
    }

    /// A service of `vm` (or dom0): a link to an executable, a socket, or `/dev/tcp/…`.
    #[must_use]
    pub fn service(self, vm: &str, name: &str, path: impl Into<PathBuf>) -> Self {
        self.entry(vm, "rpc", name, Source::Link(path.into()))
    }

    /// A service of `vm` (or dom0): an executable file with this text.
    #[must_use]
    pub fn script(self, vm: &str, name: &str, text: &str) -> Self {
        self.entry(vm, "rpc", name, Source::Script(text.to_owned()))
    }

    /// The configuration of a service of `vm`.
    #[must_use]
    pub fn config(self, vm: &str, service: &str, text: &str) -> Self {
        self.entry(vm, "rpc-config", service, Source::Script(text.to_owned()))
    }

    /// The same, a link to a file, which may be edited while the lab runs.
    #[must_use]
    pub fn config_file(self, vm: &str, service: &str, path: impl Into<PathBuf>) -> Self {
        self.entry(vm, "rpc-config", service, Source::Link(path.into()))
    }

    /// A program in the search path of `vm` only.
    #[must_use]
    pub fn program(self, vm: &str, name: &str, text: &str) -> Self {
        self.entry(vm, "bin", name, Source::Script(text.to_owned()))
    }

    fn entry(mut self, vm: &str, folder: &str, name: &str, source: Source) -> Self {
        let path = Path::new("vm").join(vm).join(folder).join(name);
        self.plan.entries.push(Entry { path, source });
        self
    }

    /// What carries the bytes. Default: shared memory.
    #[must_use]
    pub fn transport(mut self, transport: Transport) -> Self {
        self.plan.transport = transport;
        self
    }

    /// Of which age it is. Default: today.
    #[must_use]
    pub fn age(mut self, age: Age) -> Self {
        self.plan.age = age;
        self
    }

    /// In a lab of R2, the policy of a service. Default: VMs may call each other.
    #[must_use]
    pub fn old_policy(self, service: &str, text: &str) -> Self {
        self.entry(DOM0, "policy.d", service, Source::Script(text.to_owned()))
    }

    /// Whether to try for a PID namespace. Default: yes; where the system forbids it, the lab does without.
    #[must_use]
    pub fn namespace(mut self, wanted: bool) -> Self {
        self.plan.namespace = wanted;
        self
    }

    /// The executable that plays every role. Default: this one.
    #[must_use]
    pub fn exe(mut self, path: impl Into<PathBuf>) -> Self {
        self.plan.exe = path.into();
        self
    }

    /// Takes the programs that this folder has from there.
    #[must_use]
    pub fn bin_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.plan.bin_dir = Some(folder.into());
        self
    }

    /// An environment variable for every agent, daemon and command.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.plan.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Where its machines have USB devices from. Default: they have none.
    #[must_use]
    pub fn usb(mut self, usb: Usb) -> Self {
        self.plan.usb = Some(usb);
        self
    }

    /// Gives the lab a name under which others find it, and lets it outlive its starter.
    #[must_use]
    pub fn stay(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self.plan.stay = true;
        self
    }

    /// Builds and starts the lab; returns when every machine answers.
    ///
    /// # Errors
    /// A bad name, a missing service, or what kept an agent or a daemon from starting.
    pub fn start(mut self) -> Result<Lab, Error> {
        self.complete()?;
        self.check()?;
        let folder = store::folder()?;
        let root = self.make_root(&folder)?;
        self.plan.token = format!("{}-{}", root.display(), std::process::id());
        self.plan.root = root;
        let layout = self.plan.layout();
        let started = Lab::launch(&self.plan);
        if started.is_err() {
            let _ = fs::remove_dir_all(layout.root());
        }
        started
    }

    fn complete(&mut self) -> Result<(), Error> {
        if self.plan.vms.is_empty() {
            self.plan.vms = DEFAULT_VMS.map(str::to_owned).to_vec();
        }
        if self.plan.exe.as_os_str().is_empty() {
            self.plan.exe =
                std::env::current_exe().map_err(|error| Error::io("cannot find this executable", error))?;
        }
        self.plan.user = user_name()?;
        Ok(())
    }

    fn check(&mut self) -> Result<(), Error> {
        for (index, vm) in self.plan.vms.iter().enumerate() {
            check_vm_name(vm)?;
            if self.plan.vms.iter().take(index).any(|other| other == vm) {
                return Err(Error::new(format!("there are two machines with the name {vm}")));
            }
        }
        self.plan.usb.as_ref().map_or(Ok(()), |usb| usb.check(&self.plan.vms))?;
        if let Some(folder) = &mut self.plan.bin_dir {
            *folder = absolute(folder)?;
        }
        for (index, entry) in self.plan.entries.iter().enumerate() {
            if self.plan.entries.iter().take(index).any(|other| other.path == entry.path) {
                let mut parts = entry.path.iter().skip(1).map(|part| part.display());
                let (vm, _, name) = (parts.next(), parts.next(), parts.next());
                return Err(Error::new(match (vm, name) {
                    (Some(vm), Some(name)) => format!("{name} of {vm} is given twice"),
                    _ => format!("{} is given twice", entry.path.display()),
                }));
            }
        }
        for entry in &mut self.plan.entries {
            let mut parts = entry.path.iter().skip(1).filter_map(OsStr::to_str);
            let vm = parts.next().unwrap_or_default();
            if vm != DOM0 && !self.plan.vms.iter().any(|name| name == vm) {
                return Err(Error::unknown_vm(vm));
            }
            check_file_name(parts.nth(1).unwrap_or_default())?;
            if parts.next().is_some() {
                return Err(Error::new(format!("{} is not a name", entry.path.display())));
            }
            if let Source::Link(target) = &mut entry.source
                && !target.starts_with("/dev/tcp")
            {
                *target = absolute(target)?;
                if target.is_dir() {
                    return Err(Error::new(format!("{} is a folder, no service", target.display())));
                }
            }
        }
        Ok(())
    }

    fn make_root(&self, folder: &Path) -> Result<PathBuf, Error> {
        let Some(name) = &self.name else {
            let mut unnamed = tempfile::Builder::new();
            unnamed.prefix("run-").rand_bytes(8).permissions(PermissionsExt::from_mode(0o700));
            let made = unnamed.tempdir_in(folder);
            return Ok(made.map_err(|error| Error::io("cannot make the lab's folder", error))?.keep());
        };
        check_vm_name(name)
            .map_err(|_| Error::new(format!("{name:?} cannot be the name of a lab: {NAMES}")))?;
        let root = folder.join(name);
        if let store::Found::Stale = store::look(&Layout::new(&root)) {
            store::bury(&Layout::new(&root));
        }
        match fs::DirBuilder::new().mode(0o700).create(&root) {
            Ok(()) => Ok(root),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(Error::new(format!(
                "the lab {name:?} is already there: end it with \"qrexec-lab down {name}\""
            ))),
            Err(error) => Err(Error::io("cannot make the lab's folder", error)),
        }
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    fs::canonicalize(path).map_err(|error| Error::io(format!("cannot use {}", path.display()), error))
}

/// The name of the user who starts the lab: calls run as that user.
fn user_name() -> Result<String, Error> {
    let asked = Command::new("id").arg("-un").stderr(Stdio::null()).output();
    let name =
        asked.ok().filter(|output| output.status.success()).and_then(|o| String::from_utf8(o.stdout).ok());
    match name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()) {
        Some(name) => Ok(name),
        None => Err(Error::new(format!("user {} has no name", getuid().as_raw()))),
    }
}

/// A running lab. Dropping it ends every process in it, unless it is one that stays.
#[derive(Debug)]
pub struct Lab {
    plan: Plan,
    namespace: bool,
    keeper: Option<Child>,
}

impl Lab {
    /// A lab to be described.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The lab that stays under this name.
    ///
    /// # Errors
    /// There is none, or it is dead.
    pub fn open(name: &str) -> Result<Self, Error> {
        let layout = Layout::new(&store::folder()?.join(name));
        if !matches!(store::look(&layout), store::Found::Alive(_)) {
            return Err(store::missing(name));
        }
        Self::at(&layout)
    }

    /// The running lab in this folder.
    ///
    /// # Errors
    /// There is none.
    pub fn at(layout: &Layout) -> Result<Self, Error> {
        let plan = keeper::read_plan(layout)?;
        Ok(Self { namespace: plan.namespace, plan, keeper: None })
    }

    fn launch(plan: &Plan) -> Result<Self, Error> {
        let text = serde_json::to_vec(plan).map_err(|error| Error::new(error.to_string()))?;
        let file = fs::File::create_new(plan.layout().plan());
        file.and_then(|mut file| file.write_all(&text))
            .map_err(|error| Error::io("cannot write the plan", error))?;
        let mut command = Command::new(&plan.exe);
        command.arg0(role::PROGRAM).arg(role::KEEPER).arg(&plan.root).stdout(Stdio::piped());
        command.stdin(if plan.stay { Stdio::null() } else { Stdio::piped() });
        // What a lab that stays would hold for ever: a lock of its caller's, the writing end of a pipe.
        let _ = engine::process::close_all_on_exec();
        let mut keeper = command.spawn().map_err(|error| Error::io("cannot start the lab", error))?;
        let report = keeper.stdout.take().ok_or_else(|| Error::new("the lab does not report"));
        match report.and_then(Report::receive) {
            Ok(Report::Ready { namespace }) => {
                Ok(Self { plan: plan.clone(), namespace, keeper: Some(keeper) })
            }
            Ok(Report::Failed(why)) => Err(abandon(keeper, Error::new(why))),
            Err(error) => Err(abandon(keeper, error)),
        }
    }

    /// What the lab consists of.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where everything is.
    pub fn layout(&self) -> Layout {
        self.plan.layout()
    }

    /// Whether the lab has a PID namespace of its own.
    pub fn has_namespace(&self) -> bool {
        self.namespace
    }

    /// A command in machine `vm` that the caller starts itself, as its own child outside of the lab's namespace: the
    /// quickest way to make a call. It ends with the lab nevertheless.
    ///
    /// # Errors
    /// There is no such machine, or `argv` is empty.
    pub fn command<S: AsRef<OsStr>>(
        &self,
        vm: &str,
        argv: impl IntoIterator<Item = S>,
    ) -> Result<Command, Error> {
        let env = self.plan.environment(vm)?;
        let mut argv = argv.into_iter();
        let program = argv.next().ok_or_else(|| Error::new("a command is needed"))?;
        let found = start::find(program.as_ref(), &env);
        let mut command = Command::new(found.as_deref().map_or(program.as_ref(), Path::as_os_str));
        command.args(argv).current_dir(self.layout().home(vm));
        apply(&mut command, &env);
        Ok(command)
    }

    /// All processes of the lab that carry its marker.
    pub fn processes(&self) -> Vec<Process> {
        sweep::processes(&self.plan.token)
    }

    /// Ends a part of a machine if it runs, starts it again, and returns when it answers.
    ///
    /// # Errors
    /// There is no such VM, or the part does not come back.
    pub fn restart(&self, vm: &str, part: Part) -> Result<(), Error> {
        let mut client = self.connect()?;
        client.send(&Request::Restart { vm: vm.to_owned(), part }, &[])?;
        match client.answer()? {
            Answer::Ready => Ok(()),
            Answer::Failed { why, .. } => Err(Error::new(why)),
            Answer::Exited(_) | Answer::Ended(_) => Err(Error::new("the lab answers nonsense")),
        }
    }

    /// The agents and daemons that have ended and were not started again; none if the lab does not say.
    pub(super) fn ended(&self) -> Vec<PartEnd> {
        let asked = self.connect().and_then(|mut client| {
            client.send(&Request::Ended, &[])?;
            client.answer()
        });
        match asked {
            Ok(Answer::Ended(ended)) => ended,
            _ => Vec::new(),
        }
    }

    pub(super) fn connect(&self) -> Result<ControlClient, Error> {
        ControlClient::connect(&self.layout().control())
    }

    /// Starts a command inside the lab on these streams; the connection tells when it ends.
    pub(super) fn begin(
        &self,
        run: super::control::Run,
        streams: [BorrowedFd<'_>; 3],
    ) -> Result<ControlClient, Error> {
        let mut client = self.connect()?;
        client.send(&Request::Run(run), &streams)?;
        Ok(client)
    }

    /// Ends the lab and waits until it is gone. The same as dropping it, with a word about what went wrong.
    ///
    /// # Errors
    /// The keeper failed to clean up.
    pub fn down(mut self) -> Result<(), Error> {
        if self.plan.stay {
            self.keeper = None;
            return store::end(&self.layout());
        }
        match self.keeper.take().map(end) {
            Some(Err(error)) => Err(Error::io("cannot wait for the lab's end", error)),
            Some(Ok(false)) => Err(Error::new("the lab's keeper was killed; its leftovers were swept")),
            Some(Ok(true)) | None => Ok(()),
        }
        .inspect_err(|_| store::bury(&self.layout()))
    }

    /// The variables that make a process part of machine `vm`.
    ///
    /// # Errors
    /// There is no such machine.
    pub fn environment(&self, vm: &str) -> Result<Vec<(OsString, Option<OsString>)>, Error> {
        self.plan.environment(vm)
    }
}

/// Cuts the lifeline and waits for the keeper; whether it ended well.
fn end(mut keeper: Child) -> std::io::Result<bool> {
    drop(keeper.stdin.take());
    Ok(keeper.wait()?.success())
}

fn abandon(keeper: Child, error: Error) -> Error {
    let _ = end(keeper);
    error
}

impl Drop for Lab {
    fn drop(&mut self) {
        let Some(keeper) = self.keeper.take() else { return };
        if !self.plan.stay && !matches!(end(keeper), Ok(true)) {
            store::bury(&self.layout());
        }
    }
}
