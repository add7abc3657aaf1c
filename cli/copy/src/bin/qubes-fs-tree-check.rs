//! `qubes-fs-tree-check`; see `docs/filecopy.md`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    copy::run("qubes-fs-tree-check")
}
