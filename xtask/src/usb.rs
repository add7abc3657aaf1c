//! The programs for USB with Debian's kernel in an emulated machine: its `usbip-host`, its `vhci_hcd`, and a gadget of its
//! own as the device. What is tried there is in `tests/usb-kernel`.

use std::fs;
use std::process::Command;

use crate::steps::{Failure, cargo, is_there, root, step};

/// Seconds for the whole of one boot, unless `BOOT_SECONDS` says otherwise. A quiet machine needs a third of it.
const LIMIT: &str = "600";

/// Builds `qrexec-bench`, which is every program, boots once and runs the scenario.
pub(crate) fn run() -> Result<(), Failure> {
    for (program, package) in
        [("qemu-system-x86_64", "qemu-system-x86"), ("busybox", "busybox-static"), ("kmod", "kmod")]
    {
        if !is_there(program, &["--help"]) {
            return Err(format!("{program} is missing: install {package}"));
        }
    }
    let work = root().join("target/usb-kernel");
    fs::create_dir_all(&work).map_err(|error| format!("{}: {error}", work.display()))?;
    step("build", &mut cargo(["build", "--release", "--package", "qrexec-bench", "--bins"]))?;
    let built =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir));
    let program = work.join("qrexec-bench");
    step("strip", Command::new("strip").arg("-o").arg(&program).arg(built.join("release/qrexec-bench")))?;
    let mut boot = Command::new(root().join("tests/usb-kernel/boot.sh"));
    let limit = std::env::var("BOOT_SECONDS").unwrap_or_else(|_| LIMIT.into());
    step("usb", boot.arg(&work).arg(&program).arg(limit))
}
