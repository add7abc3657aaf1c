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
    ("mmdebstrap", &["--quiet", "--variant=essential", "--include=passwd,systemd,openssh-client"]),
    ("debootstrap", &["--variant=minbase", "--include=passwd,systemd,openssh-client"]),
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

/// Links that are followed one behind the other.
const MOST_LINKS: usize = 8;

/// The package that is tried, in the root of the system.
const COPY: &str = "package.deb";

/// A call between two VMs of a lab: by the lab's own programs, or by those in the folder of `BIN_DIR`.
const LAB_CALL: &str = "mkdir /tmp/try && cd /tmp/try && export TMPDIR=/tmp/try && \
     printf '#!/bin/sh\\nread a b; echo $((a + b))\\n' >add && chmod +x add && \
     qrexec-lab run $BIN_DIR --service vault:test.Add=/tmp/try/add -- \
     sh -c 'echo 40 2 | qrexec-client-vm vault test.Add'; status=$?; cd / && rm -r /tmp/try; exit $status";

/// Policy asks, and the user says yes: by the services that were installed, to the agent that their session starts.
/// In a qube that dom0 has made a GUI qube; elsewhere nobody is asked.
const QUESTION: &str = "mkdir -p /tmp/try/policy.d /run/qubes && rm -f /run/qubes-service/guivm && cd /tmp/try && \
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
    let empty = system.files()?;
    let file_of = |wanted: &str| packages.iter().find(|(package, _)| package.name == wanted);
    // A qube's programs are tried in a lab.
    let (lab, file_of_lab) = file_of("qrexec-rs-lab").ok_or("no package for the lab")?;
    system.install(lab, file_of_lab)?;
    for (package, file) in &packages {
        match package.side() {
            None => system.install(package, file)?,
            // What is for USB comes to a qube's programs.
            Some(Side::Usb) => {
                let (vm, file_of_vm) = file_of("qrexec-rs-vm").ok_or("no package for qubes")?;
                let before = system.files()?;
                system.install(vm, file_of_vm)?;
                let with_vm = system.files()?;
                // Not beside upstream's: that package has files of ours for qubes too, and takes them along when it goes.
                system.install(package, file)?;
                findings("files", Ok(system.missing(Side::Usb)))?;
                system.try_programs(Side::Usb)?;
                system.step("purge what is for USB", "dpkg --purge qrexec-rs-usb")?;
                system.as_before(&with_vm)?;
                system.step("purge the qube's", "dpkg --purge qrexec-rs-vm")?;
                system.as_before(&before)?;
            }
            Some(side) if package.is_switched() => system.try_out(package, file, side, !options.no_pam)?,
            Some(side) => {
                if side == Side::Lab {
                    system.step("purge the lab's", "dpkg --purge qrexec-rs-lab")?;
                }
                let before = system.files()?;
                system.install(package, file)?;
                findings("files", Ok(system.missing(side)))?;
                system.try_programs(side)?;
                if side == Side::Lab {
                    system.step("a call of the lab's own programs", LAB_CALL)?;
                }
                system.step(&format!("purge {}", package.name), &format!("dpkg --purge {}", package.name))?;
                system.as_before(&before)?;
            }
        }
    }
    system.step("purge the switch", "dpkg --purge qrexec-rs-switch")?;
    system.as_before(&empty)?;
    eprintln!("the packages were installed, tried and removed");
    Ok(())
}

/// Whether people call it: the others are called with words of a fixed form, and have no manual page.
fn has_options(program: &str) -> bool {
    const BARE: [&str; 4] =
        ["qubes-rpc-multiplexer", "qubes-policy-admin", "qubes-sync-clock", "qubes-vmexec"];
    let copies = Side::Copy.programs().any(|other| other == program);
    !copies && !BARE.iter().any(|other| program.ends_with(other))
}

/// Installs the package again over itself, its units disabled.
fn disabled_stays(side: Side) -> String {
    let units: Vec<_> = side.units().collect();
    let units = units.join(" ");
    format!("systemctl disable {units} && dpkg --install /run/package.deb && ! systemctl is-enabled {units}")
}

/// A system in a folder.
struct System {
    root: PathBuf,
}

impl System {
    /// Installs a package beside upstream's and alone, changes from one to the other, and removes all without a trace.
    fn try_out(&self, package: &Package, file: &Path, side: Side, pam: bool) -> Result<(), Failure> {
        let (name, switch) = (package.name, side.name());
        let before = self.files()?;
        let upstream = stand_ins::name(side);
        self.step("upstream's package", &stand_ins::upstream(side, 1))?;
        self.install(package, file)?;
        findings("upstream's stay", Ok(self.not_upstreams(side, 1)))?;
        self.step("ours", &format!("qrexec-switch ours {switch}"))?;
        findings("ours", Ok(self.not_ours(side)))?;
        self.step("upstream's update", &stand_ins::upstream(side, 2))?;
        findings("ours after upstream's update", Ok(self.not_ours(side)))?;
        self.step("status", &format!("qrexec-switch status {switch} | grep '{upstream}'"))?;
        self.step("an interrupted change is finished", &stand_ins::interrupted(side))?;
        findings("ours after that", Ok(self.not_ours(side)))?;
        self.try_programs(side)?;
        self.step("upstream's again", &format!("qrexec-switch upstream {switch}"))?;
        findings("upstream's again", Ok(self.not_upstreams(side, 2)))?;
        self.step("and ours", &format!("qrexec-switch ours {switch}"))?;
        self.step("upstream's package goes", &format!("dpkg --purge {upstream}"))?;
        findings("ours without upstream's", Ok(self.not_ours(side)))?;
        self.step("upstream's package comes back", &stand_ins::upstream(side, 2))?;
        findings("ours with upstream's", Ok(self.not_ours(side)))?;
        self.step(&format!("remove {name}"), &format!("dpkg --remove {name}"))?;
        findings("upstream's without ours", Ok(self.not_upstreams(side, 2)))?;
        self.step("purge both", &format!("dpkg --purge {name} {upstream}"))?;
        self.as_before(&before)?;
        self.alone(package, file, side, pam)?;
        self.as_before(&before)
    }

    /// A system without upstream's.
    fn alone(&self, package: &Package, file: &Path, side: Side, pam: bool) -> Result<(), Failure> {
        let name = package.name;
        self.install(package, file)?;
        findings("ours at once", Ok(self.not_ours(side)))?;
        findings("files", Ok(self.missing(side)))?;
        findings("links", Ok(self.wrong_links(side)))?;
        if side.is_half() {
            findings("units, group and folders", Ok(self.wrong_state(side)))?;
            self.step("a package that needs upstream's", stand_ins::DEPENDANT)?;
            self.step("no windows, no waiting", "timeout 10 /etc/qubes-rpc/qubes.WaitForSession </dev/null")?;
            self.step("a disabled unit stays so when it is updated", &disabled_stays(side))?;
        }
        self.try_programs(side)?;
        if pam && side.has_logins() {
            self.step("the agent has PAM", "ldd /usr/lib/qubes/qrexec-agent | grep libpam.so.0")?;
        }
        self.verify_units(side)?;
        self.step("an edited file stays", &stand_ins::edited(side))?;
        self.step(&format!("remove {name}"), &format!("dpkg --remove {name}"))?;
        self.step("nothing starts any more", "! find /etc/systemd -name 'qubes-*' | grep .")?;
        self.step(&format!("purge {name}"), &format!("dpkg --purge {name}"))
    }

    /// Names that are not those of this package's files.
    fn not_ours(&self, side: Side) -> Vec<String> {
        self.wrong_names(side, |path| {
            format!("test \"$(readlink {path})\" = /usr/lib/qrexec-rs/{}{path}", side.name())
        })
    }

    /// Names that are not those of this version of upstream's programs.
    fn not_upstreams(&self, side: Side, version: u32) -> Vec<String> {
        self.wrong_names(side, |path| {
            format!("test ! -L {path} && grep -qx 'echo upstream {version} of {path}' {path} && test ! -e {path}.upstream")
        })
    }

    fn wrong_names(&self, side: Side, test: impl Fn(&str) -> String) -> Vec<String> {
        let paths = side.programs().map(|path| format!("/usr/{path}"));
        let is_wrong =
            |path: &String| !self.command(&test(path)).status().is_ok_and(|status| status.success());
        paths.filter(is_wrong).collect()
    }

    /// Installs a package.
    fn install(&self, package: &Package, file: &Path) -> Result<(), Failure> {
        let name = package.name;
        let copy = self.root.join(COPY);
        fs::copy(file, &copy).map_err(|error| format!("{}: {error}", file.display()))?;
        self.step(&format!("install {name}"), &format!("dpkg --install /{COPY}"))?;
        fs::rename(&copy, self.root.join("run").join(COPY)).map_err(|error| format!("{COPY}: {error}"))?;
        // Its status says nothing.
        self.step("what was installed is what was packed", &format!("! dpkg --verify {name} | grep ."))
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
        let pages = pages.map(|name| format!("usr/share/man/man[18]/{name}.[18].gz"));
        let files = side.files().map(|path| match path.contains("share/man/") {
            true => format!("usr/{path}.gz"),
            false => format!("usr/{path}"),
        });
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
            let outside: String =
                text.lines().map(|line| format!("{}\n", self.seen_from_outside(line))).collect();
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

    /// A line of a unit whose value begins with a path of the system: where that file is out here. Names that
    /// `qrexec-switch` has laid are links, which lead elsewhere from outside.
    fn seen_from_outside(&self, line: &str) -> String {
        let Some((key, rest)) = line.split_once("=/usr/") else { return line.to_owned() };
        let (path, words) = rest.split_once(' ').unwrap_or((rest, ""));
        let mut file = self.root.join("usr").join(path);
        for _ in 0..MOST_LINKS {
            let Ok(target) = fs::read_link(&file) else { break };
            file = match target.strip_prefix("/") {
                Ok(inside) => self.root.join(inside),
                Err(_) => file.with_file_name("").join(target),
            };
        }
        format!("{key}={} {words}", file.display())
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
