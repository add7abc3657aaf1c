//! `qrexec-client-vm`; see `--help`. One program and no other: every call starts it.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    cli::multicall::single("qrexec-client-vm", cli::client_vm::main, cli::client_vm::command)
}
