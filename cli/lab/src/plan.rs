//! What a lab consists of: its machines, its folders, its environment. Pure data; [`super::tree`] makes the folders.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;
use super::usb::Usb;
use super::windows::{Windows, WindowsRooms};

/// The name of the administrative machine. It always exists and has id 0.
pub const DOM0: &str = "dom0";

/// Set to the lab's token in every process of a lab, so that a sweep of `/proc` finds what escaped every other net.
pub const MARKER: &str = "QUBES_LAB";

/// Set to the machine's name in every process of a lab.
pub const MARKER_VM: &str = "QUBES_LAB_VM";

/// Calls between the lab's VMs are allowed, calls to dom0 are not: dom0 of a lab is the user's own account.
pub const DEFAULT_POLICY: &str = "* * @anyvm @anyvm allow\n";

/// The machines of a lab for which none was named.
pub const DEFAULT_VMS: [&str; 2] = ["work", "vault"];

/// The transport under the rings of a lab.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Sealed shared memory and a doorbell socket: the embedded default.
    #[default]
    Shm,
    /// A plain unix stream, as upstream's test double speaks it.
    Socket,
}

/// Of which age a lab is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Age {
    /// Today.
    #[default]
    Now,
    /// Programs of VMs ask as in R2, and agents and daemons speak its protocol.
    R2,
    /// Programs of VMs may ask as in R2; agents and daemons are of today.
    #[value(name = "r2-api")]
    R2Api,
}

/// How a service of a machine comes to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A symbolic link to this path (which may be `/dev/tcp/…`).
    Link(PathBuf),
    /// An executable file with this text.
    Script(String),
}

/// A file that the lab writes before anything starts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Path below the lab's folder.
    pub path: PathBuf,
    /// What the file is.
    pub source: Source,
}

/// Everything that the supervisor needs to know to build and start a lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The lab's own folder, absolute, private (0700).
    pub root: PathBuf,
    /// Value of [`MARKER`] in the processes of this lab: unique on this machine.
    pub token: String,
    /// Names of the VMs; the first has id 1.
    pub vms: Vec<String>,
    /// The transport under the rings.
    pub transport: Transport,
    /// Its age.
    #[serde(default)]
    pub age: Age,
    /// The user that calls run as: the one who started the lab.
    pub user: String,
    /// Text of the only policy file.
    pub policy: String,
    /// Whether dom0 shows the VMs' windows, and so asks and tells the user.
    #[serde(default)]
    pub ask: bool,
    /// The executable that plays every role.
    pub exe: PathBuf,
    /// Where other builds of the programs are taken from, if not from `exe`.
    pub bin_dir: Option<PathBuf>,
    /// Services, configurations and programs.
    pub entries: Vec<Entry>,
    /// Additional environment of agents, daemons and commands.
    pub env: Vec<(String, String)>,
    /// Whether the lab gets a PID namespace of its own.
    pub namespace: bool,
    /// Whether the lab outlives the process that started it.
    pub stay: bool,
    /// Whether its VMs have no services but those of `entries`.
    #[serde(default)]
    pub bare: bool,
    /// Those of its VMs that are Windows.
    #[serde(default)]
    pub windows: Option<Windows>,
    /// Where its machines have USB devices from, if they have any.
    #[serde(default)]
    pub usb: Option<Usb>,
}

impl Plan {
    /// The numeric id of a machine: 0 for dom0, 1 for the first VM.
    pub fn id(&self, vm: &str) -> Option<u32> {
        if vm == DOM0 {
            return Some(0);
        }
        let index = self.vms.iter().position(|name| name == vm)?;
        u32::try_from(index).ok()?.checked_add(1)
    }

    /// Whether a VM is Windows, and what that takes.
    pub fn windows(&self, vm: &str) -> Option<&Windows> {
        self.windows.as_ref().filter(|windows| windows.vms.iter().any(|name| name == vm))
    }

    /// The folders of this lab.
    pub fn layout(&self) -> Layout {
        Layout::new(&self.root)
    }

    /// Environment changes that make a process part of machine `vm`: a value, or `None` for a variable to remove.
    pub fn environment(&self, vm: &str) -> Result<Vec<(OsString, Option<OsString>)>, Error> {
        let id = self.id(vm).ok_or_else(|| Error::unknown_vm(vm))?;
        let layout = self.layout();
        let mut env = Environment(Vec::new());
        env.set(MARKER, &self.token);
        env.set(MARKER_VM, vm);
        env.set("QREXEC_INSTALLATION", "lab");
        env.set("VCHAN_DOMAIN", id.to_string());
        match self.transport {
            Transport::Shm => {
                env.set("QREXEC_TRANSPORT", "shm");
                env.set("QREXEC_SHM_DIR", layout.shm());
                env.unset("VCHAN_SOCKET_DIR");
            }
            Transport::Socket => {
                env.set("QREXEC_TRANSPORT", "socket");
                env.set("VCHAN_SOCKET_DIR", layout.vchan());
                env.unset("QREXEC_SHM_DIR");
            }
        }
        env.set("QREXEC_SERVICE_PATH", layout.services(vm));
        env.set("QUBES_RPC_CONFIG_PATH", layout.config(vm));
        env.set("QREXEC_LOG_DIR", layout.log(vm));
        env.set("HOME", layout.home(vm));
        env.set("PATH", search_path(&[layout.programs(vm), layout.bin()]));
        if id == 0 {
            env.set("QREXEC_SOCKET_DIR", layout.sockets());
            env.set("QREXEC_POLICY_DIR", layout.policy());
            if self.age == Age::R2 {
                // Its policy is of that age, too.
                env.set("QREXEC_POLICY_DIR", layout.root().join("none"));
                env.set("QREXEC_OLD_POLICY_DIR", layout.policy());
            }
            env.set("QREXEC_SYSTEM_INFO", layout.system_info());
            env.set("QREXEC_POLICY_AGENT_SOCKET", layout.policy_agent());
            env.unset("QREXEC_AGENT_SOCKET");
        } else {
            env.set("QREXEC_AGENT_SOCKET", layout.agent_place(self.age, vm));
            for name in ["QREXEC_SOCKET_DIR", "QREXEC_POLICY_DIR", "QREXEC_SYSTEM_INFO"] {
                env.unset(name);
            }
        }
        if self.windows(vm).is_some() {
            for (name, value) in WindowsRooms::new(layout.machine(vm)).environment() {
                env.set(name, value);
            }
        }
        if self.usb.as_ref().is_some_and(Usb::is_simulated)
            && let Some(machines) = layout.machine(vm).parent()
        {
            env.set("QUBES_USB_ROOT", machines);
        }
        for (name, value) in &self.env {
            env.set(name, value);
        }
        Ok(env.0)
    }

    /// The system as the policy engine wants it: dom0 and the VMs, all running.
    pub fn system_info(&self) -> serde_json::Value {
        let guivm = self.ask.then_some(DOM0);
        let domain = |name: &str, kind: &str, id: u32| {
            serde_json::json!({
                "name": name, "type": kind, "tags": [], "template_for_dispvms": false, "default_dispvm": null,
                "power_state": "Running", "icon": "", "internal": false, "guivm": guivm, "label": "gray",
                "relayvm": null, "transport_rpc": null, "uuid": uuid(id),
            })
        };
        let mut domains = serde_json::Map::new();
        domains.insert(DOM0.to_owned(), domain(DOM0, "AdminVM", 0));
        for (id, name) in (1u32..).zip(&self.vms) {
            domains.insert(name.clone(), domain(name, "AppVM", id));
        }
        serde_json::json!({ "domains": domains })
    }
}

/// The UUID of the machine with this id; dom0's is all zeros, as everywhere.
pub(super) fn uuid(id: u32) -> String {
    format!("00000000-0000-0000-0000-{id:012x}")
}

struct Environment(Vec<(OsString, Option<OsString>)>);

impl Environment {
    fn set(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) {
        self.0.push((name.into(), Some(value.into())));
    }
    fn unset(&mut self, name: &str) {
        self.0.push((name.into(), None));
    }
}

/// `first` in front of the caller's search path, or of the usual folders where the caller has none.
fn search_path(first: &[PathBuf]) -> OsString {
    let inherited = std::env::var_os("PATH").filter(|path| !path.is_empty());
    let inherited = inherited.unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let mut joined = OsString::new();
    for folder in first {
        joined.push(folder);
        joined.push(":");
    }
    joined.push(inherited);
    joined
}

/// Names of a lab's folders and files. The names are short because other people's programs put them into socket
/// addresses of 108 bytes.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout below `root`.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }
    /// The lab's own folder.
    pub fn root(&self) -> &Path {
        &self.root
    }
    /// The description that the lab was built from.
    pub fn plan(&self) -> PathBuf {
        self.root.join("plan.json")
    }
    /// Locked while the lab's keeper lives.
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }
    /// What the lab's own processes have to say.
    pub fn log_file(&self) -> PathBuf {
        self.root.join("lab.log")
    }
    /// Where the supervisor takes requests.
    pub fn control(&self) -> PathBuf {
        self.root.join("control")
    }
    /// The programs, as links.
    pub fn bin(&self) -> PathBuf {
        self.root.join("bin")
    }
    /// Meeting place of the shm transport.
    pub fn shm(&self) -> PathBuf {
        self.root.join("shm")
    }
    /// Meeting place of the socket transport.
    pub fn vchan(&self) -> PathBuf {
        self.root.join("vchan")
    }
    /// Everything that belongs to one machine.
    pub fn machine(&self, vm: &str) -> PathBuf {
        self.root.join("vm").join(vm)
    }
    /// The socket on which a VM's agent takes requests.
    pub fn agent_socket(&self, vm: &str) -> PathBuf {
        self.machine(vm).join("agent")
    }
    /// Where programs of a VM ask.
    pub fn agent_place(&self, age: Age, vm: &str) -> PathBuf {
        if age == Age::R2 { self.old_api(vm).join("qrexec-agent") } else { self.agent_socket(vm) }
    }
    /// A VM's FIFO of R2 and the socket beside it.
    pub fn old_api(&self, vm: &str) -> PathBuf {
        self.machine(vm).join("api")
    }
    /// A machine's services.
    pub fn services(&self, vm: &str) -> PathBuf {
        self.machine(vm).join("rpc")
    }
    /// A machine's service configurations.
    pub fn config(&self, vm: &str) -> PathBuf {
        self.machine(vm).join("rpc-config")
    }
    /// A machine's home folder.
    pub fn home(&self, vm: &str) -> PathBuf {
        self.machine(vm).join("home")
    }
    /// Programs of one machine only.
    pub fn programs(&self, vm: &str) -> PathBuf {
        self.machine(vm).join("bin")
    }
    /// A machine's logs.
    pub fn log(&self, vm: &str) -> PathBuf {
        self.machine(vm).join("log")
    }
    /// dom0: the sockets of the daemons.
    pub fn sockets(&self) -> PathBuf {
        self.machine(DOM0).join("run")
    }
    /// dom0: the socket of one VM's daemon, by the VM's name.
    pub fn daemon_socket(&self, vm: &str) -> PathBuf {
        self.sockets().join(format!("qrexec.{vm}"))
    }
    /// dom0: the policy files.
    pub fn policy(&self) -> PathBuf {
        self.machine(DOM0).join("policy.d")
    }
    /// dom0: where the policy's questions to the user are taken.
    pub fn policy_agent(&self) -> PathBuf {
        self.sockets().join("policy-agent.sock")
    }
    /// dom0: what the policy engine knows about the machines.
    pub fn system_info(&self) -> PathBuf {
        self.machine(DOM0).join("system.json")
    }
}

/// What a VM, or a lab, can be called.
pub(super) const NAMES: &str = "at most 31 of A-Z, a-z, 0-9, `_`, `.` and `-`, a letter first";

/// Checks that `name` can be a VM of a lab: at most, as upstream says, 31 of `[A-Za-z0-9_.-]`, a letter first, not dom0.
pub(super) fn check_vm_name(name: &str) -> Result<(), Error> {
    let letter_first = name.starts_with(|c: char| c.is_ascii_alphabetic());
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if letter_first && plain && name.len() <= 31 && name != DOM0 {
        return Ok(());
    }
    let why = if name == DOM0 { "that is the one that every lab has" } else { NAMES };
    Err(Error::new(format!("{name:?} cannot be the name of a VM: {why}")))
}

/// Checks that `name` can be a file of a service folder: one path component, no separator, not hidden.
pub(super) fn check_file_name(name: &str) -> Result<(), Error> {
    let parts_ok = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0']);
    if parts_ok {
        Ok(())
    } else {
        Err(Error::new(format!("{name:?} cannot be the name of a service: no `/`, no `.` in front")))
    }
}

/// Applies an environment from [`Plan::environment`] to a command.
pub(super) fn apply(command: &mut std::process::Command, env: &[(OsString, Option<OsString>)]) {
    for (name, value) in env {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
}

/// The role that a file name or argv\[0\] stands for: its last component.
pub(super) fn base_name(path: &OsStr) -> &OsStr {
    Path::new(path).file_name().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn plan() -> Plan {
        Plan {
            root: "/lab".into(),
            token: "t".into(),
            vms: vec!["work".into(), "vault".into()],
            transport: Transport::Shm,
            age: Age::Now,
            user: "user".into(),
            ask: false,
            policy: DEFAULT_POLICY.into(),
            exe: "/exe".into(),
            bin_dir: None,
            entries: Vec::new(),
            env: vec![("QREXEC_ENGINE".into(), "poll".into())],
            namespace: true,
            stay: false,
            bare: false,
            windows: None,
            usb: None,
        }
    }

    fn value(env: &[(OsString, Option<OsString>)], name: &str) -> Option<Option<OsString>> {
        env.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }

    #[test]
    fn ids_count_from_dom0() {
        assert_eq!(plan().id("dom0"), Some(0));
        assert_eq!(plan().id("vault"), Some(2));
        assert_eq!(plan().id("nobody"), None);
    }

    #[test]
    fn a_vm_sees_its_agent_and_not_dom0() {
        let env = plan().environment("vault").unwrap();
        assert_eq!(value(&env, "VCHAN_DOMAIN"), Some(Some("2".into())));
        assert_eq!(value(&env, "QREXEC_AGENT_SOCKET"), Some(Some("/lab/vm/vault/agent".into())));
        assert_eq!(value(&env, "QREXEC_POLICY_DIR"), Some(None));
        assert_eq!(value(&env, "QREXEC_ENGINE"), Some(Some("poll".into())));
        let path = value(&env, "PATH").flatten().unwrap().into_string().unwrap();
        assert!(path.starts_with("/lab/vm/vault/bin:/lab/bin:"));
    }

    #[test]
    fn transports_exclude_each_other() {
        let socket = Plan { transport: Transport::Socket, ..plan() }.environment("work").unwrap();
        assert_eq!(value(&socket, "QREXEC_SHM_DIR"), Some(None));
        assert_eq!(value(&socket, "VCHAN_SOCKET_DIR"), Some(Some("/lab/vchan".into())));
        let shm = plan().environment("work").unwrap();
        assert_eq!(value(&shm, "VCHAN_SOCKET_DIR"), Some(None));
    }

    #[test]
    fn names_are_checked() {
        for bad in ["", "dom0", "9lives", "a/b", "a b", "..", &"x".repeat(32)] {
            assert!(check_vm_name(bad).is_err(), "{bad:?}");
        }
        assert!(check_vm_name("sys-net.2_a").is_ok());
        assert!(check_file_name("../x").is_err());
        assert!(check_file_name("test.Add+arg").is_ok());
    }

    #[test]
    fn the_system_names_every_machine() {
        let info = plan().system_info();
        assert_eq!(info["domains"]["dom0"]["type"], "AdminVM");
        assert_eq!(info["domains"]["vault"]["power_state"], "Running");
        assert_eq!(info["domains"].as_object().unwrap().len(), 3);
    }
}
