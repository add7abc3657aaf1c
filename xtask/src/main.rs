//! `cargo xtask`: one command for everything a contributor needs.
#![forbid(unsafe_code)]

mod check;
mod layering;
mod licences;
mod metadata;
mod sources;
mod steps;
mod suites;

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
    /// The heavier suites: every interleaving of the ring's index and doorbell, chaos and storms in full
    Suites {
        /// Only the suite with this name
        #[arg(value_enum)]
        only: Option<suites::Suite>,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Check => check::run(),
        Task::Suites { only } => suites::run(only),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
