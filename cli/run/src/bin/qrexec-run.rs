//! Every program of this crate in one executable, by the name it is called by; see `docs/services.md`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    cli::multicall::main_of("qvm-run", &[run::PROGRAMS])
}
