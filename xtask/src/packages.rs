//! Debian's packages, installed by name where that is possible.

use std::path::Path;
use std::process::Command;

use crate::steps::step;

/// Installs the packages whose programs are missing.
pub(crate) fn install_packages(wanted: &[(&str, &str)]) {
    let missing: Vec<&str> =
        wanted.iter().filter(|(what, _)| !has(what)).map(|(_, package)| *package).collect();
    install(&missing);
}

/// Installs packages, where that is possible; says what could not be.
pub(crate) fn install(packages: &[&str]) {
    if packages.is_empty() || !rustix::process::geteuid().is_root() || !has("apt-get") {
        return;
    }
    let install = ["-y", "-qq", "--no-install-recommends", "install"];
    let mut update = Command::new("apt-get");
    let mut command = Command::new("apt-get");
    command.args(install).args(packages).env("DEBIAN_FRONTEND", "noninteractive");
    let name = format!("installing {}", packages.join(" "));
    let result =
        step("apt-get update", update.args(["-qq", "update"])).and_then(|()| step(&name, &mut command));
    if let Err(error) = result {
        eprintln!("{error}; going on without");
    }
}

/// Whether a file is there, or a program of that name.
pub(crate) fn has(what: &str) -> bool {
    if what.starts_with('/') {
        return Path::new(what).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(what).is_file())
}
