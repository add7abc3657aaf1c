//! `cargo xtask windows`: the programs for Windows, and what a lab wants to run them by wine.
//!
//! The compiler's own library for Windows comes from Debian's source package of exactly the compiler's version; the rest are
//! packages by name. Where one of them cannot be had, that is said and nothing else happens.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::packages::install_packages;
use crate::steps::{Failure, is_there, root, rustc, said, step};

/// What links, and what runs.
const PACKAGES: [&str; 2] = ["gcc-mingw-w64-x86-64-win32", "wine64"];
/// The suite that has the library's source, in many versions.
const SUITE: &str = "trixie-backports";
/// Debian's own key ring.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const TARGET: &str = "x86_64-pc-windows-gnu";
const LINKER: &str = "x86_64-w64-mingw32-gcc";
/// wine's program, where Debian has it.
const WINE: &str = "/usr/lib/wine/wine64";
/// What is installed in a VM.
pub(crate) const PROGRAMS: [&str; 2] = ["qrexec-agent.exe", "qrexec-client-vm.exe"];
/// What is there for tests only.
const FOR_TESTS: [&str; 2] = ["libvchan.dll", "test-service.exe"];
/// Crates whose tests are run as programs for Windows.
const TESTED: [&str; 8] =
    ["-p", "qrexec-wire", "-p", "qrexec-policy", "-p", "qrexec-agent-core", "-p", "qrexec-windows"];

/// Why there is nothing for Windows here: a reason to skip, or a fault.
pub(crate) enum NoWindows {
    /// Something cannot be had.
    Skipped(String),
    /// Something went wrong.
    Failed(Failure),
}

impl From<Failure> for NoWindows {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// The folder with everything, which `QREXEC_WINDOWS_DIR` is to name.
pub(crate) fn folder() -> PathBuf {
    root().join("target/windows")
}

/// The task.
pub(crate) fn run() -> Result<(), Failure> {
    match build() {
        Ok(folder) => {
            println!("{}", folder.display());
            Ok(())
        }
        Err(NoWindows::Skipped(why)) => Err(why),
        Err(NoWindows::Failed(failure)) => Err(failure),
    }
}

/// Builds everything; gives the folder.
pub(crate) fn build() -> Result<PathBuf, NoWindows> {
    let folder = folder();
    let library = library(&folder)?;
    let bin = folder.join("bin");
    make_folder(&bin)?;
    let mut programs = cargo_for_windows("build", &library);
    programs.args(["-Z", "build-std=std,panic_abort", "--release"]);
    programs.args(["-p", "qrexec-windows", "-p", "qrexec-vchan-double", "--bins", "--lib"]);
    programs.args(["--features", "qrexec-windows/programs,qrexec-vchan-double/programs"]);
    step("programs for Windows", &mut programs)?;
    let built = folder.join("build").join(TARGET).join("release");
    for file in PROGRAMS.iter().chain(&FOR_TESTS) {
        copy(&built.join(file), &bin.join(file))?;
    }
    prefix(&folder)?;
    Ok(folder)
}

/// The tests of what is pure, as programs for Windows.
pub(crate) fn test() -> Result<(), NoWindows> {
    let library = library(&folder())?;
    let mut tests = cargo_for_windows("test", &library);
    tests.args(["-Z", "build-std", "--quiet", "--lib"]).args(TESTED);
    Ok(step("pure crates as programs for Windows", &mut tests)?)
}

fn cargo_for_windows(task: &str, library: &Path) -> Command {
    let mut command = crate::steps::cargo([task, "--target", TARGET]);
    command.arg("--target-dir").arg(folder().join("build"));
    command.env("RUSTC_BOOTSTRAP", "1").env("__CARGO_TESTS_ONLY_SRC_ROOT", library);
    command.env("CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER", LINKER);
    command.env("CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER", WINE);
    command.env("CARGO_PROFILE_RELEASE_DEBUG", "0").env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    // Flags for the linker of Linux would be this linker's, too.
    command.env_remove("RUSTFLAGS");
    command.env("WINEPREFIX", folder().join("prefix")).env("WINEDEBUG", "-all");
    command
}

/// The source of the compiler's library, of the compiler's version, after an attempt to get it.
fn library(folder: &Path) -> Result<PathBuf, NoWindows> {
    install_packages(&PACKAGES.map(|package| (program_of(package), package)));
    for package in PACKAGES {
        if !is_there(program_of(package), &["--version"]) {
            return Err(NoWindows::Skipped(format!("{package} cannot be installed here")));
        }
    }
    let version = compiler_version()?;
    let library = library_below(folder, &version);
    if library.join("std/Cargo.toml").exists() {
        return Ok(library);
    }
    unpack(folder, &version).map_err(|why| {
        NoWindows::Skipped(format!("package rust-src of version {version} cannot be had: {why}"))
    })?;
    if library.join("std/Cargo.toml").exists() {
        return Ok(library);
    }
    Err(NoWindows::Skipped(format!("package rust-src has no library of version {version}")))
}

/// What that has unpacked, if it is of the compiler's version.
pub(crate) fn unpacked_library() -> Option<PathBuf> {
    let library = library_below(&folder(), &compiler_version().ok()?);
    library.join("std/Cargo.toml").exists().then_some(library)
}

fn library_below(folder: &Path, version: &str) -> PathBuf {
    folder.join(format!("rust-src/usr/src/rustc-{version}/library"))
}

fn compiler_version() -> Result<String, Failure> {
    let version = said(rustc().arg("--version"))?;
    Ok(version.split(' ').nth(1).unwrap_or_default().to_owned())
}

fn program_of(package: &str) -> &'static str {
    if package == "wine64" { WINE } else { LINKER }
}

/// Gets the package with lists of its own, so that the machine's package manager knows nothing of the other suite.
fn unpack(folder: &Path, version: &str) -> Result<(), Failure> {
    let lists = folder.join("apt");
    for part in
        ["etc/apt.conf.d", "etc/preferences.d", "state/lists/partial", "cache/archives/partial", "out"]
    {
        make_folder(&lists.join(part))?;
    }
    let source = format!("deb [signed-by={KEYS}] {} {SUITE} main\n", archive()?);
    write(&lists.join("etc/sources.list"), &source)?;
    let place = lists.display();
    let config = format!(
        "Dir::Etc \"{place}/etc\";\nDir::Etc::sourcelist \"{place}/etc/sources.list\";\nDir::Etc::sourceparts \"-\";\n\
         Dir::State \"{place}/state\";\nDir::Cache \"{place}/cache\";\nAPT::Sandbox::User \"root\";\n"
    );
    let path = lists.join("apt.conf");
    write(&path, &config)?;
    let apt = |program: &str| {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &path).current_dir(lists.join("out"));
        command
    };
    step("the list of the suite", apt("apt-get").args(["-qq", "update"]))?;
    let known = said(apt("apt-cache").args(["madison", "rust-src"]))?;
    let fits = |full: &&str| full.starts_with(&format!("{version}+"));
    let full = known.lines().filter_map(|line| line.split('|').nth(1).map(str::trim)).find(fits);
    let full = full.ok_or_else(|| format!("{SUITE} has it not"))?;
    step("the library's source", apt("apt-get").args(["-qq", "download"]).arg(format!("rust-src={full}")))?;
    let file = fs::read_dir(lists.join("out")).map_err(|error| error.to_string())?.filter_map(Result::ok);
    let file =
        file.map(|entry| entry.path()).find(|path| path.to_string_lossy().contains(&format!("_{version}")));
    let file = file.ok_or("nothing was downloaded")?;
    step("unpacking it", Command::new("dpkg-deb").arg("-x").arg(file).arg(folder.join("rust-src")))
}

/// The machine's first archive.
fn archive() -> Result<String, Failure> {
    let format = ["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian"];
    let targets = said(Command::new("apt-get").args(format))?;
    targets.lines().next().map(str::to_owned).ok_or_else(|| "no archive of Debian is known here".to_owned())
}

/// A fresh installation of wine, from which every Windows VM of a lab begins.
fn prefix(folder: &Path) -> Result<(), Failure> {
    let prefix = folder.join("prefix");
    if !prefix.join("system.reg").exists() {
        let _ = fs::remove_dir_all(&prefix);
        let wine = |command: &mut Command| {
            command
                .env("WINEPREFIX", &prefix)
                .env("WINEDEBUG", "-all")
                .env("WINEDLLOVERRIDES", "mscoree,mshtml=");
            command.env_remove("DISPLAY");
        };
        let mut boot = Command::new(WINE);
        wine(&mut boot);
        step("a fresh wine", boot.args(["wineboot", "-i"]))?;
        // The registry is written when the server ends.
        let mut server = Command::new("/usr/lib/wine/wineserver64");
        wine(&mut server);
        step("until it has settled", server.arg("-w"))?;
    }
    // Programs of Rust want this library, which wine has from version 9 on.
    let library = prefix.join("drive_c/windows/system32/bcryptprimitives.dll");
    if !library.exists() {
        let mut compile = Command::new(LINKER);
        compile.args(["-shared", "-O2", "-s", "-o"]).arg(&library);
        compile.arg(root().join("windows/wine/bcryptprimitives.c")).arg("-ladvapi32");
        step("what wine 8 has not", &mut compile)?;
    }
    Ok(())
}

fn make_folder(path: &Path) -> Result<(), Failure> {
    fs::create_dir_all(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::copy(from, to).map(drop).map_err(|error| format!("{}: {error}", from.display()))
}

/// The ZIP for a Windows VM.
pub(crate) fn package() -> Result<PathBuf, Failure> {
    let folder = match build() {
        Ok(folder) => folder,
        Err(NoWindows::Skipped(why) | NoWindows::Failed(why)) => return Err(why),
    };
    let read = |path: PathBuf| fs::read(&path).map_err(|error| format!("{}: {error}", path.display()));
    let mut entries = Vec::new();
    for name in PROGRAMS {
        entries.push((format!("qrexec/bin/{name}"), read(folder.join("bin").join(name))?));
    }
    let services = root().join("dist/windows/qubes-rpc");
    let mut found: Vec<_> = fs::read_dir(&services)
        .map_err(|error| format!("{}: {error}", services.display()))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .collect();
    found.sort();
    for path in found {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        entries.push((format!("qrexec/qubes-rpc/{name}"), read(path)?));
    }
    entries.push(("qrexec/qubes-rpc-services/".to_owned(), Vec::new()));
    entries.push(("qrexec/LICENSE".to_owned(), read(root().join("LICENSE"))?));
    entries.push(("qrexec/README.md".to_owned(), read(root().join("docs/windows.md"))?));
    let path = folder.join(format!("qrexec-windows_{}_amd64.zip", crate::package::version::release()?));
    fs::write(&path, crate::zip::archive(&entries)?)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    println!("{}", path.display());
    Ok(path)
}
