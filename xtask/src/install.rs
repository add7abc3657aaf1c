//! `cargo xtask install`: puts the programs and everything around them where a system expects them.
//!
//! One executable is installed whose name decides what it does; the programs are links to it, but for those that every
//! call starts or forks, which are executables of their own.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use clap::Args;

use crate::lean::{self, Built};
use crate::logins::{DEBIANS, Logins};
use crate::steps::{Failure, cargo, root, step};

mod table;

pub(crate) use table::EXECUTABLE;
pub(crate) use table::Side;
use table::{FILES, FOLDERS, SERVICES};

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

/// Builds and installs.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    if !options.prefix.is_absolute() {
        return Err(format!("{}: the prefix must be an absolute path", options.prefix.display()));
    }
    let built = match options.side {
        Side::Lab => lean::build_lab()?,
        side if side.executables().next().is_some() => lean::build_tools()?,
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
        // What is for USB comes to a qube's programs.
        if self.side.is_half() {
            write(&self.place(EXECUTABLE), &read(&built.all)?, 0o755)?;
        }
        self.executables(built)?;
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

    /// The executables that are several programs, and the services that they are by name.
    fn executables(&self, built: &Built) -> Result<(), Failure> {
        for (executable, names) in self.side.executables() {
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
        if let Some((executable, _)) = self.side.executables().find(|(_, names)| names.contains(&last)) {
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
        assert_eq!(led("qubes.ConnectTCP"), Path::new("/dev/tcp/127.0.0.1"));
        let config = fs::read_to_string(dir.path().join("etc/qubes/rpc-config/qubes.ConnectTCP")).unwrap();
        assert!(config.contains("skip-service-descriptor=true"));
        let mode = fs::metadata(dir.path().join("etc/qubes-rpc/qubes.VMRootShell")).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o755);
        let programs = Side::Tools.programs().filter_map(|path| path.rsplit('/').next());
        let known = |name: &str| Side::Tools.executables().any(|(_, names)| names.contains(&name));
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
