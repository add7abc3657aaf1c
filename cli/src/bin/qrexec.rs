//! What is installed: every program of dom0 and of VMs, by the name of the link that leads here.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    cli::multicall::main("qrexec-client")
}
