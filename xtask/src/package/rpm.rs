//! The spec that `rpmbuild` makes packages of, and these packages.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::deb::filled;
use super::{OLDEST_GLIBC, Package, Staged, Version, stage};
use crate::install::{Side, write};
use crate::steps::{Failure, is_there, root, said, step};

/// Upstream's packages with programs of the same names: after each of their updates ours take the places again.
fn upstreams(side: Side) -> &'static str {
    match side {
        Side::Vm => "qubes-core-qrexec, qubes-core-qrexec-vm",
        Side::Dom0 => "qubes-core-qrexec, qubes-core-qrexec-dom0",
        Side::Tools => "qubes-core-agent",
        Side::ToolsDom0 => "qubes-core-admin-client, qubes-core-dom0-linux",
        Side::Copy => "qubes-core-agent, qubes-core-dom0-linux",
        Side::Usb => "qubes-usb-proxy",
        Side::All | Side::Lab | Side::Remote => "",
    }
}

/// Folders that are systems', not packages'.
const SYSTEMS: &[&str] = &[
    "/etc",
    "/etc/xdg",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/sbin",
    "/usr/share",
    "/usr/share/doc",
    "/usr/share/man",
    "/usr/share/man/man1",
    "/usr/share/man/man7",
    "/usr/share/man/man8",
    "/usr/share/bash-completion",
    "/usr/share/bash-completion/completions",
    "/usr/share/fish",
    "/usr/share/fish/vendor_completions.d",
    "/usr/share/zsh",
    "/usr/share/zsh/site-functions",
    "/var",
    "/var/log",
];

/// Makes all of them.
pub(super) fn build(
    staged: &[Staged],
    version: &Version,
    out: &Path,
) -> Result<Vec<(&'static Package, PathBuf)>, Failure> {
    if !is_there("rpmbuild", &["--version"]) {
        return Err("there is no rpmbuild: install the package rpm".into());
    }
    for Staged { package, libc, .. } in staged {
        old_enough(package.name, libc.as_deref())?;
    }
    let spec = spec(staged, version)?;
    let file = out.join("qrexec-rs.spec");
    write(&file, spec.as_bytes(), 0o644)?;
    let place = |name: &str| format!("{name} {}", out.join("build").display());
    let mut make = Command::new("rpmbuild");
    make.args([
        "-bb",
        "--quiet",
        "--define",
        &place("_topdir"),
        "--define",
        &format!("_rpmdir {}", out.display()),
    ]);
    make.args(["--define", "_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm"]).arg(&file);
    step("rpmbuild", make.env("SOURCE_DATE_EPOCH", version.seconds.to_string()))?;
    let architecture = said(Command::new("rpm").args(["--eval", "%{_target_cpu}"]))?;
    let built = staged.iter().map(|Staged { package, folder, .. }| {
        let architecture = if package.side().is_some() { &architecture } else { "noarch" };
        let file = out.join(format!("{}-{}-1.{architecture}.rpm", package.name, version.text));
        whole(folder, &file)?;
        Ok((*package, file))
    });
    built.collect()
}

/// dom0 has an old glibc: a package that needs a newer one could not be installed there.
fn old_enough(name: &str, libc: Option<&str>) -> Result<(), Failure> {
    let numbers =
        |text: &str| text.split('.').filter_map(|part| part.parse::<u32>().ok()).collect::<Vec<_>>();
    match libc {
        Some(libc) if numbers(libc) > numbers(OLDEST_GLIBC) => Err(format!(
            "{name} needs glibc {libc}, and dom0 may have {OLDEST_GLIBC} only: build on a system with an older one"
        )),
        _ => Ok(()),
    }
}

/// Whether a package has every file of its folder and no other: what a spec leaves out vanishes without a word.
fn whole(folder: &Path, package: &Path) -> Result<(), Failure> {
    let text =
        said(Command::new("rpm").args(["-qp", "--nosignature", "--qf", "[%{FILENAMES}\n]"]).arg(package))?;
    let packed: BTreeSet<String> = text.lines().map(str::to_owned).collect();
    let staged = stage::files(folder)?;
    let staged: BTreeSet<String> = staged.iter().map(|path| below(folder, path)).collect();
    let missing: Vec<&String> = staged.difference(&packed).collect();
    let is_file = |path: &&&String| fs::symlink_metadata(folder.join(path.trim_start_matches('/'))).is_err();
    let others: Vec<&String> = packed.iter().collect::<Vec<_>>().iter().filter(is_file).copied().collect();
    if missing.is_empty() && others.is_empty() {
        Ok(())
    } else {
        Err(format!("{}: not packed {missing:?}, not of its folder {others:?}", package.display()))
    }
}

fn below(folder: &Path, path: &Path) -> String {
    format!("/{}", path.strip_prefix(folder).unwrap_or(path).display())
}

fn spec(staged: &[Staged], version: &Version) -> Result<String, Failure> {
    let stages: Vec<String> = staged.iter().map(|staged| staged.folder.display().to_string()).collect();
    let mut text = part("head.spec")?
        .replace("@version@", &version.text)
        .replace("@stages@", &stages.join(" "))
        .replace(
            "@stage@",
            &staged
                .first()
                .and_then(|staged| staged.folder.parent())
                .map(Path::display)
                .map(|path| path.to_string())
                .unwrap_or_default(),
        );
    for staged in staged {
        text.push_str(&package(staged)?);
    }
    let date = said(
        Command::new("date")
            .args(["-u", "-d"])
            .arg(format!("@{}", version.seconds))
            .arg("+%a %b %d %Y")
            .env("LC_ALL", "C"),
    )?;
    text.push_str(&format!("\n%changelog\n* {date} {} - {}-1\n- Made of the sources of this version; what is new is in NEWS.gz\n", super::MAINTAINER, version.text));
    Ok(text)
}

fn part(name: &str) -> Result<String, Failure> {
    let path = root().join("dist/rpm").join(name);
    fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
}

/// One package's sections.
fn package(staged: &Staged) -> Result<String, Failure> {
    let Staged { package, folder, .. } = staged;
    let name = package.name;
    let mut summary = package.summary.chars();
    let summary: String = summary.next().into_iter().flat_map(char::to_uppercase).chain(summary).collect();
    let mut text = format!("\n%package -n {name}\nSummary: {summary}\n");
    if package.side().is_none() {
        text.push_str("BuildArch: noarch\n");
    }
    if package.is_switched() {
        text.push_str("Requires: qrexec-rs-switch = %{version}-%{release}\n");
        text.push_str("Requires(post): qrexec-rs-switch\nRequires(preun): qrexec-rs-switch\n");
    }
    for wanted in package.depends[1].split(", ").filter(|wanted| !wanted.is_empty()) {
        text.push_str(&format!("Requires: {wanted}\n"));
    }
    if !package.other.is_empty() {
        text.push_str(&format!("Conflicts: {}\n", package.other));
    }
    text.push_str(&format!("\n%description -n {name}\n{}\n", package.about.join("\n")));
    if let Some(side) = package.side().filter(|_| package.is_switched()) {
        for (section, file) in [("post", "post"), ("preun", "preun")] {
            text.push_str(&format!("\n%{section} -n {name}\n{}", filled(&part(file)?, side)));
        }
        let trigger = filled(&part("trigger")?, side);
        text.push_str(&format!("\n%triggerin -n {name} -- {}\n{trigger}", upstreams(side)));
        for package in upstreams(side).split(", ") {
            let trigger = filled(&part("gone")?, side).replace("@package@", package);
            text.push_str(&format!("\n%triggerpostun -n {name} -- {package}\n{trigger}"));
        }
    }
    text.push_str(&format!("\n%files -n {name}\n{}", files(package, folder)?));
    Ok(text)
}

/// Its files and the folders that are its own, each with its permissions.
fn files(package: &Package, folder: &Path) -> Result<String, Failure> {
    let mut text = String::from("%defattr(-,root,root,-)\n");
    let conffiles: Vec<&str> = match package.side() {
        Some(side) if !package.is_switched() => side.conffiles().collect(),
        _ => Vec::new(),
    };
    let found = said(Command::new("find").arg(folder).args(["-mindepth", "1", "-type", "d"]))?;
    let folders: BTreeSet<String> = found.lines().map(|path| below(folder, Path::new(path))).collect();
    for path in folders.iter().filter(|path| !SYSTEMS.contains(&path.as_str())) {
        text.push_str(&format!("%dir %attr(755,root,root) {path}\n"));
    }
    for path in stage::files(folder)? {
        let name = below(folder, &path);
        let kind = if conffiles.contains(&name.as_str()) {
            "%config(noreplace) "
        } else if name.starts_with("/usr/share/doc/") {
            "%doc "
        } else {
            ""
        };
        if path.is_symlink() {
            text.push_str(&format!("{kind}{name}\n"));
        } else {
            let mode = fs::metadata(&path).map_err(|error| format!("{name}: {error}"))?.permissions().mode()
                & 0o7777;
            text.push_str(&format!("{kind}%attr({mode:o},root,root) {name}\n"));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::PACKAGES;
    use super::*;

    #[test]
    fn every_switched_side_names_whose_updates_it_follows() {
        for package in PACKAGES.iter().filter(|package| package.is_switched()) {
            assert!(!upstreams(package.side().unwrap()).is_empty(), "{}", package.name);
        }
    }

    #[test]
    fn a_program_that_needs_a_newer_glibc_is_not_packed() {
        assert!(old_enough("x", Some("2.34")).is_ok() && old_enough("x", Some("2.4")).is_ok());
        assert!(old_enough("x", None).is_ok() && old_enough("x", Some("2.36")).is_err());
    }

    #[test]
    fn what_rpm_runs_is_shell_with_every_name_in_it() {
        for side in [Side::Vm, Side::Dom0, Side::Copy] {
            for script in ["post", "preun", "trigger", "gone"] {
                let text = filled(&part(script).unwrap(), side).replace("@package@", "qubes-core-agent");
                assert!(!text.contains('@') && !text.contains("#half"), "{text}");
                step(script, Command::new("sh").args(["-n", "-c", &text])).unwrap();
            }
        }
    }

    #[test]
    fn a_spec_names_what_is_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("usr/lib/qrexec-rs/copy/usr/bin/qvm-copy"), b"", 0o755).unwrap();
        let package = PACKAGES.iter().find(|package| package.name == "qrexec-rs-copy").unwrap();
        let staged = [Staged { package, folder: folder.path().to_owned(), libc: None }];
        let text = spec(&staged, &Version { text: "1~git1".into(), seconds: 0 }).unwrap();
        for line in [
            "Version:        1~git1",
            "%dir %attr(755,root,root) /usr/lib/qrexec-rs/copy",
            "%attr(755,root,root) /usr/lib/qrexec-rs/copy/usr/bin/qvm-copy",
            "%triggerin -n qrexec-rs-copy -- qubes-core-agent, qubes-core-dom0-linux",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("%dir %attr(755,root,root) /usr/bin\n"));
    }
}
