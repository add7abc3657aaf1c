//! `cargo xtask`: one command for everything a contributor needs.
#![forbid(unsafe_code)]

mod check;
mod chroot;
mod ci;
mod circles;
mod code;
mod conformance;
mod documented;
mod fuzz;
mod glibc;
mod install;
mod layering;
mod lean;
mod licences;
mod logins;
mod metadata;
mod own_library;
mod package;
mod packages;
mod perf;
mod release;
mod sources;
mod steps;
mod suites;
mod usb;
#[cfg(test)]
mod wait_for_session;
mod windows;
mod xen;
mod zip;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Everything that a contributor needs beside `cargo build` and `cargo test`.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Format, clippy, documentation, licences of dependencies, layering of imports, unsafe only where it is listed
    Check,
    /// Everything that has to pass before a change counts, after `cargo test`: checks, suites, Xen, USB
    Ci {
        /// Only these parts
        #[arg(value_enum)]
        parts: Vec<ci::Part>,
    },
    /// The heavier suites: every interleaving of the ring's index and doorbell, chaos and storms in full
    Suites {
        /// Only the suite with this name
        #[arg(value_enum)]
        only: Option<suites::Suite>,
    },
    /// Builds the programs and installs them with manual pages, completions, units and folders
    Install(install::Options),
    /// Measures a release build with qrexec-bench, its programs as they are installed; compare A B: two recordings
    Perf {
        /// Arguments of qrexec-bench
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// What has to be so before a release, point by point
    Release(release::Options),
    /// Builds the packages, of Debian or of rpm
    Package(package::Options),
    /// Builds the programs for Windows, and what a lab wants to run them by wine; prints the folder for QREXEC_WINDOWS_DIR
    Windows,
    /// Installs the Debian packages in a clean system, tries them there, and removes them again
    Chroot(package::Options),
    /// Fuzzes every parser that sees foreign bytes: coverage-guided, under the address sanitizer
    Fuzz(fuzz::Options),
    /// Xen itself, with dom0 and two VMs, in an emulated machine: rings, calls and deaths between real domains
    Xen {
        /// Only these parts of tests/xen/scenario.sh
        suites: Vec<String>,
        /// With the other xenstore daemon
        #[arg(long)]
        oxenstored: bool,
    },
    /// The programs for USB with Debian's kernel in an emulated machine: usbip-host, vhci_hcd, a gadget as the device
    Usb,
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Check => check::run(),
        Task::Ci { parts } => ci::run(&parts),
        Task::Install(options) => install::run(&options),
        Task::Package(options) if options.windows => windows::package().map(drop),
        Task::Package(options) => package::run(&options).map(drop),
        Task::Windows => windows::run(),
        Task::Chroot(options) => chroot::run(&options),
        Task::Release(options) => release::run(&options),
        Task::Perf { args } => perf::run(&args),
        Task::Suites { only } => suites::run(only),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Xen { suites, oxenstored } => xen::run(&suites, oxenstored),
        Task::Usb => usb::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
