//! `qrexec-top`; see `--help`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    cli::multicall::main("qrexec-top")
}
