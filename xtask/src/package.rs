//! `cargo xtask package`: the Debian packages of both sides, from the same trees that `install` makes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

use crate::install::{Side, Tree, write};
use crate::logins::Logins;
use crate::steps::{Failure, root, said, step};
use crate::{glibc, lean};

/// Where the packages go.
#[derive(Clone, Args)]
pub(crate) struct Options {
    /// The folder for the packages
    #[arg(long, default_value = OUT, value_name = "DIR")]
    out: PathBuf,
    /// Without PAM sessions for the users of calls, which need libpam to build with
    #[arg(long)]
    pub(crate) no_pam: bool,
    /// Instead of them, the ZIP for Windows VMs
    #[arg(long)]
    pub(crate) windows: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { out: OUT.into(), no_pam: false, windows: false }
    }
}

/// Where the packages go, unless something else is said.
const OUT: &str = "target/debian";

/// One package.
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) side: Side,
    summary: &'static str,
    /// Packages of upstream whose files are in the same places.
    replaces: &'static str,
    /// Those of them that others may want: what they ask of it is here.
    provides: &'static str,
}

const PACKAGES: &[Package] = &[
    Package {
        name: "qrexec-rs-vm",
        side: Side::Vm,
        summary: "Qubes remote exec for qubes",
        replaces: "qubes-core-qrexec, qrexec-rs-dom0",
        provides: "qubes-core-qrexec (= @field@)",
    },
    Package {
        name: "qrexec-rs-dom0",
        side: Side::Dom0,
        summary: "Qubes remote exec for dom0",
        replaces: "qubes-core-qrexec, qubes-core-qrexec-dom0, qrexec-rs-vm",
        provides: "qubes-core-qrexec (= @field@), qubes-core-qrexec-dom0 (= @field@)",
    },
    Package {
        name: "qrexec-rs-tools",
        side: Side::Tools,
        summary: "Commands and files in other qubes: qvm-run, qvm-open-in-vm and the services behind them",
        replaces: "",
        provides: "",
    },
    Package {
        name: "qrexec-rs-lab",
        side: Side::Lab,
        summary: "Qubes remote exec between VMs that are folders of one machine, and its benchmark",
        replaces: "",
        provides: "",
    },
];

/// The release of upstream's packages whose place these take, with which others compare what they need.
const FIELD: &str = "4.4.2-1";

/// Builds them; gives each with its file.
pub(crate) fn run(options: &Options) -> Result<Vec<(&'static Package, PathBuf)>, Failure> {
    let (programs, lab) = (lean::build(!options.no_pam)?, lean::build_lab()?);
    let tools = lean::build_tools()?;
    let out = root().join(&options.out);
    let mut built = Vec::new();
    let (version, architecture) = (version()?, said(Command::new("dpkg").arg("--print-architecture"))?);
    for package in PACKAGES {
        let stage = out.join(package.name);
        let _ = fs::remove_dir_all(&stage);
        Tree { prefix: Path::new("/usr"), destdir: &stage, side: package.side, logins: Logins::Debian }
            .fill(match package.side {
                Side::Lab => &lab,
                Side::Tools => &tools,
                _ => &programs,
            })?;
        let libc = glibc::wanted_by(&stage)?;
        let control = control(package, &version, &architecture, &libc, !options.no_pam);
        write(&stage.join("DEBIAN/control"), control.as_bytes(), 0o644)?;
        let conffiles: String = package.side.conffiles().map(|path| format!("{path}\n")).collect();
        write(&stage.join("DEBIAN/conffiles"), conffiles.as_bytes(), 0o644)?;
        for script in SCRIPTS.iter().filter(|_| package.side.has_group()) {
            let text = maintainer_script(script, package.side)?;
            write(&stage.join("DEBIAN").join(script), text.as_bytes(), 0o755)?;
        }
        let file = out.join(format!("{}_{version}_{architecture}.deb", package.name));
        let mut make = Command::new("dpkg-deb");
        step(package.name, make.args(["--build", "--root-owner-group"]).arg(&stage).arg(&file))?;
        built.push((package, file));
    }
    Ok(built)
}

/// What `dpkg` runs, from `dist/debian`.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// One of them with the names of a side in it.
fn maintainer_script(name: &str, side: Side) -> Result<String, Failure> {
    let path = root().join("dist/debian").join(name);
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let words = |words: &mut dyn Iterator<Item = &'static str>| words.collect::<Vec<_>>().join(" ");
    Ok(text
        .replace("@units@", &words(&mut side.units()))
        .replace("@tmpfiles@", &words(&mut side.tmpfiles()))
        .replace("@folders@", &words(&mut side.shared())))
}

fn control(package: &Package, version: &str, architecture: &str, libc: &str, pam: bool) -> String {
    // The library, and what `/etc/pam.d/qrexec` names: modules and `common-session`.
    let pam =
        if pam && package.side.has_logins() { ", libpam0g, libpam-modules, libpam-runtime" } else { "" };
    // The installation makes a group.
    let passwd = if package.side.has_group() { ", passwd" } else { "" };
    format!(
        "Package: {}\nVersion: {version}\nArchitecture: {architecture}\nSection: admin\nPriority: optional\n\
         Maintainer: The authors of qrexec-rs <qrexec-rs@localhost>\n\
         Depends: libc6 (>= {libc}), libgcc-s1{pam}{passwd}\n{}Description: {}\n",
        package.name,
        place_of_upstreams(package),
        package.summary,
    )
}

/// What a package says of upstream's packages, whose place it takes; that of the lab takes nobody's.
fn place_of_upstreams(package: &Package) -> String {
    let replaces = package.replaces;
    if replaces.is_empty() {
        return String::new();
    }
    // Before that release upstream's agent had some of these files.
    format!(
        "Provides: {}\nConflicts: {replaces}\nBreaks: qubes-core-agent (<< 4.4.0)\n\
         Replaces: {replaces}, qubes-core-agent (<< 4.4.0)\n",
        package.provides.replace("@field@", FIELD),
    )
}

/// The workspace's version.
pub(crate) fn version() -> Result<String, Failure> {
    let path = root().join("Cargo.toml");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let manifest: toml::Table = text.parse().map_err(|error| format!("{}: {error}", path.display()))?;
    let version = manifest.get("workspace").and_then(|workspace| workspace.get("package")?.get("version"));
    let version = version.and_then(toml::Value::as_str);
    version.map(str::to_owned).ok_or_else(|| format!("{}: no version", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_file_has_what_debian_wants() {
        let text = control(&PACKAGES[0], &version().unwrap(), "amd64", "2.34", true);
        for line in [
            "Package: qrexec-rs-vm",
            "Architecture: amd64",
            "Description: Qubes remote exec for qubes",
            "Depends: libc6 (>= 2.34), libgcc-s1, libpam0g, libpam-modules, libpam-runtime, passwd",
            "Provides: qubes-core-qrexec (= 4.4.2-1)",
        ] {
            assert!(text.lines().any(|other| other == line), "{text}");
        }
        assert!(text.ends_with('\n'));
        let without =
            [(0, false), (1, true)].map(|(n, pam)| control(&PACKAGES[n], "1", "amd64", "2.34", pam));
        assert!(without.iter().all(|text| text.contains("libgcc-s1, passwd\n")), "{without:?}");
        let lab = control(&PACKAGES[3], "1", "amd64", "2.34", true);
        assert!(lab.contains("libgcc-s1\nDescription"), "{lab}");
    }

    #[test]
    fn what_dpkg_runs_is_shell_with_every_name_in_it() {
        let scripted = PACKAGES.iter().filter(|package| package.side.has_group());
        for (package, script) in scripted.flat_map(|package| SCRIPTS.map(|script| (package, script))) {
            let text = maintainer_script(script, package.side).unwrap();
            assert!(!text.contains('@'), "{text}");
            step(script, Command::new("sh").args(["-n", "-c", &text])).unwrap();
            assert!(package.side.units().all(|unit| text.contains(unit)), "{text}");
        }
    }
}
