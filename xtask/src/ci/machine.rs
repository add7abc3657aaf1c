//! What tests need of the machine, installed by name where that is possible.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::packages::{has, install, install_packages};
use crate::steps::{is_there, root};

/// For a boot of Xen: an emulator, something to boot, and the C library that is tried against ours.
const FOR_XEN: [&str; 6] =
    ["qemu-system-x86", "busybox-static", "xz-utils", "binutils", "libxen-dev", "pkg-config"];

/// For a boot of Debian's kernel with its modules.
const FOR_LINUX: [&str; 4] = ["qemu-system-x86", "busybox-static", "kmod", "binutils"];

/// What is looked for, by a program or by a file, and the package that has it.
///
/// `pv` is the reader that splices on; libFuzzer is C++; the packages open PAM sessions and are tried in a system of
/// their own; `setpriv` and `prlimit` make an ordinary user of root; systemd has the journal; calls to other machines are
/// tried over a real sshd; the small client is linked against musl.
const NEEDED: [(&str, &str); 10] = [
    ("pv", "pv"),
    ("c++", "g++"),
    ("/usr/include/security/pam_appl.h", "libpam0g-dev"),
    ("debootstrap", "debootstrap"),
    ("setpriv", "util-linux"),
    ("/lib/systemd/systemd-journald", "systemd"),
    ("script", "bsdutils"),
    ("/usr/sbin/sshd", "openssh-server"),
    ("/usr/bin/ssh", "openssh-client"),
    ("musl-gcc", "musl-tools"),
];

/// Without this folder root's sshd does not start. A system makes it when its own sshd starts, which it does nowhere in CI.
const SSHD_FOLDER: &str = "/run/sshd";

/// Installs what is missing. What cannot be installed is said by the test that would have needed it.
pub(super) fn install_what_tests_need() {
    install_packages(&NEEDED);
    if rustix::process::geteuid().is_root() && has("/usr/sbin/sshd") && !has(SSHD_FOLDER) {
        let made = fs::create_dir_all(SSHD_FOLDER).and_then(|()| set_mode(Path::new(SSHD_FOLDER), 0o755));
        if let Err(error) = made {
            eprintln!("{SSHD_FOLDER}: {error}; going on without");
        }
    }
}

/// Whether Xen can be booted here, after an attempt to install what that takes.
pub(super) fn can_boot_xen() -> bool {
    install_by_name(&FOR_XEN);
    let hypervisor = ["-qq", "download", "--print-uris", "xen-hypervisor-4.17-amd64"];
    let packages = root().join("target/xen/fetched").exists() || is_there("apt-get", &hypervisor);
    has("qemu-system-x86_64") && has("busybox") && packages
}

/// The same for Debian's kernel.
pub(super) fn can_boot_linux() -> bool {
    install_by_name(&FOR_LINUX);
    let kernel = ["-qq", "depends", "linux-image-amd64"];
    let package = root().join("target/usb-kernel/fetched").exists() || is_there("apt-cache", &kernel);
    ["qemu-system-x86_64", "busybox", "kmod"].into_iter().all(has) && package
}

/// Installs packages that have no program to look for.
fn install_by_name(wanted: &[&str]) {
    let missing: Vec<&str> =
        wanted.iter().copied().filter(|package| !is_there("dpkg", &["-s", package])).collect();
    install(&missing);
}

/// Gives a file or folder these permissions.
pub(super) fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}
