//! `qrexec-bench`; see `--help`. The executable is every program that it measures, too.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    let tables: Vec<_> = lab::TABLES.into_iter().chain([bench::PROGRAMS]).collect();
    cli::multicall::main_of("qrexec-bench", &tables)
}
