//! `qrexec-policy-exec`; see `--help`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    cli::multicall::main("qrexec-policy-exec")
}
