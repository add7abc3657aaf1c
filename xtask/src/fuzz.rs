//! `cargo xtask fuzz`: builds the targets of `tests/fuzz` with coverage and address sanitizer, runs them, and says
//! of each what it did. The stable toolchain does it, `RUSTC_BOOTSTRAP=1` opens the two flags that it needs.

pub(crate) mod corpus;
mod report;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use crate::steps::{Failure, cargo, is_there, root, step};
use report::Report;

/// How cargo-fuzz instruments: edges counted, comparisons traced.
const FLAGS: &[&str] = &[
    "--cfg fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Where the compiler brings an address sanitizer along.
const SANITIZED: [&str; 2] = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];

/// Longest input in bytes; more only makes runs slow.
const MAX_LEN: usize = 4096;

/// Seconds that one input may take: more is a hang, on the busiest machine too.
const HANG: u32 = 60;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only these targets
    targets: Vec<String>,
    /// How long each target runs, after its corpus was replayed
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Tries the inputs in the order that belongs to this number [default: another one each time]
    #[arg(long)]
    seed: Option<u32>,
    /// How many targets run at once [default: one for each processor]
    #[arg(long)]
    jobs: Option<usize>,
    /// Does not fuzz: takes what earlier runs found into the committed corpus, as few and as short files as cover it
    #[arg(long)]
    minimize: bool,
}

/// What the short runs use: two runs of the same tree try the same, so a finding there comes from the change before it.
const SHORT_SEED: u32 = 1;

/// A few seconds for every target: the corpus holds, and nothing is found at once.
pub(crate) fn short() -> Result<(), Failure> {
    if !is_there("c++", &["--version"]) {
        eprintln!("== fuzz (skipped: libFuzzer needs a C++ compiler)");
        return Ok(());
    }
    run(&Options { targets: Vec::new(), seconds: 5, seed: Some(SHORT_SEED), jobs: None, minimize: false })
}

/// The targets and the code that only they see, compiled without instruments: what a change breaks there shows before
/// the suites run.
pub(crate) fn check() -> Result<(), Failure> {
    if !is_there("c++", &["--version"]) {
        eprintln!("== fuzz targets compile (skipped: libFuzzer needs a C++ compiler)");
        return Ok(());
    }
    let mut command = cargo(["clippy", "--quiet", "--", "-D", "warnings"]);
    command.current_dir(folder()).env("RUSTFLAGS", "--cfg fuzzing");
    command.env("CARGO_TARGET_DIR", folder().join("target/check"));
    step("fuzz targets compile", &mut command)
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let all = targets()?;
    if let Some(unknown) = options.targets.iter().find(|name| !all.contains(name)) {
        return Err(format!("there is no fuzz target {unknown}; there are {}", all.join(", ")));
    }
    let chosen = if options.targets.is_empty() { all } else { options.targets.clone() };
    let host = host()?;
    build(&chosen, &host)?;
    corpus::unpack()?;
    eprintln!("== fuzz");
    let work = Mutex::new(chosen.iter());
    let failed = Mutex::new(Vec::new());
    let jobs = options.jobs.or_else(|| thread::available_parallelism().map(usize::from).ok());
    thread::scope(|scope| {
        for _ in 0..jobs.unwrap_or(1).clamp(1, chosen.len()) {
            scope.spawn(|| {
                while let Some(name) = work.lock().ok().and_then(|mut work| work.next()) {
                    let target = Target { name, host: &host };
                    let done = if options.minimize { target.minimize() } else { target.fuzz(options) };
                    match (done, failed.lock()) {
                        (Ok(line), _) => eprintln!("{line}"),
                        (Err(why), Ok(mut failed)) => failed.push(why),
                        (Err(why), Err(_)) => eprintln!("{why}"),
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_default();
    if !failed.is_empty() {
        return Err(failed.join("\n"));
    }
    if options.minimize { corpus::pack() } else { Ok(()) }
}

/// The folder of the targets.
fn folder() -> PathBuf {
    root().join("tests/fuzz")
}

/// The names of all targets: each is a program of that package.
fn targets() -> Result<Vec<String>, Failure> {
    let path = folder().join("Cargo.toml");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let manifest: toml::Table = text.parse().map_err(|error| format!("{}: {error}", path.display()))?;
    let programs = manifest.get("bin").and_then(toml::Value::as_array).into_iter().flatten();
    Ok(programs.filter_map(|program| Some(program.get("name")?.as_str()?.to_owned())).collect())
}

/// The platform that this compiler builds for when nobody says otherwise.
fn host() -> Result<String, Failure> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = Command::new(rustc).arg("-vV").output().map_err(|error| format!("rustc: {error}"))?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| "rustc does not say for which platform it builds".to_owned())
}

fn build(targets: &[String], host: &str) -> Result<(), Failure> {
    let mut flags = FLAGS.join(" ");
    if SANITIZED.contains(&host) {
        flags.push_str(" -Zsanitizer=address");
    }
    // With a platform named, the flags are for the targets only, not for what builds them.
    let mut command = cargo(["build", "--quiet", "--release", "--target", host]);
    command.current_dir(folder()).args(targets.iter().flat_map(|name| ["--bin", name]));
    command
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", flags)
        .env("CARGO_TARGET_DIR", folder().join("target"));
    step("fuzz targets", &mut command)
}

/// One target that is built.
struct Target<'a> {
    name: &'a str,
    host: &'a str,
}

impl Target<'_> {
    fn program(&self) -> Command {
        let path = folder().join("target").join(self.host).join("release").join(self.name);
        let mut command = Command::new(path);
        // What a Rust program does not free at its end is no finding, and looking for it needs ptrace.
        command.current_dir(folder()).env("ASAN_OPTIONS", "detect_leaks=0").stdin(Stdio::null());
        command.args([
            format!("-max_len={MAX_LEN}"),
            format!("-timeout={HANG}"),
            "-rss_limit_mb=2048".to_owned(),
        ]);
        command
    }

    /// What was found in earlier runs on this machine.
    fn found(&self) -> PathBuf {
        folder().join("target/corpus").join(self.name)
    }

    /// Inputs that people wrote.
    fn committed(&self) -> PathBuf {
        folder().join("corpus").join(self.name)
    }

    /// What earlier runs found and the archive keeps.
    fn unpacked(&self) -> PathBuf {
        corpus::unpacked().join(self.name)
    }

    fn artifacts(&self) -> PathBuf {
        folder().join("artifacts").join(self.name)
    }

    /// Replays the corpus and fuzzes for so long; what is new goes to [`Target::found`].
    fn fuzz(&self, options: &Options) -> Result<String, Failure> {
        for path in [self.found(), self.committed(), self.unpacked(), self.artifacts()] {
            fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let mut command = self.program();
        command.arg(format!("-max_total_time={}", options.seconds)).arg("-print_final_stats=1");
        command.args(options.seed.map(|seed| format!("-seed={seed}")));
        command.arg(format!("-artifact_prefix={}/", self.artifacts().display()));
        let dictionary = folder().join("dict").join(self.name);
        if dictionary.exists() {
            command.arg(format!("-dict={}", dictionary.display()));
        }
        let said = command.args([self.found(), self.committed(), self.unpacked()]).output();
        let said = said.map_err(|error| format!("{}: {error}", self.name))?;
        let text = String::from_utf8_lossy(&said.stderr);
        match Report::read(&text) {
            Some(report) if said.status.success() => Ok(format!("{:16} {report}", self.name)),
            _ => Err(format!("{}: {}\n{}", self.name, said.status, report::tail(&text))),
        }
    }
}
