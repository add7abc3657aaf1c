//! `qrexec-lab`; see `--help`. The executable is every program of a lab's machines, too: a lab needs nothing but links to it.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    cli::multicall::main_of("qrexec-lab", &lab::TABLES)
}
