//! What dpkg wants to know of a package, and the package itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{MAINTAINER, Package, Staged, UPSTREAM, Version, stage};
use crate::install::{Side, write};
use crate::steps::{Failure, root, said, step};

/// What `dpkg` runs, from `dist/debian`.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// What lintian says and why it is meant so, for files of these names.
const OVERRIDES: &[(&str, &str)] = &[
    // Every call starts it: without a dynamic linker that is quicker.
    ("qrexec-client-vm", "statically-linked-binary"),
];

/// Makes one.
pub(super) fn build(
    staged: &Staged,
    version: &Version,
    out: &Path,
    pam: bool,
) -> Result<(&'static Package, PathBuf), Failure> {
    let Staged { package, folder, libc } = staged;
    let architecture = match libc {
        Some(_) => said(Command::new("dpkg").arg("--print-architecture"))?,
        None if package.side().is_some() => said(Command::new("dpkg").arg("--print-architecture"))?,
        None => "all".to_owned(),
    };
    overrides(package, folder)?;
    let control = control(package, &version.text, &architecture, libc.as_deref(), pam);
    let control = control.replace("@size@", &stage::size(folder)?);
    let sums = sums(folder)?;
    let place = folder.join("DEBIAN");
    write(&place.join("control"), control.as_bytes(), 0o644)?;
    write(&place.join("md5sums"), sums.as_bytes(), 0o644)?;
    let conffiles: String = match package.side() {
        Some(side) if !package.is_switched() => side.conffiles().map(|path| format!("{path}\n")).collect(),
        _ => String::new(),
    };
    if !conffiles.is_empty() {
        write(&place.join("conffiles"), conffiles.as_bytes(), 0o644)?;
    }
    if let Some(side) = package.side().filter(|_| package.is_switched()) {
        for script in SCRIPTS {
            write(&place.join(script), maintainer_script(script, side)?.as_bytes(), 0o755)?;
        }
    }
    modes(folder)?;
    let file = out.join(format!("{}_{}_{architecture}.deb", package.name, version.text));
    let mut make = Command::new("dpkg-deb");
    make.args(["-Zxz", "--root-owner-group", "--build"]).arg(folder).arg(&file);
    step(package.name, make.env("SOURCE_DATE_EPOCH", version.seconds.to_string()))?;
    Ok((package, file))
}

/// Folders are open to all, whatever the umask was.
fn modes(folder: &Path) -> Result<(), Failure> {
    step("folders", Command::new("find").arg(folder).args(["-type", "d", "-exec", "chmod", "755", "{}", "+"]))
}

fn overrides(package: &Package, folder: &Path) -> Result<(), Failure> {
    let mut text = String::new();
    for path in stage::files(folder)?.iter().filter(|path| !path.is_symlink()) {
        for (name, tag) in OVERRIDES.iter().filter(|(name, _)| path.ends_with(name)) {
            let mode = fs::metadata(path).map_err(|error| format!("{name}: {error}"))?.permissions().mode();
            if mode & 0o100 != 0 {
                let path = path.strip_prefix(folder).unwrap_or(path);
                text.push_str(&format!("{}: {tag} [{}]\n", package.name, path.display()));
            }
        }
    }
    if text.is_empty() {
        return Ok(());
    }
    write(&folder.join("usr/share/lintian/overrides").join(package.name), text.as_bytes(), 0o644)
}

fn sums(folder: &Path) -> Result<String, Failure> {
    let script =
        "find . -type f ! -path './DEBIAN/*' -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 -r md5sum";
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(folder);
    let sums = said(&mut command)?;
    Ok(format!("{sums}\n"))
}

/// One of dpkg's scripts with the names of a side in it.
fn maintainer_script(name: &str, side: Side) -> Result<String, Failure> {
    let path = root().join("dist/debian").join(name);
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(filled(&text, side))
}

/// A script with the names of a side in it; of a part that is for the halves of a system only, without that.
pub(super) fn filled(text: &str, side: Side) -> String {
    let words = |words: &mut dyn Iterator<Item = &'static str>| words.collect::<Vec<_>>().join(" ");
    let mut kept = String::new();
    let mut keeps = true;
    for line in text.lines() {
        match line {
            "#half" => keeps = side.is_half(),
            "#end" => keeps = true,
            _ if keeps => {
                kept.push_str(line);
                kept.push('\n');
            }
            _ => {}
        }
    }
    kept.replace("@side@", &side.name())
        .replace("@units@", &words(&mut side.units()))
        .replace("@tmpfiles@", &words(&mut side.tmpfiles()))
        .replace("@folders@", &words(&mut side.shared()))
}

fn control(package: &Package, version: &str, architecture: &str, libc: Option<&str>, pam: bool) -> String {
    let mut depends: Vec<String> = Vec::new();
    if let Some(libc) = libc {
        depends.push(format!("libc6 (>= {libc}), libgcc-s1"));
    }
    if package.is_switched() {
        depends.push(format!("qrexec-rs-switch (= {version})"));
    }
    // The library, and what `/etc/pam.d/qrexec` names: modules and `common-session`.
    let wanted = package.depends[0]
        .split(", ")
        .filter(|name| !name.is_empty() && (pam || !name.starts_with("libpam")));
    depends.extend(wanted.map(|name| name.replace("@version@", version)));
    let mut text = format!(
        "Package: {}\nVersion: {version}\nArchitecture: {architecture}\nSection: admin\nPriority: optional\n\
         Maintainer: {MAINTAINER}\nInstalled-Size: @size@\n",
        package.name
    );
    if !depends.is_empty() {
        text.push_str(&format!("Depends: {}\n", depends.join(", ")));
    }
    // Only what is of this project: nothing of upstream's is ever removed for it.
    if !package.other.is_empty() {
        text.push_str(&format!("Conflicts: {}\n", package.other));
    }
    if !package.provides.is_empty() {
        let provides: Vec<String> =
            package.provides.iter().map(|name| format!("{name} (= {UPSTREAM})")).collect();
        text.push_str(&format!("Provides: {}\n", provides.join(", ")));
    }
    text.push_str(&format!("Description: {}\n", package.summary));
    for line in package.about {
        text.push_str(&format!(" {line}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::{PACKAGES, version};
    use super::*;

    fn package(name: &str) -> &'static Package {
        PACKAGES.iter().find(|package| package.name == name).unwrap()
    }

    #[test]
    fn a_control_file_has_what_debian_wants() {
        let release = version::release().unwrap();
        let text = control(package("qrexec-rs-vm"), &release, "amd64", Some("2.34"), true);
        let depends = format!(
            "Depends: libc6 (>= 2.34), libgcc-s1, qrexec-rs-switch (= {release}), libpam0g, libpam-modules, \
             libpam-runtime, passwd"
        );
        for line in [
            "Package: qrexec-rs-vm",
            "Architecture: amd64",
            "Description: Qubes remote exec for qubes",
            &depends,
            "Provides: qubes-core-qrexec (= 4.4.2-1)",
        ] {
            assert!(text.lines().any(|other| other == line), "{text}");
        }
        assert!(text.ends_with('\n'));
        let without = control(package("qrexec-rs-vm"), "1", "amd64", Some("2.34"), false);
        assert!(without.contains("qrexec-rs-switch (= 1), passwd\n"), "{without}");
        let lab = control(package("qrexec-rs-lab"), "1", "amd64", Some("2.34"), true);
        assert!(lab.contains("Depends: libc6 (>= 2.34), libgcc-s1\nDescription"), "{lab}");
        let usb = control(package("qrexec-rs-usb"), "1", "amd64", None, true);
        assert!(usb.contains("Depends: qrexec-rs-switch (= 1), qrexec-rs-vm (= 1)\n"), "{usb}");
    }

    /// Who installs one of these loses nothing of upstream's.
    #[test]
    fn nothing_of_upstreams_is_removed() {
        for package in PACKAGES {
            let text = control(package, "1", "amd64", Some("2.34"), true);
            for line in text.lines() {
                let removes =
                    ["Conflicts:", "Breaks:", "Replaces:"].iter().any(|field| line.starts_with(field));
                let names = line.split([':', ',']).skip(1).map(str::trim);
                assert!(!removes || names.into_iter().all(|name| name.starts_with("qrexec-rs-")), "{line}");
            }
        }
    }

    #[test]
    fn what_dpkg_runs_is_shell_with_every_name_in_it() {
        let sides = PACKAGES.iter().filter(|package| package.is_switched()).filter_map(Package::side);
        for (side, script) in sides.flat_map(|side| SCRIPTS.map(|script| (side, script))) {
            let text = maintainer_script(script, side).unwrap();
            assert!(!text.contains('@') && !text.contains("#half"), "{text}");
            step(script, Command::new("sh").args(["-n", "-c", &text])).unwrap();
            assert!(side.units().all(|unit| text.contains(unit)), "{text}");
            assert_eq!(side.is_half() && script == "postinst", text.contains("groupadd"), "{text}");
        }
    }
}
