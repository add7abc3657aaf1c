//! Every program in one executable, which the tests start under the names of the programs.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    let tables: Vec<_> = lab::TABLES.into_iter().chain([bench::PROGRAMS]).collect();
    cli::multicall::main_of("qrexec-lab", &tables)
}
