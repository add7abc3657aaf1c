//! `qrexec-remote`; see `docs/remote.md`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    cli::multicall::main_of("qrexec-remote", &[remote::PROGRAMS])
}
