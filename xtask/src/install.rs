//! `cargo xtask install`: puts the programs and everything around them where a system expects them.
//!
//! One executable is installed whose name decides what it does; the programs are links to it, but for those that every
//! call starts or forks, which are executables of their own.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::lean::{self, Built};
use crate::logins::{DEBIANS, Logins};
use crate::steps::{Failure, cargo, root, step};

/// Which half of the system gets its programs.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Side {
    /// A qube
    Vm,
    /// dom0
    Dom0,
    /// Both
    All,
    /// The programs that people type and the services behind them, for a qube without upstream's: with those, other
    /// packages have these files
    Tools,
    /// A machine on which calls are tried and measured: the lab and the benchmark, which neither dom0 nor a qube has
    Lab,
    /// A qube that has USB devices or gets those of others; it has the programs of a qube, too
    Usb,
}

impl Side {
    fn wants(self, other: Side) -> bool {
        match (self, other) {
            (Side::Lab | Side::Tools | Side::Usb, _) | (_, Side::Lab | Side::Tools | Side::Usb) => {
                self == other
            }
            (Side::All, _) | (_, Side::All) => true,
            _ => self == other,
        }
    }

    /// Whether its installation makes a group and starts units.
    pub(crate) fn has_group(self) -> bool {
        !matches!(self, Side::Lab | Side::Tools)
    }

    /// Whether an agent is installed that opens sessions for users.
    pub(crate) fn has_logins(self) -> bool {
        self.wants(Side::Vm)
    }

    /// Its links to what comes to be later: where they are, where they lead.
    pub(crate) fn links(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        LINKS.iter().filter(move |(side, ..)| self.wants(*side)).map(|(_, path, to)| (*path, *to))
    }

    /// Its programs, below the prefix.
    pub(crate) fn programs(self) -> impl Iterator<Item = &'static str> {
        PROGRAMS.iter().filter(move |(side, _)| self.wants(*side)).map(|(_, path)| *path)
    }

    /// Files that administrators may edit.
    pub(crate) fn conffiles(self) -> impl Iterator<Item = &'static str> {
        self.files().filter(|path| path.starts_with("/etc/") && FILES.iter().any(|(.., file)| file == path))
    }

    /// What systemd makes folders by.
    pub(crate) fn tmpfiles(self) -> impl Iterator<Item = &'static str> {
        self.files().filter_map(|path| path.strip_prefix("lib/tmpfiles.d/"))
    }

    /// Its units that start with the system.
    pub(crate) fn units(self) -> impl Iterator<Item = &'static str> {
        UNITS.iter().filter(move |(side, _)| self.wants(*side)).map(|(_, unit)| *unit)
    }

    /// Its folders that the group `qubes` writes.
    pub(crate) fn shared(self) -> impl Iterator<Item = &'static str> {
        SHARED.iter().filter(move |(side, _)| self.wants(*side)).map(|(_, path)| *path)
    }

    /// Everything that is installed for it but manual pages and completions; below the prefix, or absolute.
    pub(crate) fn files(self) -> impl Iterator<Item = &'static str> {
        let files = FILES.iter().filter(move |(side, ..)| self.wants(*side)).map(|(.., path)| *path);
        let folders = FOLDERS.iter().filter(move |(side, _)| self.wants(*side)).map(|(_, path)| *path);
        self.programs().chain(files).chain(folders)
    }
}

/// Where to install what.
#[derive(Args)]
pub(crate) struct Options {
    /// Programs, manual pages and completions go below this folder
    #[arg(long, default_value = "/usr/local", value_name = "DIR")]
    prefix: PathBuf,
    /// Put in front of every path: the root of a package or of a chroot
    #[arg(long, default_value = "/", value_name = "DIR")]
    destdir: PathBuf,
    /// What to install
    #[arg(long, value_enum, default_value = "all")]
    side: Side,
    /// Without PAM sessions for the users of calls, which need libpam to build with
    #[arg(long)]
    no_pam: bool,
}

/// The programs: side, path below the prefix. A qube may show the windows of others and ask for them, or be where policy
/// is written: it has the policy's programs too.
const PROGRAMS: &[(Side, &str)] = &[
    (Side::Vm, "lib/qubes/qrexec-agent"),
    (Side::Vm, "bin/qrexec-client-vm"),
    (Side::Vm, "lib/qubes/qrexec-client-vm"),
    (Side::Vm, "lib/qubes/qrexec_client_vm"),
    (Side::Vm, "bin/qrexec-fork-server"),
    (Side::Dom0, "sbin/qrexec-daemon"),
    (Side::Dom0, "bin/qrexec-client"),
    (Side::Dom0, "lib/qubes/qrexec-client"),
    (Side::Dom0, "bin/qrexec-policy-eval"),
    (Side::All, "lib/qubes/qubes-rpc-multiplexer"),
    (Side::All, "bin/qrexec-policy"),
    (Side::All, "bin/qrexec-policy-agent"),
    (Side::All, "bin/qrexec-policy-daemon"),
    (Side::All, "bin/qrexec-policy-exec"),
    (Side::All, "bin/qrexec-policy-graph"),
    (Side::All, "bin/qrexec-policy-restore"),
    (Side::All, "bin/qrexec-legacy-convert"),
    (Side::All, "bin/qubes-policy"),
    (Side::All, "bin/qubes-policy-admin"),
    (Side::All, "bin/qubes-policy-editor"),
    (Side::All, "bin/qubes-policy-lint"),
    (Side::Tools, "bin/qrexec-remote"),
    (Side::Tools, "bin/qvm-connect-tcp"),
    (Side::Tools, "bin/qvm-get-image"),
    (Side::Tools, "bin/qvm-open-in-dvm"),
    (Side::Tools, "bin/qvm-open-in-vm"),
    (Side::Tools, "bin/qvm-run"),
    (Side::Tools, "bin/qvm-run-vm"),
    (Side::Tools, "bin/qubes-vmexec"),
    (Side::Tools, "lib/qubes/qubes-sync-clock"),
    (Side::Lab, "bin/qrexec-lab"),
    (Side::Lab, "bin/qrexec-bench"),
    (Side::Lab, "bin/qrexec-usb-sim"),
    (Side::Usb, "lib/qubes/usb-detach-all"),
    (Side::Usb, "lib/qubes/usb-export"),
    (Side::Usb, "lib/qubes/usb-import"),
];

/// Services that the executable provides itself, by name.
const SERVICES: &[(Side, &[&str])] = &[(Side::Dom0, POLICY_SERVICES), (Side::Usb, USB_SERVICES)];

const USB_SERVICES: &[&str] = &["qubes.USB", "qubes.USBAttach", "qubes.USBDetach"];

const POLICY_SERVICES: &[&str] = &[
    "policy.Get",
    "policy.GetFiles",
    "policy.List",
    "policy.RegisterArgument",
    "policy.Remove",
    "policy.Replace",
    "policy.include.Get",
    "policy.include.List",
    "policy.include.Remove",
    "policy.include.Replace",
];

/// The executables of the tools, and which programs and services each of them is by name.
const TOOLS: &[(&str, &[&str])] = &[
    (
        "qrexec-run",
        &[
            "qubes-sync-clock",
            "qubes-vmexec",
            "qubes.GetDate",
            "qubes.Log",
            "qubes.SetDateTime",
            "qubes.VMExec",
            "qubes.VMExecGUI",
            "qubes.VMRootExec",
            "qvm-connect-tcp",
            "qvm-run",
            "qvm-run-vm",
        ],
    ),
    ("qrexec-remote", &["qrexec-remote", "qubesair.SSHProxy"]),
    (
        "qrexec-open",
        &["qubes.OpenInVM", "qubes.OpenURL", "qvm-get-image", "qvm-open-in-dvm", "qvm-open-in-vm"],
    ),
];

/// Links to sockets and ports: side, where they are, where they lead. Who asks the user, in dom0 or a GUI qube, is in the session of that user.
const LINKS: &[(Side, &str, &str)] = &[
    (Side::All, "/etc/qubes-rpc/policy.Ask", POLICY_AGENT),
    (Side::All, "/etc/qubes-rpc/policy.New", POLICY_AGENT),
    (Side::All, "/etc/qubes-rpc/policy.Notify", POLICY_AGENT),
    (Side::Tools, "/etc/qubes-rpc/qubes.ConnectTCP", "/dev/tcp/127.0.0.1"),
    (Side::Tools, "/etc/qubes-rpc/qubes.UpdatesProxy", "/dev/tcp/127.0.0.1/8082"),
    (Side::Usb, "/etc/qubes/suspend-pre.d/usb-detach-all.sh", "/usr/lib/qubes/usb-detach-all"),
];

/// Where `qrexec-policy-agent` takes questions.
const POLICY_AGENT: &str = "/var/run/qubes/policy-agent.sock";

/// Files of `dist`: side, name there, where it goes. What begins with `/` is not below the prefix. A script there is one
/// here.
const FILES: &[(Side, &str, &str)] = &[
    (Side::Vm, DEBIANS, "/etc/pam.d/qrexec"),
    (Side::All, "qubes-rpc/qubes.WaitForSession", "/etc/qubes-rpc/qubes.WaitForSession"),
    (Side::Tools, "qubes-rpc/qubes.VMShell", "/etc/qubes-rpc/qubes.VMShell"),
    (Side::Tools, "qubes-rpc/qubes.VMShell", "/etc/qubes-rpc/qubes.VMRootShell"),
    (Side::Tools, "man/qrexec-services.7", "share/man/man7/qrexec-services.7"),
    (Side::All, "man/policy.d.5", "share/man/man5/policy.d.5"),
    (Side::All, "man/rpc-config.5", "share/man/man5/rpc-config.5"),
    (Side::Tools, "rpc-config/qubes.ConnectTCP", "/etc/qubes/rpc-config/qubes.ConnectTCP"),
    (Side::Tools, "rpc-config/qubes.OpenInVM", "/etc/qubes/rpc-config/qubes.OpenInVM"),
    (Side::Tools, "rpc-config/qubes.OpenURL", "/etc/qubes/rpc-config/qubes.OpenURL"),
    (Side::Tools, "rpc-config/qubes.UpdatesProxy", "/etc/qubes/rpc-config/qubes.UpdatesProxy"),
    (Side::Tools, "rpc-config/qubes.VMExecGUI", "/etc/qubes/rpc-config/qubes.VMExecGUI"),
    (Side::Tools, "rpc-config/qubes.VMRootExec", "/etc/qubes/rpc-config/qubes.VMRootExec"),
    (Side::Tools, "rpc-config/qubes.VMRootShell", "/etc/qubes/rpc-config/qubes.VMRootShell"),
    (
        Side::Tools,
        "rpc-config/qubes.VMShell+WaitForSession",
        "/etc/qubes/rpc-config/qubes.VMShell+WaitForSession",
    ),
    (Side::All, "libexec/qrexec-policy-agent-autostart", "lib/qubes/qrexec-policy-agent-autostart"),
    (Side::Vm, "systemd/qubes-qrexec-agent.service", "lib/systemd/system/qubes-qrexec-agent.service"),
    (
        Side::Vm,
        "systemd/qubes-qrexec-fork-server.service",
        "lib/systemd/user/qubes-qrexec-fork-server.service",
    ),
    (Side::Dom0, "systemd/qubes-qrexec-daemon@.service", "lib/systemd/system/qubes-qrexec-daemon@.service"),
    (
        Side::Dom0,
        "systemd/qubes-qrexec-policy-daemon.service",
        "lib/systemd/system/qubes-qrexec-policy-daemon.service",
    ),
    (Side::All, "xdg/qrexec-policy-agent.desktop", "/etc/xdg/autostart/qrexec-policy-agent.desktop"),
    (Side::Dom0, "logrotate.d/qrexec", "/etc/logrotate.d/qrexec"),
    (Side::Dom0, "tmpfiles.d/qrexec.conf", "lib/tmpfiles.d/qrexec.conf"),
    (Side::Usb, "rpc-config/qubes.USB", "/etc/qubes/rpc-config/qubes.USB"),
    (Side::All, "tmpfiles.d/qrexec-services.conf", "lib/tmpfiles.d/qrexec-services.conf"),
];

/// Folders that administrators fill.
const FOLDERS: &[(Side, &str)] = &[
    (Side::All, "/etc/qubes-rpc"),
    (Side::All, "/etc/qubes/rpc-config"),
    (Side::Dom0, "/etc/qubes/policy.d"),
    (Side::Dom0, "/etc/qubes/policy.d/include"),
    (Side::Dom0, "/var/log/qubes"),
];

/// Units that start with the system.
const UNITS: &[(Side, &str)] =
    &[(Side::Vm, "qubes-qrexec-agent.service"), (Side::Dom0, "qubes-qrexec-policy-daemon.service")];

/// Folders that the group `qubes` writes.
const SHARED: &[(Side, &str)] =
    &[(Side::Dom0, "/etc/qubes/policy.d"), (Side::Dom0, "/etc/qubes/policy.d/include")];

/// Where the executable goes, below the prefix.
const EXECUTABLE: &str = "lib/qubes/qrexec";

/// Builds and installs.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    if !options.prefix.is_absolute() {
        return Err(format!("{}: the prefix must be an absolute path", options.prefix.display()));
    }
    let built = match options.side {
        Side::Lab => lean::build_lab()?,
        Side::Tools => lean::build_tools()?,
        side => lean::build(side.has_logins() && !options.no_pam)?,
    };
    let logins = Logins::of(&options.destdir);
    let tree = Tree { prefix: &options.prefix, destdir: &options.destdir, side: options.side, logins };
    tree.fill(&built)
}

/// One installation.
pub(crate) struct Tree<'a> {
    pub(crate) prefix: &'a Path,
    pub(crate) destdir: &'a Path,
    pub(crate) side: Side,
    pub(crate) logins: Logins,
}

impl Tree<'_> {
    /// Installs what was built, and everything around it.
    pub(crate) fn fill(&self, built: &Built) -> Result<(), Failure> {
        self.install(built, &root().join("dist"))?;
        let programs = self.side.programs().filter_map(|program| program.rsplit('/').next());
        let mut manual = cargo(["run", "-q", "-p", "qrexec-manual", "--"]);
        step("manual pages and completions", manual.arg(self.place("share")).args(programs))
    }

    fn install(&self, built: &Built, dist: &Path) -> Result<(), Failure> {
        if self.side == Side::Tools {
            self.tools(built)?;
        // What is for USB comes to a qube's programs.
        } else if !matches!(self.side, Side::Lab | Side::Usb) {
            write(&self.place(EXECUTABLE), &read(&built.all)?, 0o755)?;
        }
        for path in self.side.programs() {
            self.program(path, built)?;
        }
        let services = SERVICES.iter().filter(|(side, _)| self.side.wants(*side));
        for name in services.flat_map(|(_, names)| *names) {
            link(&self.prefix.join(EXECUTABLE), &self.place(&format!("/etc/qubes-rpc/{name}")))?;
        }
        for (path, to) in self.side.links() {
            link(Path::new(to), &self.place(path))?;
        }
        for (_, name, path) in FILES.iter().filter(|(side, ..)| self.side.wants(*side)) {
            self.file(dist, name, path)?;
        }
        for (_, path) in FOLDERS.iter().filter(|(side, _)| self.side.wants(*side)) {
            folder(&self.place(path))?;
        }
        Ok(())
    }

    /// The executables of the tools, and the services that they are by name.
    fn tools(&self, built: &Built) -> Result<(), Failure> {
        for (executable, names) in TOOLS {
            let path = format!("lib/qubes/{executable}");
            let from = built.own(executable).unwrap_or(&built.all);
            write(&self.place(&path), &read(from)?, 0o755)?;
            for name in names.iter().filter(|name| name.contains('.')) {
                link(&self.prefix.join(&path), &self.place(&format!("/etc/qubes-rpc/{name}")))?;
            }
        }
        Ok(())
    }

    /// Installs a file of `dist`.
    fn file(&self, dist: &Path, name: &str, path: &str) -> Result<(), Failure> {
        let from = dist.join(if name == DEBIANS { self.logins.file() } else { name });
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", from.display());
        let text = String::from_utf8(read(&from)?).map_err(|error| failed(&error))?;
        let text = if name == DEBIANS { self.logins.fit(&text) } else { text };
        let text = text.replace("@prefix@", &self.prefix.display().to_string());
        let mode = fs::metadata(&from).map_err(|error| failed(&error))?.permissions().mode();
        write(&self.place(path), text.as_bytes(), if mode & 0o100 == 0 { 0o644 } else { 0o755 })
    }

    /// Installs a program: its own executable in `lib/qubes` and a link to that in other places, or a link to the one
    /// that is all of them. Those of the lab are executables where they are typed.
    fn program(&self, path: &str, built: &Built) -> Result<(), Failure> {
        let last = path.rsplit('/').next().unwrap_or(path);
        if let Some((executable, _)) = TOOLS.iter().find(|(_, names)| names.contains(&last)) {
            return link(&relative(path, &format!("lib/qubes/{executable}")), &self.place(path));
        }
        // The oldest name of a program has underscores.
        let name = path.rsplit('/').next().unwrap_or(path).replace('_', "-");
        let home = if self.side == Side::Lab { path.to_owned() } else { format!("lib/qubes/{name}") };
        match built.own(&name) {
            Some(executable) if path == home => write(&self.place(path), &read(executable)?, 0o755),
            Some(_) => link(&relative(path, &home), &self.place(path)),
            // The lab is all of its programs.
            None if self.side == Side::Lab => link(Path::new("qrexec-lab"), &self.place(path)),
            None => link(&relative(path, EXECUTABLE), &self.place(path)),
        }
    }

    /// Where a path goes on this machine.
    fn place(&self, path: &str) -> PathBuf {
        let path = self.prefix.join(path);
        let below = path.components().filter(|part| matches!(part, Component::Normal(_)));
        self.destdir.join(below.collect::<PathBuf>())
    }
}

/// A file as seen from the folder of `program`; both are below the prefix.
fn relative(program: &str, file: &str) -> PathBuf {
    let up = program.matches('/').count();
    PathBuf::from("../".repeat(up)).join(file)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn folder(path: &Path) -> Result<(), Failure> {
    fs::create_dir_all(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Writes beside the place and renames: a program that runs keeps its old file.
pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    folder(path.parent().unwrap_or(path))?;
    let written = fs::write(&new, bytes)
        .and_then(|()| fs::set_permissions(&new, PermissionsExt::from_mode(mode)))
        .and_then(|()| fs::rename(&new, path));
    written.map_err(|error| format!("{}: {error}", path.display()))
}

fn link(target: &Path, path: &Path) -> Result<(), Failure> {
    folder(path.parent().unwrap_or(path))?;
    // Another implementation's program, or our own link of before.
    let _ = fs::remove_file(path);
    symlink(target, path).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_finds_its_policy_program_where_that_is_installed() {
        let daemon = fs::read_to_string(root().join("daemon/src/lib.rs")).unwrap();
        let default = daemon.lines().find(|line| line.starts_with("const POLICY_PROGRAM:")).unwrap();
        let path = default.split('"').nth(1).unwrap().strip_prefix("/usr/").unwrap();
        assert!(Side::Dom0.programs().any(|program| program == path), "{path}");
    }

    #[test]
    fn a_tree_has_what_its_side_needs() {
        let dir = std::env::temp_dir().join(format!("qrexec-install-{}", std::process::id()));
        let tree = Tree { prefix: Path::new("/usr"), destdir: &dir, side: Side::Vm, logins: Logins::Debian };
        let client = PathBuf::from("/bin/sh");
        let built =
            Built { all: std::env::current_exe().unwrap(), lean: vec![("qrexec-client-vm", client.clone())] };
        tree.install(&built, &root().join("dist")).unwrap();
        // A second time over the first.
        tree.install(&built, &root().join("dist")).unwrap();
        let is = |program: &str, original: &Path| {
            let installed = read(&dir.join("usr").join(program)).unwrap();
            assert!(installed == read(original).unwrap(), "{program}");
        };
        is("lib/qubes/qrexec-agent", &built.all);
        for program in ["bin/qrexec-client-vm", "lib/qubes/qrexec-client-vm", "lib/qubes/qrexec_client_vm"] {
            is(program, &client);
        }
        let unit = fs::read_to_string(dir.join("usr/lib/systemd/system/qubes-qrexec-agent.service")).unwrap();
        assert!(unit.contains("ExecStart=/usr/lib/qubes/qrexec-agent\n"));
        for (_, name, _) in FILES.iter().filter(|(_, name, _)| name.ends_with(".service")) {
            let unit = fs::read_to_string(root().join("dist").join(name)).unwrap();
            assert!(unit.contains("\nType=notify\n"), "{name}");
        }
        assert!(dir.join("etc/qubes-rpc").is_dir() && dir.join("etc/pam.d/qrexec").exists());
        assert!(!dir.join("usr/sbin").exists() && !dir.join("etc/qubes/policy.d").exists());
        let script = fs::metadata(dir.join("etc/qubes-rpc/qubes.WaitForSession")).unwrap();
        assert_eq!(script.permissions().mode() & 0o777, 0o755);
        can_ask(&dir);
        fs::remove_dir_all(&dir).unwrap();

        Tree { side: Side::Dom0, ..tree }.install(&built, &root().join("dist")).unwrap();
        assert!(dir.join("etc/qubes-rpc/qubes.WaitForSession").exists());
        can_ask(&dir);
        fs::remove_dir_all(&dir).unwrap();

        let built = Built {
            all: client.clone(),
            lean: vec![("qrexec-lab", client.clone()), ("qrexec-bench", client)],
        };
        Tree { side: Side::Lab, ..tree }.install(&built, &root().join("dist")).unwrap();
        let names = |folder: &Path| {
            let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
            entries.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
        };
        assert_eq!((names(&dir), names(&dir.join("usr"))), (vec!["usr".into()], vec!["bin".into()]));
        assert_eq!(names(&dir.join("usr/bin")), ["qrexec-bench", "qrexec-lab", "qrexec-usb-sim"]);
        assert!(dir.join("usr/bin/qrexec-usb-sim").exists(), "a link that leads somewhere");
        fs::remove_dir_all(dir).unwrap();
    }

    /// Each name leads to an executable that knows it.
    #[test]
    fn the_tools_are_links_to_their_executables() {
        let dir = tempfile::tempdir().unwrap();
        let built = Built {
            all: PathBuf::from("/bin/sh"),
            lean: vec![("qrexec-run", "/bin/sh".into()), ("qrexec-open", "/bin/cat".into())],
        };
        let tree = Tree {
            prefix: Path::new("/usr"),
            destdir: dir.path(),
            side: Side::Tools,
            logins: Logins::Debian,
        };
        tree.install(&built, &root().join("dist")).unwrap();
        for (name, executable) in [("qvm-run", "/bin/sh"), ("qvm-open-in-vm", "/bin/cat")] {
            let installed = read(&dir.path().join("usr/bin").join(name)).unwrap();
            assert!(installed == read(Path::new(executable)).unwrap(), "{name}");
        }
        let led = |name: &str| fs::read_link(dir.path().join("etc/qubes-rpc").join(name)).unwrap();
        assert_eq!(led("qubes.VMExec"), Path::new("/usr/lib/qubes/qrexec-run"));
        assert_eq!(led("qubes.OpenURL"), Path::new("/usr/lib/qubes/qrexec-open"));
        assert_eq!(led("qubesair.SSHProxy"), Path::new("/usr/lib/qubes/qrexec-remote"));
        assert_eq!(led("qubes.ConnectTCP"), Path::new("/dev/tcp/127.0.0.1"));
        let config = fs::read_to_string(dir.path().join("etc/qubes/rpc-config/qubes.ConnectTCP")).unwrap();
        assert!(config.contains("skip-service-descriptor=true"));
        let mode = fs::metadata(dir.path().join("etc/qubes-rpc/qubes.VMRootShell")).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o755);
        let programs = Side::Tools.programs().filter_map(|path| path.rsplit('/').next());
        let known = |name: &str| TOOLS.iter().any(|(_, names)| names.contains(&name));
        assert!(programs.into_iter().all(known));
        assert!(!dir.path().join("usr/lib/qubes/qrexec").exists());
        assert!(dir.path().join("usr/share/man/man7/qrexec-services.7").exists());
    }

    #[test]
    fn what_is_for_usb_comes_to_a_qubes_programs_and_to_no_other_side() {
        let dir = tempfile::tempdir().unwrap();
        let built = Built { all: std::env::current_exe().unwrap(), lean: Vec::new() };
        let tree =
            Tree { prefix: Path::new("/usr"), destdir: dir.path(), side: Side::Usb, logins: Logins::Debian };
        tree.install(&built, &root().join("dist")).unwrap();
        let config = fs::read_to_string(dir.path().join("etc/qubes/rpc-config/qubes.USB")).unwrap();
        assert!(config.contains("force-user = 'root'"));
        for path in ["etc/qubes-rpc/qubes.USBAttach", "usr/lib/qubes/usb-import"] {
            assert!(dir.path().join(path).is_symlink(), "{path}");
        }
        assert!(!dir.path().join("usr").join(EXECUTABLE).exists());
        let usbs = |side: Side| side.files().any(|file| file.contains("usb") || file.contains("USB"));
        assert!([Side::Vm, Side::Dom0, Side::All].into_iter().all(|side| !usbs(side)));
    }

    /// What a user's session needs to answer for others: dom0's, and a GUI qube's.
    fn can_ask(dir: &Path) {
        for name in ["policy.Ask", "policy.New", "policy.Notify"] {
            let to = fs::read_link(dir.join("etc/qubes-rpc").join(name)).unwrap();
            assert_eq!(to, Path::new("/var/run/qubes/policy-agent.sock"), "{name}");
        }
        let start = dir.join("etc/xdg/autostart/qrexec-policy-agent.desktop");
        let start = fs::read_to_string(start).unwrap();
        assert!(start.contains("Exec=/usr/lib/qubes/qrexec-policy-agent-autostart\n"));
        let start = fs::read_to_string(dir.join("usr/lib/qubes/qrexec-policy-agent-autostart")).unwrap();
        assert!(start.contains("exec /usr/bin/qrexec-policy-agent "));
        for program in ["qrexec-policy-agent", "qubes-policy-editor", "qubes-policy-lint"] {
            assert!(dir.join("usr/bin").join(program).exists(), "{program}");
        }
    }

    /// In place: a daemon keeps its log open.
    #[test]
    fn the_logs_of_daemons_are_rotated() {
        let destdir = tempfile::tempdir().unwrap();
        let (dir, shell) = (destdir.path(), PathBuf::from("/bin/sh"));
        let tree = Tree { prefix: Path::new("/usr"), destdir: dir, side: Side::Dom0, logins: Logins::Debian };
        tree.install(&Built { all: shell, lean: Vec::new() }, &root().join("dist")).unwrap();
        let text = fs::read_to_string(dir.join("etc/logrotate.d/qrexec")).unwrap();
        for word in ["/var/log/qubes/qrexec.*.log {", "copytruncate", "size 8M", "rotate 4"] {
            assert!(text.contains(word), "{word}");
        }
        assert!(Side::Dom0.conffiles().any(|file| file == "/etc/logrotate.d/qrexec"));
        assert!(Side::Vm.conffiles().all(|file| file != "/etc/logrotate.d/qrexec"));
    }

    #[test]
    fn the_file_for_pam_is_that_of_the_system() {
        let dir = tempfile::tempdir().unwrap();
        let pam = dir.path().join("etc/pam.d");
        let installed = || {
            let logins = Logins::of(dir.path());
            let tree = Tree { prefix: Path::new("/usr"), destdir: dir.path(), side: Side::Vm, logins };
            tree.file(&root().join("dist"), DEBIANS, "/etc/pam.d/qrexec").unwrap();
            let text = fs::read_to_string(pam.join("qrexec")).unwrap();
            ["common-session", "system-auth", "postlogin"].map(|file| {
                text.lines().any(|line| line.starts_with("session") && line.ends_with(&format!(" {file}")))
            })
        };
        write(&pam.join("system-auth"), b"", 0o644).unwrap();
        assert_eq!(installed(), [false, true, false]);
        write(&pam.join("postlogin"), b"", 0o644).unwrap();
        assert_eq!(installed(), [false, true, true]);
        write(&pam.join("common-session"), b"", 0o644).unwrap();
        assert_eq!(installed(), [true, false, false]);
    }
}
