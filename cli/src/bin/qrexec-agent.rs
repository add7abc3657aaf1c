//! `qrexec-agent`; see `--help`. One program and no other, like `qrexec-client-vm`: it forks for every call.
#![forbid(unsafe_code)]

use clap::CommandFactory;

fn main() -> std::process::ExitCode {
    cli::multicall::single("qrexec-agent", agent::main, agent::Options::command)
}
