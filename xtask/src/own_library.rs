//! Building a program together with Rust's standard library, where the library's source is there.
//!
//! The library that comes with the compiler can unwind and print backtraces, which takes a third of a small program. Lean
//! programs end at their first panic and print none.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::steps::{Failure, is_there, rustc, said};
use crate::windows;

/// Folders with musl's C library, by distribution.
const MUSL_FOLDERS: [&str; 3] =
    ["/usr/lib/ARCH-linux-musl", "/usr/ARCH-linux-musl/lib64", "/usr/lib/musl/lib"];

/// An archive without members.
const EMPTY_ARCHIVE: &str = "!<arch>\n";

/// The library's source, of the compiler's version.
pub(crate) struct OwnLibrary {
    /// The target of programs for this machine.
    pub(crate) host: String,
    /// `None`: where the compiler looks by itself.
    elsewhere: Option<PathBuf>,
}

impl OwnLibrary {
    /// The source of rustup's component `rust-src`, or the one that was unpacked to build programs for Windows.
    pub(crate) fn find() -> Option<Self> {
        let sysroot = said(rustc().args(["--print", "sysroot"])).ok()?;
        let own = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/std/Cargo.toml");
        let elsewhere = if own.exists() { None } else { Some(windows::unpacked_library()?) };
        Some(Self { host: host_target()?, elsewhere })
    }

    /// Has a build for this target include the library.
    pub(crate) fn include(&self, build: &mut Command, target: &str) {
        build.args(["--target", target, "-Z", "build-std=std,panic_abort", "-Z", "build-std-features="]);
        build.env("RUSTC_BOOTSTRAP", "1");
        if let Some(library) = &self.elsewhere {
            build.env("__CARGO_TESTS_ONLY_SRC_ROOT", library);
        }
    }
}

/// The C library musl as the distribution packages it.
pub(crate) struct Musl {
    folder: PathBuf,
}

impl Musl {
    /// Found by what begins a static executable that can be loaded anywhere.
    pub(crate) fn find() -> Option<Self> {
        let folders = MUSL_FOLDERS.iter().map(|folder| folder.replace("ARCH", std::env::consts::ARCH));
        let folder = folders.map(PathBuf::from).find(|folder| folder.join("rcrt1.o").exists())?;
        is_there("cc", &["--version"]).then_some(Self { folder })
    }

    /// Has a `cargo rustc` link with this library and no other; nothing can be added behind that. `place` is for what the
    /// standard library asks for in vain: who never unwinds needs no unwinder.
    pub(crate) fn link(&self, build: &mut Command, place: &Path) -> Result<(), Failure> {
        let failed = |error| format!("{}: {error}", place.display());
        fs::create_dir_all(place).map_err(failed)?;
        fs::write(place.join("libunwind.a"), EMPTY_ARCHIVE).map_err(failed)?;
        let folder = self.folder.display();
        let linker = format!("CARGO_TARGET_{}_LINKER", musl_target().to_uppercase().replace('-', "_"));
        build.env(linker, "cc").args(["--", "-C", "link-self-contained=no"]);
        build.arg("-L").arg(format!("native={}", place.display())).arg("-L").arg(format!("native={folder}"));
        let begins_and_ends = ["rcrt1.o", "crti.o", "crtn.o"].map(|object| format!("{folder}/{object}"));
        build.arg("-C").arg(format!(
            "link-args=-nostartfiles {} -Wl,-Bstatic -Wl,--start-group -lc -lgcc -Wl,--end-group",
            begins_and_ends.join(" ")
        ));
        Ok(())
    }
}

/// This machine's target with musl.
pub(crate) fn musl_target() -> String {
    format!("{}-unknown-linux-musl", std::env::consts::ARCH)
}

/// The target that the compiler builds for by itself.
fn host_target() -> Option<String> {
    let said = said(rustc().arg("-vV")).ok()?;
    said.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned)
}
