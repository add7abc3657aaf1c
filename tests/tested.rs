//! Every program in one executable, which the tests start under the names of the programs.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    cli::multicall::main_of(
        "qrexec-lab",
        &[
            cli::programs::PROGRAMS,
            copy::PROGRAMS,
            run::PROGRAMS,
            open::PROGRAMS,
            lab::PROGRAMS,
            bench::PROGRAMS,
        ],
    )
}
