//! `qrexec-client-vm`; see `--help`. One program and no other: every call starts it.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    cli::multicall::lean(&cli::client_vm::LINE, cli::client_vm::main)
}
