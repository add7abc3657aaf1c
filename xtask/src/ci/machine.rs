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

/// What is looked for, by a program or by a file, and the package that has it.
///
/// `pv` is the reader that splices on; libFuzzer is C++; the packages open PAM sessions and are tried in a system of
/// their own; `setpriv` and `prlimit` make an ordinary user of root; systemd has the journal.
const NEEDED: [(&str, &str); 7] = [
    ("pv", "pv"),
    ("c++", "g++"),
    ("/usr/include/security/pam_appl.h", "libpam0g-dev"),
    ("debootstrap", "debootstrap"),
    ("setpriv", "util-linux"),
    ("/lib/systemd/systemd-journald", "systemd"),
    ("script", "bsdutils"),
];

/// Installs what is missing. What cannot be installed is said by the test that would have needed it.
pub(super) fn install_what_tests_need() {
    install_packages(&NEEDED);
}

/// Whether Xen can be booted here, after an attempt to install what that takes.
pub(super) fn can_boot_xen() -> bool {
    let missing: Vec<&str> =
        FOR_XEN.iter().copied().filter(|package| !is_there("dpkg", &["-s", package])).collect();
    install(&missing);
    let hypervisor = ["-qq", "download", "--print-uris", "xen-hypervisor-4.17-amd64"];
    let packages = root().join("target/xen/fetched").exists() || is_there("apt-get", &hypervisor);
    has("qemu-system-x86_64") && has("busybox") && packages
}

/// Gives a file or folder these permissions.
pub(super) fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}
