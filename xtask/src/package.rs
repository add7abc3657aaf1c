//! `cargo xtask package`: the packages of Debian and of rpm, from the same trees that `install` makes.

mod deb;
mod rpm;
mod stage;
pub(crate) mod version;

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::glibc;
use crate::install::Side;
use crate::lean::{self, Built};
use crate::logins::Logins;
use crate::steps::{Failure, root};
pub(crate) use version::{Version, release};

/// Where the packages go.
#[derive(Clone, Args)]
pub(crate) struct Options {
    /// The folder for the packages, instead of target/debian or target/rpm
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Without PAM sessions for the users of calls, which need libpam to build with
    #[arg(long)]
    pub(crate) no_pam: bool,
    /// Whose packages
    #[arg(long, value_enum, default_value = "deb")]
    pub(crate) format: Format,
    /// Instead of them, the ZIP for Windows VMs
    #[arg(long)]
    pub(crate) windows: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { out: None, no_pam: false, format: Format::Deb, windows: false }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// dpkg's
    Deb,
    /// rpm's; needs rpmbuild
    Rpm,
}

/// Who answers for the packages. There is no address yet.
pub(crate) const MAINTAINER: &str = "The authors of qrexec-rs <qrexec-rs@noreply.invalid>";

/// What a package has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    /// What `install` makes for this side
    Side(Side),
    /// The program that gives these their places
    Switch,
}

/// One package.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) contents: Contents,
    summary: &'static str,
    /// More about it, in lines of at most 78 bytes.
    about: &'static [&'static str],
    /// A crate that is all of what it executes.
    built_of: Option<&'static str>,
    /// Another package of these that cannot be beside it.
    other: &'static str,
    /// What it cannot do without, in Debian and in rpm.
    depends: [&'static str; 2],
    /// Packages of upstream that others may want: what they ask of it is here.
    provides: &'static [&'static str],
}

impl Package {
    /// The side that it is for, if it is for one.
    pub(crate) fn side(&self) -> Option<Side> {
        match self.contents {
            Contents::Side(side) => Some(side),
            Contents::Switch => None,
        }
    }

    fn built_of(&self) -> Option<&'static str> {
        self.built_of
    }

    /// Whether its names are given out by `qrexec-switch`.
    pub(crate) fn is_switched(&self) -> bool {
        self.side().is_some_and(Side::has_upstream)
    }
}

pub(crate) const PACKAGES: &[Package] = &[
    Package {
        name: "qrexec-rs-switch",
        contents: Contents::Switch,
        summary: "change between upstream's programs of Qubes and those of qrexec-rs",
        about: &[
            "Shows which program is whose, gives the names to one or the other, and",
            "keeps what gave way.",
        ],
        built_of: None,
        other: "",
        depends: ["", ""],
        provides: &[],
    },
    Package {
        name: "qrexec-rs-vm",
        contents: Contents::Side(Side::Vm),
        summary: "Qubes remote exec for qubes",
        about: &[
            "The agent, the client and the programs of policy. Beside upstream's it",
            "waits until qrexec-switch is told to use it.",
        ],
        built_of: Some("qrexec-cli"),
        other: "qrexec-rs-dom0",
        depends: ["libpam0g, libpam-modules, libpam-runtime, passwd", "shadow-utils"],
        provides: &["qubes-core-qrexec"],
    },
    Package {
        name: "qrexec-rs-dom0",
        contents: Contents::Side(Side::Dom0),
        summary: "Qubes remote exec for dom0",
        about: &[
            "The daemons, the client and the programs of policy. Beside upstream's it",
            "waits until qrexec-switch is told to use it.",
        ],
        built_of: Some("qrexec-cli"),
        other: "qrexec-rs-vm",
        depends: ["passwd", "shadow-utils"],
        provides: &["qubes-core-qrexec", "qubes-core-qrexec-dom0"],
    },
    Package {
        name: "qrexec-rs-tools",
        contents: Contents::Side(Side::Tools),
        summary: "commands and files in other qubes: qvm-run, qvm-open-in-vm",
        about: &[
            "What people type in a qube to run a command or to open a file in another",
            "one, and the services behind that.",
        ],
        built_of: Some("qrexec-open"),
        other: "qrexec-rs-tools-dom0",
        depends: ["", ""],
        provides: &[],
    },
    Package {
        name: "qrexec-rs-tools-dom0",
        contents: Contents::Side(Side::ToolsDom0),
        summary: "commands in qubes from dom0: qvm-run and dom0's services",
        about: &[
            "What people type in dom0 to run a command in a qube, and the services of",
            "dom0 for time, logs and notices.",
        ],
        built_of: Some("qrexec-run"),
        other: "qrexec-rs-tools",
        depends: ["", ""],
        provides: &[],
    },
    Package {
        name: "qrexec-rs-copy",
        contents: Contents::Side(Side::Copy),
        summary: "files and folders to other qubes: qvm-copy and qvm-move",
        about: &["Senders, receivers and the commands for people. The receiver needs no", "rights of root."],
        built_of: Some("qrexec-copy"),
        other: "",
        depends: ["", ""],
        provides: &[],
    },
    Package {
        name: "qrexec-rs-usb",
        contents: Contents::Side(Side::Usb),
        summary: "USB devices of one qube in another",
        about: &[
            "The services that hand a device of one qube to the kernel of another, for",
            "both of them.",
        ],
        built_of: None,
        other: "",
        depends: ["qrexec-rs-vm (= @version@)", "qrexec-rs-vm = %{version}-%{release}"],
        provides: &[],
    },
    Package {
        name: "qrexec-rs-remote",
        contents: Contents::Side(Side::Remote),
        summary: "calls to qubes of other machines, over OpenSSH",
        about: &[
            "For the qube that carries calls between this machine and others: one",
            "connection for a machine, one session for a call.",
        ],
        built_of: Some("qrexec-remote"),
        other: "",
        depends: ["openssh-client", "openssh-clients"],
        provides: &[],
    },
    Package {
        name: "qrexec-rs-lab",
        contents: Contents::Side(Side::Lab),
        summary: "Qubes remote exec between VMs that are folders of one machine",
        about: &[
            "A dom0 and named VMs without Xen and without root, to try services and",
            "policy in, and the benchmark.",
        ],
        built_of: Some("qrexec-bench"),
        other: "",
        depends: ["", ""],
        provides: &[],
    },
];

/// The release of upstream's packages whose place these take, with which others compare what they need.
const UPSTREAM: &str = "4.4.2-1";

/// The newest glibc that the packages for rpm may need: that of the oldest dom0 they are for.
const OLDEST_GLIBC: &str = "2.34";

/// Builds them; gives each with its file.
pub(crate) fn run(options: &Options) -> Result<Vec<(&'static Package, PathBuf)>, Failure> {
    let everything = Everything::build(!options.no_pam)?;
    let version = Version::of_this_tree()?;
    let (folder, logins) = match options.format {
        Format::Deb => ("target/debian", Logins::Debian),
        Format::Rpm => ("target/rpm", Logins::SystemAuth { postlogin: true }),
    };
    let out = root().join(options.out.as_deref().unwrap_or(Path::new(folder)));
    fs::create_dir_all(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    let mut staged = Vec::new();
    for package in PACKAGES {
        let folder = out.join("stage").join(package.name);
        stage::fill(package, everything.of(package), &folder, &version, logins)?;
        staged.push(Staged { package, libc: glibc::wanted_by(&folder).ok(), folder });
    }
    match options.format {
        Format::Deb => {
            staged.iter().map(|staged| deb::build(staged, &version, &out, !options.no_pam)).collect()
        }
        Format::Rpm => rpm::build(&staged, &version, &out),
    }
}

/// A package's folder, filled.
struct Staged {
    package: &'static Package,
    folder: PathBuf,
    /// The glibc that it needs, if it needs one.
    libc: Option<String>,
}

/// All that was built.
struct Everything {
    halves: Built,
    tools: Built,
    lab: Built,
}

impl Everything {
    fn build(pam: bool) -> Result<Self, Failure> {
        Ok(Self { halves: lean::build(pam)?, tools: lean::build_tools()?, lab: lean::build_lab()? })
    }

    fn of(&self, package: &Package) -> &Built {
        match package.side() {
            Some(Side::Lab) => &self.lab,
            Some(side) if side.executables().next().is_some() => &self.tools,
            _ => &self.halves,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_side_has_a_package_and_every_package_words() {
        for side in Side::value_variants().iter().filter(|side| **side != Side::All) {
            assert_eq!(
                PACKAGES.iter().filter(|package| package.side() == Some(*side)).count(),
                1,
                "{}",
                side.name()
            );
        }
        for package in PACKAGES {
            assert!(
                package.summary.len() < 80 && package.about.iter().all(|line| line.len() < 79),
                "{package:?}"
            );
        }
    }

    /// `qrexec-switch` reads lists of paths word by word, and knows a program by its folder.
    #[test]
    fn paths_are_words_and_programs_in_their_folders() {
        for side in Side::value_variants() {
            for path in side.files() {
                assert!(path.bytes().all(|byte| byte.is_ascii_graphic()), "{path}");
            }
            let places = ["bin/", "sbin/", "lib/qubes/", "libexec/qubes/"];
            assert!(side.programs().all(|path| places.iter().any(|place| path.starts_with(place))));
        }
    }
}
