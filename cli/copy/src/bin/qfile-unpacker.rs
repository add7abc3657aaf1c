//! `qfile-unpacker`; see `docs/filecopy.md`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    copy::run("qfile-unpacker")
}
