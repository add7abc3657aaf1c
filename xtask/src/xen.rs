//! The programs between real domains: Xen, dom0 and two VMs in an emulated machine. What is tried there is in `tests/xen`.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::steps::{Failure, cargo, is_there, root, step};

/// Seconds for the whole of one boot, unless `BOOT_SECONDS` says otherwise. A quiet machine needs a third of it.
const LIMIT: &str = "900";

/// What of Xen's is linked with the C peer.
const LIBRARIES: [&str; 5] = ["-lxenvchan", "-lxenevtchn", "-lxengnttab", "-lxenstore", "-ldl"];

/// Small programs for single channels.
const EXAMPLES: [&str; 3] = ["xen_peer", "xen_inplace", "xen_flow"];

/// Builds everything, boots once and runs the suites that are named, all if none is.
pub(crate) fn run(suites: &[String], oxenstored: bool) -> Result<(), Failure> {
    for program in ["qemu-system-x86_64", "busybox", "xz", "strip"] {
        if !is_there(program, &["--help"]) {
            return Err(format!(
                "{program} is missing: install qemu-system-x86 busybox-static xz-utils binutils"
            ));
        }
    }
    let work = root().join("target/xen");
    let programs = work.join("programs");
    fs::create_dir_all(&programs).map_err(|error| format!("{}: {error}", programs.display()))?;
    build(&programs)?;
    let mut boot = Command::new(root().join("tests/xen/boot.sh"));
    let limit = std::env::var("BOOT_SECONDS").unwrap_or_else(|_| LIMIT.into());
    boot.arg(&work).arg(&programs).arg(limit).env("SUITES", suites.join(" "));
    boot.env("XENSTORED", if oxenstored { "oxenstored" } else { "xenstored" });
    step("xen", &mut boot)
}

fn build(programs: &Path) -> Result<(), Failure> {
    let mut ours =
        cargo(["build", "--release", "--features", "qrexec-ring/xen", "--package", "qrexec-bench"]);
    ours.args(["--package", "qrexec-ring", "--package", "qrexec-engine", "--bins"]);
    ours.args(EXAMPLES.iter().flat_map(|name| ["--example", name]));
    step("build", &mut ours)?;
    let built =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir));
    // Every program plays every role; the machine has links for the names.
    let examples = EXAMPLES.map(|name| (format!("examples/{name}"), name));
    for (from, to) in [("qrexec-bench".to_owned(), "qrexec")].into_iter().chain(examples) {
        let from = built.join("release").join(from);
        step("strip", Command::new("strip").arg("-o").arg(programs.join(to)).arg(from))?;
    }
    for name in ["peer", "vcpu"] {
        let _ = fs::remove_file(programs.join(name));
    }
    if !is_there("pkg-config", &["--exists", "xenvchan"]) {
        eprintln!("== no libxen-dev: nothing is tried against Xen's own libxenvchan");
        return Ok(());
    }
    compile(programs, "vcpu", &["-lxenctrl"])?;
    compile(programs, "peer", &LIBRARIES)
}

/// One of the C programs of `tests/xen`.
fn compile(programs: &Path, name: &str, libraries: &[&str]) -> Result<(), Failure> {
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-Wall", "-rdynamic"]).arg(root().join(format!("tests/xen/{name}.c")));
    compiler.arg("-o").arg(programs.join(name)).args(libraries);
    step(name, &mut compiler)
}
