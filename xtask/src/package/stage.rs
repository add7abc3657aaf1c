//! The folder that becomes a package: what `install` makes, in the place from which `qrexec-switch` gives it out, stripped,
//! with compressed pages and with what every package tells about itself.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Contents, Package, Version};
use crate::install::{EXECUTABLE, Side, Tree, write};
use crate::lean::Built;
use crate::licences;
use crate::logins::Logins;
use crate::metadata::Metadata;
use crate::steps::{Failure, root, said, step};

/// Where a side's files wait for their places, below the root.
pub(crate) const HOME: &str = "usr/lib/qrexec-rs";

/// Fills the folder.
pub(super) fn fill(
    package: &Package,
    built: &Built,
    stage: &Path,
    version: &Version,
    logins: Logins,
) -> Result<(), Failure> {
    let _ = fs::remove_dir_all(stage);
    match package.contents {
        Contents::Side(side) if side.has_upstream() => waiting(side, built, stage, logins)?,
        Contents::Side(side) => {
            Tree { prefix: Path::new("/usr"), destdir: stage, side, logins }.fill(built)?;
        }
        Contents::Switch => switch(stage)?,
    }
    let papers = stage.join("usr/share/doc").join(package.name);
    write(&papers.join("copyright"), copyright(package)?.as_bytes(), 0o644)?;
    let news = fs::read(root().join("CHANGELOG.md")).map_err(|error| format!("CHANGELOG.md: {error}"))?;
    write(&papers.join("NEWS"), &news, 0o644)?;
    let changes = format!(
        "{} ({}) unstable; urgency=medium\n\n  * Made of the sources of this version; what is new is in NEWS.gz.\n\n -- {}  {}\n",
        package.name,
        version.text,
        super::MAINTAINER,
        version.date()?
    );
    write(&papers.join("changelog"), changes.as_bytes(), 0o644)?;
    let files = files(stage)?;
    for file in &files {
        finish(file, stage)?;
    }
    Ok(())
}

/// A side whose names upstream has, too: below `HOME`. Folders that are shared are in their places at once.
fn waiting(side: Side, built: &Built, stage: &Path, logins: Logins) -> Result<(), Failure> {
    let home = stage.join(HOME).join(side.name());
    Tree { prefix: Path::new("/usr"), destdir: &home, side, logins }.fill(built)?;
    for folder in side.folders() {
        make(&stage.join(folder.trim_start_matches('/')))?;
        let _ = fs::remove_dir(home.join(folder.trim_start_matches('/')));
    }
    // Links to the one executable lead to this package's, whoever has its place; what is for USB uses that of a qube.
    let owner = if side == Side::Usb { Side::Vm } else { side };
    let executable = Path::new("/").join(HOME).join(owner.name()).join("usr").join(EXECUTABLE);
    let own = home.join("usr").join(EXECUTABLE);
    for link in files(&home)?.into_iter().filter(|path| path.is_symlink() && *path != own) {
        let to = fs::read_link(&link).map_err(|error| format!("{}: {error}", link.display()))?;
        if to.ends_with(EXECUTABLE) || (side == Side::Usb && to.ends_with("qrexec")) {
            fs::remove_file(&link)
                .and_then(|()| symlink(&executable, &link))
                .map_err(|error| format!("{}: {error}", link.display()))?;
        }
    }
    Ok(())
}

/// The program that gives the places out.
fn switch(stage: &Path) -> Result<(), Failure> {
    let from = |name: &str| {
        let path = root().join("dist/switch").join(name);
        fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    write(&stage.join("usr/sbin/qrexec-switch"), &from("qrexec-switch")?, 0o755)?;
    write(&stage.join("usr/share/man/man8/qrexec-switch.8"), &from("qrexec-switch.8")?, 0o644)
}

/// Strips executables; compresses pages of the manual and papers, without a date.
fn finish(path: &Path, stage: &Path) -> Result<(), Failure> {
    if path.is_symlink() {
        return Ok(());
    }
    let name = path.strip_prefix(stage).unwrap_or(path).to_string_lossy().into_owned();
    let is_paper = name.contains("share/man/man") || name.ends_with("/NEWS") || name.ends_with("/changelog");
    if is_paper && !name.ends_with(".gz") {
        return step(&name, Command::new("gzip").args(["-9nf"]).arg(path));
    }
    let bytes = fs::read(path).map_err(|error| format!("{name}: {error}"))?;
    if bytes.starts_with(b"\x7fELF") {
        let mut strip = Command::new("strip");
        step(&name, strip.args(["--strip-all", "-R", ".comment", "-R", ".note"]).arg(path))?;
        fs::set_permissions(path, PermissionsExt::from_mode(0o755))
            .map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(())
}

/// Who may do what with it, as Debian wants to read that; what is linked in, by its own licence.
fn copyright(package: &Package) -> Result<String, Failure> {
    let mut text = String::from(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: qrexec-rs\n\n\
         Files: *\nCopyright: 2026 The authors of qrexec-rs\nLicense: GPL-2.0-or-later\n \
         On Debian systems the text is in /usr/share/common-licenses/GPL-2.\n",
    );
    let Some(of) = package.built_of() else { return Ok(text) };
    text.push_str("Comment: The executables contain parts of these crates, each under its own licence:\n");
    let metadata = Metadata::read()?;
    let mut lines: Vec<String> = licences::contained(&metadata, of);
    lines.sort();
    lines.dedup();
    for line in lines {
        text.push_str(&format!(" {line}\n"));
    }
    Ok(text)
}

/// Every path below a folder that is no folder, sorted.
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        let entries = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        for entry in entries {
            let entry = entry.map_err(|error| format!("{}: {error}", folder.display()))?;
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder { open.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found.sort();
    Ok(found)
}

/// A folder with the permissions of one, whatever the umask.
pub(super) fn make(folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))
}

/// Kilobytes on the disk, as Debian counts them.
pub(super) fn size(stage: &Path) -> Result<String, Failure> {
    let text = said(Command::new("du").args(["-k", "-s", "--apparent-size", "--exclude=DEBIAN"]).arg(stage))?;
    Ok(text.split_whitespace().next().unwrap_or("0").to_owned())
}
