//! `cargo xtask perf`: measures the programs as they are installed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use crate::lean;
use crate::steps::{Failure, cargo, step};

/// What a comparison of two recordings begins with.
const COMPARE: &str = "compare";

/// The folder of the programs that are measured.
pub(crate) fn folder() -> PathBuf {
    lean::target_folder().join("perf")
}

/// The programs of a lab.
const PROGRAMS: [&str; 3] = ["qrexec-agent", "qrexec-client-vm", "qrexec-daemon"];

/// Runs `qrexec-bench` with these arguments on a release build, or compares two recordings.
pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    let mut bench =
        cargo(["run", "--quiet", "--release", "-p", "qrexec-bench", "--bin", "qrexec-bench", "--"]);
    bench.args(args);
    if args.first().is_none_or(|first| first != COMPARE) {
        let built = lean::build(false)?;
        let folder = folder();
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        for program in PROGRAMS {
            let path = folder.join(program);
            let _ = fs::remove_file(&path);
            symlink(built.own(program).unwrap_or(&built.all), &path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
        }
        bench.arg("--bin-dir").arg(&folder);
    }
    // Its arguments are paths of whoever calls, so it runs where that one is.
    if let Ok(here) = std::env::current_dir() {
        bench.current_dir(here);
    }
    step("measuring", &mut bench)
}
