//! The one table of what is installed: which side has which program, service, file, folder and unit. The packages, what
//! installs from the sources, and the test of both follow from it.

use clap::ValueEnum;

use crate::logins::DEBIANS;

/// Which half of the system gets its programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Side {
    /// A qube
    Vm,
    /// dom0
    Dom0,
    /// Both
    All,
    /// The programs that people type in a qube, and the services behind them
    Tools,
    /// Those of dom0
    ToolsDom0,
    /// Bulk file copy, for a qube or dom0
    Copy,
    /// Calls to qubes of other machines, for the qube that makes them
    Remote,
    /// A machine on which calls are tried and measured: the lab and the benchmark, which neither dom0 nor a qube has
    Lab,
    /// A qube that has USB devices or gets those of others; it has the programs of a qube, too
    Usb,
}

impl Side {
    pub(super) fn wants(self, other: Side) -> bool {
        match (self, other) {
            (Side::All, Side::Vm | Side::Dom0) | (Side::Vm | Side::Dom0, Side::All) => true,
            _ => self == other,
        }
    }

    /// Its name, in paths too.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Whether it is half of a system: its installation makes a group and starts units.
    pub(crate) fn is_half(self) -> bool {
        matches!(self, Side::Vm | Side::Dom0 | Side::All)
    }

    /// Whether upstream has programs of the same names, so that the change from one to the other is asked for.
    pub(crate) fn has_upstream(self) -> bool {
        !matches!(self, Side::Lab | Side::Remote)
    }

    /// Its executables that are several programs each, with what each is by name.
    pub(crate) fn executables(self) -> impl Iterator<Item = (&'static str, &'static [&'static str])> {
        EXECUTABLES.iter().filter(move |(side, ..)| *side == self).map(|(_, name, names)| (*name, *names))
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

    /// Files that administrators may edit, absolute.
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
        self.programs().chain(files).chain(self.folders())
    }

    /// Its folders, absolute.
    pub(crate) fn folders(self) -> impl Iterator<Item = &'static str> {
        FOLDERS.iter().filter(move |(side, _)| self.wants(*side)).map(|(_, path)| *path)
    }
}

/// The programs: side, path below the prefix. A qube may show the windows of others and ask for them, or be where policy
/// is written: it has the policy's programs too.
pub(super) const PROGRAMS: &[(Side, &str)] = &[
    (Side::Vm, "lib/qubes/qrexec-agent"),
    (Side::Vm, "bin/qrexec-client-vm"),
    (Side::Vm, "lib/qubes/qrexec-client-vm"),
    (Side::Vm, "lib/qubes/qrexec_client_vm"),
    (Side::Vm, "bin/qrexec-fork-server"),
    (Side::Dom0, "sbin/qrexec-daemon"),
    (Side::Dom0, "bin/qrexec-client"),
    (Side::Dom0, "lib/qubes/qrexec-client"),
    (Side::Dom0, "lib/qubes/qfile-daemon-dvm"),
    (Side::Dom0, "bin/qrexec-policy-eval"),
    (Side::All, "lib/qubes/qubes-rpc-multiplexer"),
    (Side::All, "bin/qrexec-policy"),
    (Side::All, "bin/qrexec-policy-agent"),
    (Side::All, "bin/qrexec-policy-daemon"),
    (Side::All, "bin/qrexec-policy-exec"),
    (Side::All, "bin/qrexec-policy-graph"),
    (Side::All, "bin/qrexec-policy-restore"),
    (Side::All, "bin/qrexec-legacy-convert"),
    (Side::All, "bin/qrexec-top"),
    (Side::All, "bin/qubes-policy"),
    (Side::All, "bin/qubes-policy-admin"),
    (Side::All, "bin/qubes-policy-editor"),
    (Side::All, "bin/qubes-policy-lint"),
    (Side::Tools, "bin/qvm-connect-tcp"),
    (Side::Tools, "bin/qvm-get-image"),
    (Side::Tools, "bin/qvm-open-in-dvm"),
    (Side::Tools, "bin/qvm-open-in-vm"),
    (Side::Tools, "bin/qvm-run"),
    (Side::Tools, "bin/qvm-run-vm"),
    (Side::Tools, "bin/qubes-vmexec"),
    (Side::Tools, "lib/qubes/qubes-sync-clock"),
    (Side::ToolsDom0, "bin/qvm-run"),
    (Side::ToolsDom0, "lib/qubes/qubes-sync-clock"),
    (Side::Copy, "bin/qfile-unpacker"),
    (Side::Copy, "bin/qvm-copy"),
    (Side::Copy, "bin/qvm-copy-to-vm"),
    (Side::Copy, "bin/qvm-move"),
    (Side::Copy, "bin/qvm-move-to-vm"),
    (Side::Copy, "lib/qubes/qfile-agent"),
    (Side::Copy, "lib/qubes/qfile-dom0-agent"),
    (Side::Copy, "lib/qubes/qfile-unpacker"),
    (Side::Copy, "lib/qubes/qubes-fs-tree-check"),
    (Side::Copy, "lib/qubes/tar2qfile"),
    (Side::Copy, "libexec/qubes/qfile-dom0-unpacker"),
    (Side::Remote, "bin/qrexec-remote"),
    (Side::Lab, "bin/qrexec-lab"),
    (Side::Lab, "bin/qrexec-bench"),
    (Side::Lab, "bin/qrexec-usb-sim"),
    (Side::Usb, "lib/qubes/usb-detach-all"),
    (Side::Usb, "lib/qubes/usb-device-list"),
    (Side::Usb, "lib/qubes/usb-export"),
    (Side::Usb, "lib/qubes/usb-import"),
];

/// Services that the executable provides itself, by name.
pub(super) const SERVICES: &[(Side, &[&str])] = &[(Side::Dom0, POLICY_SERVICES), (Side::Usb, USB_SERVICES)];

pub(super) const USB_SERVICES: &[&str] = &["qubes.USB", "qubes.USBAttach", "qubes.USBDetach"];

pub(super) const POLICY_SERVICES: &[&str] = &[
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

/// Executables that are several programs and services by name: side, name, which. The first of a side is all of its crate.
pub(super) const EXECUTABLES: &[(Side, &str, &[&str])] = &[
    (
        Side::Tools,
        "qrexec-run",
        &[
            "qubes-sync-clock",
            "qubes-vmexec",
            "qubes.GetDate",
            "qubes.SetDateTime",
            "qubes.VMExec",
            "qubes.VMExecGUI",
            "qubes.VMRootExec",
            "qvm-connect-tcp",
            "qvm-run",
            "qvm-run-vm",
        ],
    ),
    (
        Side::Tools,
        "qrexec-open",
        &["qubes.OpenInVM", "qubes.OpenURL", "qvm-get-image", "qvm-open-in-dvm", "qvm-open-in-vm"],
    ),
    (
        Side::ToolsDom0,
        "qrexec-run",
        &[
            "qubes-sync-clock",
            "qubes.FeaturesRequest",
            "qubes.GetDate",
            "qubes.GetRandomizedTime",
            "qubes.Log",
            "qubes.NotifyTools",
            "qubes.NotifyUpdates",
            "qvm-run",
        ],
    ),
    (Side::Remote, "qrexec-remote", &["qrexec-remote", "qubesair.SSHProxy"]),
    (
        Side::Copy,
        "qrexec-copy",
        &[
            "qfile-agent",
            "qfile-dom0-agent",
            "qfile-dom0-unpacker",
            "qfile-unpacker",
            "qubes-fs-tree-check",
            "qvm-copy",
            "qvm-copy-to-vm",
            "qvm-move",
            "qvm-move-to-vm",
            "tar2qfile",
        ],
    ),
];

/// Links to sockets and ports: side, where they are, where they lead. Who asks the user, in dom0 or a GUI qube, is in the session of that user.
pub(super) const LINKS: &[(Side, &str, &str)] = &[
    (Side::All, "/etc/qubes-rpc/policy.Ask", POLICY_AGENT),
    (Side::All, "/etc/qubes-rpc/policy.New", POLICY_AGENT),
    (Side::All, "/etc/qubes-rpc/policy.Notify", POLICY_AGENT),
    (Side::Tools, "/etc/qubes-rpc/qubes.ConnectTCP", "/dev/tcp/127.0.0.1"),
    (Side::Tools, "/etc/qubes-rpc/qubes.UpdatesProxy", "/dev/tcp/127.0.0.1/8082"),
    (Side::Usb, "/etc/qubes/suspend-pre.d/usb-detach-all.sh", "/usr/lib/qubes/usb-detach-all"),
];

/// Where `qrexec-policy-agent` takes questions.
pub(super) const POLICY_AGENT: &str = "/var/run/qubes/policy-agent.sock";

/// Files of `dist`: side, name there, where it goes. What begins with `/` is not below the prefix. A script there is one
/// here.
pub(super) const FILES: &[(Side, &str, &str)] = &[
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
    (Side::Usb, "udev/80-qrexec-usb.rules", "lib/udev/rules.d/80-qrexec-usb.rules"),
    (Side::Copy, "qubes-rpc/qubes.Filecopy", "/etc/qubes-rpc/qubes.Filecopy"),
    (Side::All, "rpc-config/README", "/etc/qubes/rpc-config/README"),
    (Side::Dom0, "policy.d/35-compat.policy", "/etc/qubes/policy.d/35-compat.policy"),
    (
        Side::Dom0,
        "policy.d/90-admin-policy-default.policy",
        "/etc/qubes/policy.d/90-admin-policy-default.policy",
    ),
    (Side::All, "tmpfiles.d/qrexec-services.conf", "lib/tmpfiles.d/qrexec-services.conf"),
];

/// Folders that administrators fill.
pub(super) const FOLDERS: &[(Side, &str)] = &[
    (Side::All, "/etc/qubes-rpc"),
    (Side::All, "/etc/qubes/rpc-config"),
    (Side::Dom0, "/etc/qubes/policy.d"),
    (Side::Dom0, "/etc/qubes/policy.d/include"),
    (Side::Dom0, "/var/log/qubes"),
];

/// Units that start with the system.
pub(super) const UNITS: &[(Side, &str)] =
    &[(Side::Vm, "qubes-qrexec-agent.service"), (Side::Dom0, "qubes-qrexec-policy-daemon.service")];

/// Folders that the group `qubes` writes.
pub(super) const SHARED: &[(Side, &str)] =
    &[(Side::Dom0, "/etc/qubes/policy.d"), (Side::Dom0, "/etc/qubes/policy.d/include")];

/// Where the executable goes, below the prefix.
pub(crate) const EXECUTABLE: &str = "lib/qubes/qrexec";
