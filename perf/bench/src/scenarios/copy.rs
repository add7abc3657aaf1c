//! How long files take from one VM to another.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::super::process::{Running, silent};
use super::super::scenario::{Case, Metric, Sample, Scenario};
use super::super::settings::Settings;
use super::super::stage::Stage;
use super::super::trees::{Amount, Set, amount, compare};
use super::super::{machine, stage};
use super::throughput::GIB;
use cli::failure::Failure;

/// What the scenario is called.
pub(in super::super) const NAME: &str = "copy";

const RATE: Metric = Metric::higher("rate", "GiB/s");
const FILES: Metric = Metric::higher("rate", "files/s");
const TIME: Metric = Metric::lower("time", "s");
/// Of all processors, whoever used them.
const CPU: Metric = Metric::lower("CPU", "s");
/// The same files by `cp -r`, directly before.
const PLAIN: Metric = Metric::lower("cp -r", "s");
const RELATIVE: Metric = Metric::lower("of it", "×");

/// No machine copies less than this in a second.
const SLOWEST: u64 = 8 << 20;
/// Nor fewer files.
const FEWEST: u64 = 200;

/// So much memory is not at hand without being asked for.
const MUCH: u64 = 64 << 20;

/// The scenario.
pub(in super::super) struct Copy;

impl Scenario for Copy {
    fn name(&self) -> &'static str {
        NAME
    }

    fn title(&self) -> &'static str {
        "files from one VM to another, until they are on the other's disk, beside cp -r"
    }

    fn cases(&self, settings: &Settings) -> Vec<Box<dyn Case>> {
        let count = settings.files;
        let mut sets = vec![
            (format!("one file of {} MiB", settings.large >> 20), Set::Large(settings.large)),
            (format!("{count} files of 1 KiB"), Set::Files(count, 1 << 10)),
            (format!("{count} files of 20 KiB"), Set::Files(count, 20 << 10)),
            (format!("a sparse file of {} MiB", settings.large >> 20), Set::Sparse(settings.large)),
        ];
        sets.extend(settings.tree.clone().map(|tree| (tree.display().to_string(), Set::Tree(tree))));
        let mut cases: Vec<Box<dyn Case>> = Vec::new();
        for (name, set) in sets {
            // Beside other programs for it, tar says nothing more.
            let all = if settings.compares { &[By::Copy][..] } else { &[By::Tar, By::Copy] };
            for &by in all {
                let expected = match &set {
                    Set::Large(bytes) | Set::Sparse(bytes) => Amount { files: 1, bytes: *bytes },
                    Set::Files(count, each) => {
                        Amount { files: u64::from(*count), bytes: u64::from(*count) * each }
                    }
                    // Not known before it was read; a limit is all that it is for.
                    Set::Tree(_) => Amount { files: 1_000_000, bytes: 64 << 30 },
                };
                cases.push(Box::new(OneCopy { name: name.clone(), set: set.clone(), by, expected }));
            }
        }
        cases
    }
}

/// Who copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// `tar` into a call of `tar`.
    Tar,
    /// The programs for it.
    Copy,
}

struct OneCopy {
    name: String,
    set: Set,
    by: By,
    expected: Amount,
}

impl Case for OneCopy {
    fn label(&self) -> String {
        let by = match self.by {
            By::Tar => "tar | tar",
            By::Copy => "copied",
        };
        format!("{}, {by}", self.name)
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(30 + self.expected.bytes / SLOWEST + self.expected.files / FEWEST)
    }

    fn rehearse(&self, stage: &Stage) -> Result<(), Failure> {
        let during = || Failure::during("files to copy");
        // One at a time: they may be gigabytes.
        let made = self.folder(stage);
        if !made.exists() {
            let all = made.parent().unwrap_or(&made);
            let _ = fs::remove_dir_all(all);
            fs::create_dir_all(&made).map_err(during())?;
            self.set.make(&made.join(stage::COPIED)).map_err(during())?;
        }
        self.copy(stage)?;
        let (original, copy) = (made.join(stage::COPIED), stage.arrived().join(stage::COPIED));
        compare(&original, &copy, self.by == By::Copy).map_err(during())?;
        clear(stage)
    }

    fn run(&self, stage: &Stage) -> Result<Vec<Sample>, Failure> {
        let original = self.folder(stage).join(stage::COPIED);
        let plain = || {
            let seconds = timed(stage, || {
                let mut command = Command::new("cp");
                command.arg("-r").arg(&original).arg(stage.arrived());
                Running::start(silent(&mut command), "cp")?.finish()
            })?;
            clear(stage).map(|()| seconds)
        };
        if self.expected.bytes >= MUCH && !matches!(self.set, Set::Sparse(_)) {
            // A virtual machine may have given memory back that was free for a while; whoever comes first gets it dearly.
            plain()?;
        }
        let plain = plain()?;
        let before = machine::busy();
        let seconds = self.copy(stage)?;
        let busy = before.and_then(|before| Some(machine::busy()? - before));
        let wanted = amount(&original).map_err(Failure::during("files to copy"))?;
        let came =
            amount(&stage.arrived().join(stage::COPIED)).map_err(Failure::during("files that arrived"))?;
        if came != wanted {
            return Err(Failure::trouble(format!("{came:?} of {wanted:?} arrived")));
        }
        clear(stage)?;
        let first = match self.set {
            Set::Files(..) => (FILES, wanted.files as f64 / seconds),
            _ => (RATE, wanted.bytes as f64 / GIB / seconds),
        };
        let mut samples = vec![first, (TIME, seconds)];
        samples.extend(busy.map(|busy| (CPU, busy)));
        samples.extend([(PLAIN, plain), (RELATIVE, seconds / plain)]);
        Ok(samples)
    }
}

impl OneCopy {
    /// Where the files are: the same for all stages.
    fn folder(&self, stage: &Stage) -> PathBuf {
        stage.shared().join("to-copy").join(self.name.replace('/', "_"))
    }

    /// Copies; how many seconds that took.
    fn copy(&self, stage: &Stage) -> Result<f64, Failure> {
        let folder = self.folder(stage);
        match self.by {
            By::Copy => timed(stage, || {
                let mut command = stage.copy()?;
                command.current_dir(&folder).stdin(Stdio::null()).stdout(Stdio::null());
                Running::start(&mut command, "the copy")?.finish()
            }),
            By::Tar => timed(stage, || tar(stage, &folder)),
        }
    }
}

fn tar(stage: &Stage, folder: &Path) -> Result<(), Failure> {
    let mut from = Command::new("tar");
    from.arg("-cSC").arg(folder).arg(stage::COPIED).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut from = Running::start(&mut from, "tar")?;
    let mut call = stage.call(None, stage::UNTAR)?;
    match from.child().stdout.take() {
        Some(output) => call.stdin(output),
        None => return Err(Failure::trouble("tar without a standard output")),
    };
    let to = Running::start(call.stdout(Stdio::null()), "the call of tar")?;
    from.finish()?;
    to.finish()
}

/// How long it takes until the disk has it.
fn timed(stage: &Stage, work: impl FnOnce() -> Result<(), Failure>) -> Result<f64, Failure> {
    let during = || Failure::during("the folder that is copied into");
    let folder = fs::File::open(stage.arrived()).map_err(during())?;
    let start = Instant::now();
    work()?;
    rustix::fs::syncfs(&folder).map_err(|error| during()(error.into()))?;
    Ok(start.elapsed().as_secs_f64())
}

/// Makes room for the next.
fn clear(stage: &Stage) -> Result<(), Failure> {
    let place = stage.arrived();
    let done = fs::remove_dir_all(&place).and_then(|()| fs::create_dir(&place));
    done.map_err(Failure::during("removing what was copied"))
}
