//! `cargo xtask chroot`: installs the Debian packages in a clean system, tries them there, and removes them again.
//!
//! The system is what `mmdebstrap` or `debootstrap` makes of the packages that Debian calls essential, with systemd, in a
//! folder that goes afterwards. It needs root, one of the two, and a mirror; without one of these it says what it lacks
//! and is done.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::install::Side;
use crate::lean;
use crate::package::{self, Package};
use crate::steps::{Failure, findings, is_there, said, skipped, step};

mod stand_ins;

/// What can make a system, and how it makes a small one.
const TOOLS: [(&str, &[&str]); 2] = [
    ("mmdebstrap", &["--quiet", "--variant=essential", "--include=passwd,systemd"]),
    ("debootstrap", &["--variant=minbase", "--include=passwd,systemd"]),
];

/// What installing anything changes, and what is not of the system: relative to the root. The group `qubes` stays, and
/// with it the copies of the files it was added to; what is in `/run` goes when the system does.
const NOT_LOOKED_AT: [&str; 9] = [
    "dev",
    "etc/group-",
    "etc/gshadow-",
    "proc",
    "run",
    "sys",
    "var/cache",
    "var/lib/dpkg",
    "var/log/dpkg.log",
];

/// The package that is tried, in the root of the system.
const COPY: &str = "package.deb";

/// A call between two VMs of a lab: by the lab's own programs, or by those in the folder of `BIN_DIR`.
const LAB_CALL: &str = "mkdir /tmp/try && cd /tmp/try && export TMPDIR=/tmp/try && \
     printf '#!/bin/sh\\nread a b; echo $((a + b))\\n' >add && chmod +x add && \
     qrexec-lab run $BIN_DIR --service vault:test.Add=/tmp/try/add -- \
     sh -c 'echo 40 2 | qrexec-client-vm vault test.Add'; status=$?; cd / && rm -r /tmp/try; exit $status";

/// Policy asks, and the user says yes: by the services that were installed, to the agent that their session starts.
/// In a qube that dom0 has made a GUI qube; elsewhere nobody is asked.
const QUESTION: &str = "mkdir -p /tmp/try/policy.d /run/qubes && cd /tmp/try && \
     printf '#!/bin/sh\\ncat >/dev/null; echo allow:vault\\n' >yes && chmod +x yes && \
     echo 'test.Ask * work @anyvm ask' >policy.d/30-user.policy && \
     qube='\"tags\": [], \"template_for_dispvms\": false, \"power_state\": \"Running\", \"icon\": \"x\", \"guivm\": \"dom0\"' && \
     printf '{\"domains\": {\"dom0\": {\"type\": \"AdminVM\", %s}, \"work\": {\"type\": \"AppVM\", %s}, \
     \"vault\": {\"type\": \"AppVM\", %s}}}' \"$qube\" \"$qube\" \"$qube\" >system.json || exit; \
     command=$(sed -n 's/^Exec=//p' /etc/xdg/autostart/qrexec-policy-agent.desktop); \
     test -x /usr/sbin/qrexec-daemon || { $command && mkdir -p /run/qubes-service && : >/run/qubes-service/guivm; } || exit; \
     $command --program /tmp/try/yes & agent=$!; \
     until test -S /run/qubes/policy-agent.sock || ! kill -0 $agent; do :; done; \
     qrexec-policy-exec --path policy.d --system-info system.json -- work @default test.Ask | grep -x result=allow; \
     status=$?; kill $agent; wait $agent; cd / && rm -r /tmp/try; exit $status";

pub(crate) fn run(options: &package::Options) -> Result<(), Failure> {
    if said(Command::new("id").arg("-u"))? != "0" {
        skipped("chroot", "only root can make a system");
        return Ok(());
    }
    let Some((tool, args)) = TOOLS.iter().find(|(tool, _)| is_there(tool, &["--version"])) else {
        skipped("chroot", "neither mmdebstrap nor debootstrap is installed");
        return Ok(());
    };
    let mut options = options.clone();
    if !options.no_pam && !lean::can_link_pam() {
        skipped("chroot", "PAM was not tried, there is no libpam to link with");
        options.no_pam = true;
    }
    let packages = package::run(&options)?;
    let folder = tempfile::tempdir().map_err(|error| format!("no folder for a system: {error}"))?;
    let system = System { root: folder.path().join("root") };
    let suite = said(Command::new("sh").args(["-c", ". /etc/os-release && echo $VERSION_CODENAME"]))?;
    let mut bootstrap = Command::new(tool);
    if let Err(failure) = step(tool, bootstrap.args(*args).arg(suite).arg(&system.root)) {
        skipped("chroot", &format!("there is no system to install in: {failure}"));
        return Ok(());
    }
    let (plain, sides): (Vec<_>, Vec<_>) =
        packages.iter().partition(|(package, _)| !package.side.has_group());
    let empty = system.files()?;
    for (package, file) in &plain {
        system.install(package, file)?;
        system.try_programs(package.side)?;
        if package.side == Side::Lab {
            system.step("a call of the lab's own programs", LAB_CALL)?;
        }
        system.remove_copy()?;
    }
    for (package, file) in sides {
        system.try_out(package, file, !options.no_pam)?;
    }
    for (package, _) in &plain {
        system.step(&format!("purge {}", package.name), &format!("dpkg --purge {}", package.name))?;
    }
    system.as_before(&empty)?;
    eprintln!("the packages were installed, tried and removed");
    Ok(())
}

/// Whether people call it: the others are called with words of a fixed form, and have no manual page.
fn has_options(program: &str) -> bool {
    const BARE: [&str; 4] =
        ["qubes-rpc-multiplexer", "qubes-policy-admin", "qubes-sync-clock", "qubes-vmexec"];
    !BARE.iter().any(|other| program.ends_with(other))
}

/// Installs the package again over itself, its units disabled.
fn disabled_stays(side: Side) -> String {
    let units: Vec<_> = side.units().collect();
    let units = units.join(" ");
    format!("systemctl disable {units} && dpkg --install /package.deb && ! systemctl is-enabled {units}")
}

/// A system in a folder.
struct System {
    root: PathBuf,
}

impl System {
    /// Installs a package in the place of upstream's, looks at it, uses it, and removes it without a trace.
    fn try_out(&self, package: &Package, file: &Path, pam: bool) -> Result<(), Failure> {
        let name = package.name;
        let before = self.files()?;
        self.step("upstream's package", &stand_ins::field(package.side))?;
        self.install(package, file)?;
        findings("links", Ok(self.wrong_links(package.side)))?;
        findings("units, group and folders", Ok(self.wrong_state(package.side)))?;
        self.step("upstream's policy stays", stand_ins::POLICY_STAYS)?;
        self.step("a package that needs upstream's", stand_ins::DEPENDANT)?;
        self.step("no windows, no waiting", "timeout 10 /etc/qubes-rpc/qubes.WaitForSession </dev/null")?;
        self.try_programs(package.side)?;
        if pam && package.side.has_logins() {
            self.step("the agent has PAM", "ldd /usr/lib/qubes/qrexec-agent | grep libpam.so.0")?;
        }
        self.verify_units(package.side)?;
        self.step("a disabled unit stays so when it is updated", &disabled_stays(package.side))?;
        self.step(&format!("remove {name}"), &format!("dpkg --remove {name}"))?;
        self.step("nothing starts any more", "! find /etc/systemd -name 'qubes-*' | grep .")?;
        self.step(&format!("purge {name}"), &format!("dpkg --purge {name} qubes-core-qrexec"))?;
        self.remove_copy()?;
        self.as_before(&before)
    }

    fn remove_copy(&self) -> Result<(), Failure> {
        fs::remove_file(self.root.join(COPY)).map_err(|error| format!("{COPY}: {error}"))
    }

    /// Installs a package and looks for what it should have brought.
    fn install(&self, package: &Package, file: &Path) -> Result<(), Failure> {
        let name = package.name;
        fs::copy(file, self.root.join(COPY)).map_err(|error| format!("{}: {error}", file.display()))?;
        self.step(&format!("install {name}"), &format!("dpkg --install /{COPY}"))?;
        self.step("what was installed is what was packed", &format!("dpkg --verify {name}"))?;
        findings("files", Ok(self.missing(package.side)))
    }

    /// Whether the system has the files that it had then, and no others.
    fn as_before(&self, before: &BTreeSet<PathBuf>) -> Result<(), Failure> {
        let after = self.files()?;
        let changed = before.symmetric_difference(&after).map(|path| path.display().to_string());
        findings("nothing is left", Ok(changed.collect()))
    }

    /// Runs every program, and a call.
    fn try_programs(&self, side: Side) -> Result<(), Failure> {
        for program in side.programs() {
            let script = match has_options(program) {
                true => format!("/usr/{program} --version"),
                false => format!("test -x /usr/{program}"),
            };
            self.step(program, &script)?;
        }
        if side.programs().any(|program| program == "bin/qrexec-client-vm") {
            self.step("a call", &format!("BIN_DIR='--bin-dir /usr/lib/qubes'; {LAB_CALL}"))?;
        }
        if side.programs().any(|program| program == "bin/qrexec-policy-agent") {
            self.step("a question to the user", QUESTION)?;
        }
        Ok(())
    }

    /// What should be there and is not, or leads nowhere.
    fn missing(&self, side: Side) -> Vec<String> {
        let pages = side.programs().filter(|program| has_options(program));
        let pages = pages.filter_map(|program| program.rsplit('/').next().filter(|name| !name.contains('_')));
        let pages = pages.map(|name| format!("usr/share/man/man[18]/{name}.[18]"));
        let files = side.files().map(|path| format!("usr/{path}"));
        let wanted = files.chain(pages).collect::<BTreeSet<_>>();
        let is_missing = |path: &&String| {
            // An absolute path stays what it is, as for the installation.
            let path = path.split_once("//").map_or(path.as_str(), |(_, absolute)| absolute);
            !self.command(&format!("ls -dL /{path} >/dev/null")).status().is_ok_and(|status| status.success())
        };
        wanted.iter().filter(is_missing).cloned().collect()
    }

    /// Links to what comes to be later that lead elsewhere.
    fn wrong_links(&self, side: Side) -> Vec<String> {
        let leads = |path: &str, to: &str| {
            let test = format!("test \"$(readlink {path})\" = {to}");
            self.command(&test).status().is_ok_and(|status| status.success())
        };
        side.links().filter(|(path, to)| !leads(path, to)).map(|(path, _)| path.to_owned()).collect()
    }

    /// What the package's scripts had to do, and is not so.
    fn wrong_state(&self, side: Side) -> Vec<String> {
        let units = side.units().flat_map(|unit| {
            let link = format!("/etc/systemd/system/multi-user.target.wants/{unit}");
            [
                format!("test \"$(readlink -f {link})\" = /usr/lib/systemd/system/{unit}"),
                format!("test \"$(systemctl is-enabled {unit})\" = enabled"),
            ]
        });
        let shared = side.shared().map(|path| (path, "775"));
        let made =
            [("/run/qubes/rpc-config", "755"), ("/run/qubes-rpc", "755"), ("/run/qubes/policy.d", "2770")];
        let made = made.into_iter().filter(|(path, _)| side == Side::Dom0 || !path.ends_with("policy.d"));
        let folders = shared
            .chain(made)
            .map(|(path, mode)| format!("test \"$(stat --format '%a %U %G' {path})\" = '{mode} root qubes'"));
        let tests = units.chain(folders).chain(
            ["getent group qubes | grep :98:", "test -x /etc/qubes-rpc/qubes.WaitForSession"]
                .map(str::to_owned),
        );
        let is_wrong = |test: &String| !self.command(test).status().is_ok_and(|status| status.success());
        tests.filter(is_wrong).collect()
    }

    /// systemd's own opinion of the units.
    fn verify_units(&self, side: Side) -> Result<(), Failure> {
        if !is_there("systemd-analyze", &["--version"]) {
            eprintln!("== units: skipped, there is no systemd-analyze");
            return Ok(());
        }
        for unit in side.files().filter(|path| path.ends_with(".service")) {
            let text = fs::read_to_string(self.root.join("usr").join(unit));
            let text = text.map_err(|error| format!("{unit}: {error}"))?;
            // The system's own units are only outside, the programs only inside.
            let outside = text.replace("=/usr/", &format!("={}/usr/", self.root.display()));
            let name = Path::new(unit).file_name().unwrap_or_default();
            let copy = self.root.with_file_name(name);
            fs::write(&copy, outside).map_err(|error| format!("{}: {error}", copy.display()))?;
            let manager = if unit.contains("/user/") { "--user" } else { "--system" };
            let mut verify = Command::new("systemd-analyze");
            verify.args(["verify", "--man=no", "--recursive-errors=no", manager]).arg(&copy);
            step(unit, verify.env("XDG_RUNTIME_DIR", copy.with_file_name("")))?;
        }
        Ok(())
    }

    /// Every path of the system that a package could have brought.
    fn files(&self) -> Result<BTreeSet<PathBuf>, Failure> {
        let mut found = BTreeSet::new();
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
            for entry in entries {
                let entry = entry.map_err(|error| error.to_string())?;
                let path = entry.path();
                let name = path.strip_prefix(&self.root).unwrap_or(&path);
                if NOT_LOOKED_AT.iter().any(|other| name == Path::new(other)) {
                    continue;
                }
                found.insert(name.to_owned());
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(path);
                }
            }
        }
        Ok(found)
    }

    fn step(&self, name: &str, script: &str) -> Result<(), Failure> {
        step(name, &mut self.command(script))
    }

    /// A shell inside, with `/proc` and the machine's devices, which nobody else sees mounted there.
    fn command(&self, script: &str) -> Command {
        const INSIDE: &str = "mount -t proc proc \"$1/proc\" && mount --bind /dev \"$1/dev\" && exec chroot \"$1\" \
             env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root sh -c \"$2\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", INSIDE, "sh"]).arg(&self.root).arg(script);
        command
    }
}
