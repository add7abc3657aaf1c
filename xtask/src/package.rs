//! `cargo xtask package`: the Debian packages of both sides, from the same trees that `install` makes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

use crate::install::{Side, Tree, write};
use crate::lean;
use crate::steps::{Failure, root, said, step};

/// Where the packages go.
#[derive(Clone, Args)]
pub(crate) struct Options {
    /// The folder for the packages
    #[arg(long, default_value = OUT, value_name = "DIR")]
    out: PathBuf,
    /// Without PAM sessions for the users of calls, which need libpam to build with
    #[arg(long)]
    pub(crate) no_pam: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { out: OUT.into(), no_pam: false }
    }
}

/// Where the packages go, unless something else is said.
const OUT: &str = "target/debian";

/// One package.
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) side: Side,
    summary: &'static str,
    /// Packages of the field whose files are in the same places.
    replaces: &'static str,
    /// Files that administrators may edit.
    conffiles: &'static [&'static str],
}

const PACKAGES: &[Package] = &[
    Package {
        name: "qrexec-rs-vm",
        side: Side::Vm,
        summary: "Qubes remote exec for qubes",
        replaces: "qubes-core-qrexec, qrexec-rs-dom0",
        conffiles: &["/etc/pam.d/qrexec"],
    },
    Package {
        name: "qrexec-rs-dom0",
        side: Side::Dom0,
        summary: "Qubes remote exec for dom0",
        replaces: "qubes-core-qrexec, qubes-core-qrexec-dom0, qrexec-rs-vm",
        conffiles: &["/etc/xdg/autostart/qrexec-policy-agent.desktop"],
    },
];

/// Builds them; gives each with its file.
pub(crate) fn run(options: &Options) -> Result<Vec<(&'static Package, PathBuf)>, Failure> {
    let programs = lean::build(!options.no_pam)?;
    let out = root().join(&options.out);
    let mut built = Vec::new();
    let (version, architecture) = (version()?, said(Command::new("dpkg").arg("--print-architecture"))?);
    for package in PACKAGES {
        let stage = out.join(package.name);
        let _ = fs::remove_dir_all(&stage);
        Tree { prefix: Path::new("/usr"), destdir: &stage, side: package.side }.fill(&programs)?;
        let control = control(package, &version, &architecture, !options.no_pam);
        write(&stage.join("DEBIAN/control"), control.as_bytes(), 0o644)?;
        let conffiles: String = package.conffiles.iter().map(|path| format!("{path}\n")).collect();
        write(&stage.join("DEBIAN/conffiles"), conffiles.as_bytes(), 0o644)?;
        let file = out.join(format!("{}_{version}_{architecture}.deb", package.name));
        let mut make = Command::new("dpkg-deb");
        step(package.name, make.args(["--build", "--root-owner-group"]).arg(&stage).arg(&file))?;
        built.push((package, file));
    }
    Ok(built)
}

fn control(package: &Package, version: &str, architecture: &str, pam: bool) -> String {
    // The library, and what `/etc/pam.d/qrexec` names: modules and `common-session`.
    let pam =
        if pam && package.side.has_logins() { ", libpam0g, libpam-modules, libpam-runtime" } else { "" };
    format!(
        "Package: {}\nVersion: {version}\nArchitecture: {architecture}\nSection: admin\nPriority: optional\n\
         Maintainer: The authors of qrexec-rs <qrexec-rs@localhost>\nDepends: libc6, libgcc-s1{pam}\n\
         Conflicts: {replaces}\nReplaces: {replaces}\nDescription: {}\n",
        package.name,
        package.summary,
        replaces = package.replaces,
    )
}

/// The workspace's version.
fn version() -> Result<String, Failure> {
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
        let text = control(&PACKAGES[0], &version().unwrap(), "amd64", true);
        for line in
            ["Package: qrexec-rs-vm", "Architecture: amd64", "Description: Qubes remote exec for qubes"]
        {
            assert!(text.lines().any(|other| other == line), "{text}");
        }
        assert!(text.contains("Depends: libc6, libgcc-s1, libpam0g, libpam-modules, libpam-runtime\n"));
        assert!(text.ends_with('\n'));
        let without = [control(&PACKAGES[0], "1", "amd64", false), control(&PACKAGES[1], "1", "amd64", true)];
        assert!(without.iter().all(|text| text.contains("Depends: libc6, libgcc-s1\n")), "{without:?}");
    }
}
