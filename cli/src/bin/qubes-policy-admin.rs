//! `qubes-policy-admin`; see `--help`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    cli::multicall::main("qubes-policy-admin")
}
