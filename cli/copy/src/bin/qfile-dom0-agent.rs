//! `qfile-dom0-agent`; see `docs/filecopy.md`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    copy::run("qfile-dom0-agent")
}
