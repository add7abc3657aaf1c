//! `qvm-copy-to-vm`; see `docs/filecopy.md`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    copy::run("qvm-copy-to-vm")
}
