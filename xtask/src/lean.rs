//! The programs of release builds: one executable that is all of them by name, and two that are one program each,
//! small, because every call starts or forks them.
//!
//! Where the source of Rust's standard library is there (rustup's component `rust-src`, or what `cargo xtask windows` has
//! unpacked), both are built with a library of their own, without what unwinds and prints backtraces. `qrexec-client-vm`
//! is linked statically against musl if that can be had (Debian's `musl-dev` beside the library's source, or `rustup target
//! add …-linux-musl`): without a dynamic linker, and without what glibc asks the processor at every start, each question of
//! which leaves the virtual machine. Else it is for the host, like `qrexec-agent`, which needs glibc to look up users.
//! All are position independent. What is missing for the best of these is said.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::own_library::{Musl, OwnLibrary, musl_target};
use crate::steps::{Failure, cargo, findings, is_there, root, rustc, said, step};

const AGENT: &str = "qrexec-agent";
const CLIENT: &str = "qrexec-client-vm";

/// What was built.
pub(crate) struct Built {
    /// Every program, by the name under which it is started.
    pub(crate) all: PathBuf,
    /// Programs with an executable of their own.
    pub(crate) lean: Vec<(&'static str, PathBuf)>,
}

/// Builds the programs, the agent with PAM sessions if that is wanted. Nobody else opens any.
pub(crate) fn build(pam: bool) -> Result<Built, Failure> {
    if pam && !can_link_pam() {
        return Err(
            "no libpam to link with, for the users' sessions: install libpam0g-dev or say --no-pam".into()
        );
    }
    let features: &[&str] = if pam { &["--features", "pam"] } else { &[] };
    step("build", &mut cargo(["build", "--release", "-p", "qrexec-cli", "--bin", "qrexec"]))?;
    let library = OwnLibrary::find();
    if library.is_none() {
        eprintln!(
            "== small programs with Rust's whole library: its source is not here (rustup component add rust-src)"
        );
    }
    let target = target_folder();
    let agent = agent(library.as_ref(), features, &target)?;
    let client = client(library.as_ref(), &target)?;
    for program in [&agent, &client] {
        step("whether it starts", Command::new(program).arg("--version").stdout(Stdio::null()))?;
    }
    findings("dom0's executable", strangers(&target.join("release/qrexec"), &STRANGERS))?;
    let lean = vec![(AGENT, agent), (CLIENT, client)];
    Ok(Built { all: target.join("release/qrexec"), lean })
}

/// Builds the agent; gives its executable.
fn agent(library: Option<&OwnLibrary>, features: &[&str], target: &Path) -> Result<PathBuf, Failure> {
    let mut plain = lean(AGENT);
    plain.args(features);
    let Some(library) = library else { return built(AGENT, plain, target.to_owned()) };
    let mut own = lean(AGENT);
    library.include(own.args(features), &library.host);
    built(AGENT, own, target.join(&library.host)).or_else(|failure| {
        eprintln!("== {failure}; going on with Rust's whole library");
        built(AGENT, plain, target.to_owned())
    })
}

/// Builds the client; gives its executable.
fn client(library: Option<&OwnLibrary>, target: &Path) -> Result<PathBuf, Failure> {
    let musl = target.join(musl_target());
    if let (Some(library), Some(c_library)) = (library, Musl::find()) {
        let mut own = lean(CLIENT);
        library.include(&mut own, &musl_target());
        c_library.link(&mut own, &target.join("musl"))?;
        match built(CLIENT, own, musl.clone()) {
            Ok(client) => return Ok(client),
            // The source of what the library itself needs may not be had, as without a network.
            Err(failure) => eprintln!("== {failure}; going on with Rust's whole library"),
        }
    }
    let mut plain = lean(CLIENT);
    if has_rusts_musl() {
        plain.args(["--target", &musl_target()]);
        return built(CLIENT, plain, musl);
    }
    eprintln!(
        "== {CLIENT} is not linked statically: that takes musl-dev and rust-src, or Rust's target for musl"
    );
    built(CLIENT, plain, target.to_owned())
}

/// Runs a build; gives the executable in the folder of its target.
fn built(program: &str, mut build: Command, folder: PathBuf) -> Result<PathBuf, Failure> {
    step(program, &mut build)?;
    let executable = folder.join("lean").join(program);
    findings("whether it is alone", strangers(&executable, &[DYNAMIC_LINKER]))?;
    Ok(executable)
}

/// A build of one small program.
fn lean(program: &str) -> Command {
    cargo(["rustc", "--profile", "lean", "-p", "qrexec-cli", "--bin", program])
}

/// musl's, which a qube need not have. A linker that does not know of static position-independent executables asks for
/// it without a word.
const DYNAMIC_LINKER: &str = "/lib/ld-musl";

/// Names that symbols and messages of the lab and the benchmark contain, and that the installed executable must not.
const STRANGERS: [&str; 5] = ["__supervisor", "__keeper", "plotters", "indicatif", "hdrhistogram"];

/// Which of them an executable contains.
fn strangers(executable: &Path, names: &[&str]) -> Result<Vec<String>, Failure> {
    let bytes = std::fs::read(executable).map_err(|error| format!("{}: {error}", executable.display()))?;
    let is_in = |name: &&&str| bytes.windows(name.len()).any(|window| window == name.as_bytes());
    Ok(names.iter().filter(is_in).map(|name| format!("it contains {name}")).collect())
}

/// The lab and the benchmark, each an executable that is every program, too.
pub(crate) fn build_lab() -> Result<Built, Failure> {
    let names = ["qrexec-lab", "qrexec-bench"];
    for name in names {
        step(name, &mut cargo(["build", "--release", "-p", name, "--bin", name]))?;
    }
    let folder = target_folder().join("release");
    Ok(Built { all: folder.join("qrexec-lab"), lean: names.map(|name| (name, folder.join(name))).into() })
}

/// The executables that are several programs by name: each with its package and the binary that is built, any of which is all.
const TOOLS: [(&str, &str, &str); 4] = [
    ("qrexec-run", "qrexec-run", "qrexec-run"),
    ("qrexec-open", "qrexec-open", "qrexec-open"),
    ("qrexec-remote", "qrexec-remote", "qrexec-remote"),
    ("qrexec-copy", "qrexec-copy", "qvm-copy"),
];

/// The programs that people type: a few executables, each several programs.
pub(crate) fn build_tools() -> Result<Built, Failure> {
    for (name, package, binary) in TOOLS {
        step(name, &mut cargo(["build", "--release", "-p", package, "--bin", binary]))?;
    }
    let folder = target_folder().join("release");
    let lean = TOOLS.map(|(name, _, binary)| (name, folder.join(binary)));
    Ok(Built { all: folder.join("qrexec-run"), lean: lean.into() })
}

impl Built {
    /// The executable that is this program and no other.
    pub(crate) fn own(&self, program: &str) -> Option<&Path> {
        self.lean.iter().find(|(name, _)| *name == program).map(|(_, path)| path.as_path())
    }
}

/// Whether the development files of libpam are there.
pub(crate) fn can_link_pam() -> bool {
    is_there("sh", &["-c", "echo 'int main(void) { return 0; }' | cc -x c - -o /dev/null -lpam"])
}

/// Where cargo puts what it builds.
pub(crate) fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Whether Rust's own library for musl is installed.
fn has_rusts_musl() -> bool {
    let said = said(rustc().args(["--print", "target-libdir", "--target", &musl_target()]));
    said.is_ok_and(|folder| Path::new(&folder).is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Arithmetic on a peer's numbers is checked in what is installed, too.
    #[test]
    fn release_builds_check_arithmetic() {
        let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
        let profile = |name: &str| {
            let (_, rest) = manifest.split_once(&format!("\n[profile.{name}]\n")).unwrap();
            rest.split("\n[").next().unwrap().to_owned()
        };
        assert!(profile("release").contains("overflow-checks = true"));
        assert!(profile("lean").contains("inherits = \"release\"") && !profile("lean").contains("overflow"));
    }

    #[test]
    fn what_does_not_belong_into_an_executable_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("program");
        std::fs::write(&file, b"\x7fELF\0_ZN8plotters5chart\0").unwrap();
        assert_eq!(strangers(&file, &STRANGERS).unwrap(), ["it contains plotters"]);
        std::fs::write(&file, b"\x7fELF").unwrap();
        assert!(strangers(&file, &STRANGERS).unwrap().is_empty());
    }
}
