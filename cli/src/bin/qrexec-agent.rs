//! `qrexec-agent`; see `--help`. One program and no other, like `qrexec-client-vm`: it forks for every call.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    cli::multicall::lean(&agent::options::PROGRAM, agent::main)
}
