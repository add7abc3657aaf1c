//! The suites that take too long for `cargo test`: each is the same test with more rounds, or another build of it.

use crate::steps::{Failure, cargo, root, step};

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Suite {
    /// The ring's index and doorbell in every interleaving that the memory model allows
    Loom,
    /// The programs end to end in release builds: every round of the storms, every kill of the chaos, 5000 mixed calls
    Soak,
}

/// Mixed calls of the soak.
const SOAK_CALLS: &str = "5000";

pub(crate) fn run(only: Option<Suite>) -> Result<(), Failure> {
    for suite in [Suite::Loom, Suite::Soak] {
        if only.is_none_or(|only| only == suite) {
            match suite {
                Suite::Loom => loom()?,
                Suite::Soak => soak()?,
            }
        }
    }
    Ok(())
}

/// A build of its own, in a target folder of its own: `--cfg loom` changes every crate.
fn loom() -> Result<(), Failure> {
    let mut command = cargo(["test", "--release", "-p", "qrexec-ring", "loom"]);
    command.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", root().join("target/loom"));
    step("loom", &mut command)
}

fn soak() -> Result<(), Failure> {
    for test in ["storm", "chaos", "bulk", "soak"] {
        let mut command = cargo(["test", "--release", "-p", "qrexec-cli", "--test", test]);
        // All of the soak's 100,000 calls are for a machine that has nothing else to do.
        command.env("QREXEC_TEST_FULL", "1").env("QREXEC_TEST_CALLS", SOAK_CALLS);
        step(test, &mut command)?;
    }
    Ok(())
}
