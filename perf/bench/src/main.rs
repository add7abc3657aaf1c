//! `qrexec-bench`; see `--help`. The executable is every program that it measures, too.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    cli::multicall::main_of(
        "qrexec-bench",
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
