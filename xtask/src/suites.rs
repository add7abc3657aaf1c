//! The suites that take too long for `cargo test`: each is the same test with more rounds, or another build of it.

use std::process::Command;

use clap::ValueEnum;

use crate::steps::{Failure, cargo, root, skipped, step};
use crate::{chroot, fuzz, lean, package};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// The ring's index and doorbell in every interleaving that the memory model allows
    Loom,
    /// Every fuzz target for a few seconds, its corpus first
    Fuzz,
    /// The programs end to end in release builds: every round of the storms, every kill of the chaos, 5000 mixed calls
    Soak,
    /// The same with each of the pump's two drivers forced, and without the full number of rounds
    Engines,
    /// 200 idle calls: memory and processor time within their bounds
    Scale,
    /// As root: PAM's sessions, with the library that Debian has
    Pam,
    /// As root: the Debian packages, installed in a clean system and removed again
    Packages,
}

/// Mixed calls of the soak.
const SOAK_CALLS: &str = "5000";

pub(crate) fn run(only: Option<Suite>) -> Result<(), Failure> {
    for suite in Suite::value_variants() {
        if only.is_none_or(|only| only == *suite) {
            match suite {
                Suite::Loom => loom()?,
                Suite::Fuzz => fuzz::short()?,
                Suite::Soak => soak()?,
                Suite::Engines => engines()?,
                Suite::Scale => scale()?,
                Suite::Pam => pam()?,
                Suite::Packages => chroot::run(&package::Options::default())?,
            }
        }
    }
    Ok(())
}

/// The test of logins once more, with the feature that `cargo test` builds without.
fn pam() -> Result<(), Failure> {
    if !lean::can_link_pam() {
        skipped("pam", "there is no libpam to link with");
        return Ok(());
    }
    step("pam", &mut cargo(["test", "-p", "qrexec-engine", "--features", "pam", "--test", "login"]))
}

/// A build of its own, in a target folder of its own: `--cfg loom` changes every crate.
fn loom() -> Result<(), Failure> {
    let mut command = cargo(["test", "--release", "-p", "qrexec-ring", "loom"]);
    command.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", root().join("target/loom"));
    step("loom", &mut command)
}

/// A release build of the tests from end to end whose path begins so.
fn end_to_end(module: &str) -> Command {
    cargo(["test", "--release", "-p", "qrexec-tests", "--test", "all", module])
}

fn soak() -> Result<(), Failure> {
    for test in ["storm::", "chaos::", "bulk::", "soak::", "promises::"] {
        let mut command = end_to_end(test);
        // All of the soak's 100,000 calls are for a machine that has nothing else to do.
        command.env("QREXEC_TEST_FULL", "1").env("QREXEC_TEST_CALLS", SOAK_CALLS);
        step(test, &mut command)?;
    }
    Ok(())
}

fn engines() -> Result<(), Failure> {
    for engine in ["poll", "uring"] {
        for test in ["call::", "client_vm::", "bulk::", "storm::", "chaos::"] {
            let mut command = end_to_end(test);
            step(&format!("{test}, {engine}"), command.env("QREXEC_ENGINE", engine))?;
        }
    }
    Ok(())
}

fn scale() -> Result<(), Failure> {
    step("scale", end_to_end("scale::").env("QREXEC_TEST_FULL", "1"))
}
