//! The command line, which says what is to be measured.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use rustix::process::{Resource, getrlimit};

use super::scenario::Scenario;
use super::settings::{Buffer, Ends, Settings};
use super::{PROGRAM, counters, scenarios};
use cli::failure::Failure;
use cli::number;
use lab::Transport;

/// Idle calls at once, if nothing else is said.
const IDLE_CALLS: u64 = 2000;

/// Bytes of one transfer, if nothing else is said.
const SIZE: u64 = 256 << 20;

/// Bytes of a large file that is copied, if nothing else is said.
const LARGE: u64 = 2 << 30;

/// Where files cost no disk.
const MEMORY: &str = "/dev/shm";

/// Most bytes of one transfer.
const MAX_SIZE: u64 = 1 << 40;

/// Scenarios that look at our end only.
const APART: [&str; 3] = ["throughput", "latency", "calls"];

/// Measures qrexec: a lab of its own, real calls from one VM to another.
///
/// Every call goes the whole way: client, agent, daemon, policy, the other agent, service. A figure counts only if every
/// byte arrived; one transfer of each kind is compared byte by byte before it is measured.
#[derive(Debug, Parser)]
#[command(name = PROGRAM, version, max_term_width = 100, args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) action: Option<Action>,
    #[command(flatten)]
    pub(super) options: Options,
}

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Shows how the figures of NEW relate to those of OLD
    Compare {
        /// A file that --json has written
        old: PathBuf,
        /// Another one
        new: PathBuf,
        /// Ends with status 1 if a figure of NEW is worse than this many times that of OLD, and no run of one lies within
        /// the runs of the other: 0.97 allows 3 %
        #[arg(long, value_name = "FACTOR", value_parser = factor)]
        fail_below: Option<f64>,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// What to measure: throughput, cpu, life, latency, calls, scale, copy, remote, usb [default: throughput, latency, calls]; or profile alone
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    scenario: Vec<String>,
    /// How often each case is run [default: 5, but fewer on a slow machine, so that all is done in a minute]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: Option<u32>,
    /// How much one transfer moves, with K, M or G behind [default: 256M; for the scenario copy 2G]
    #[arg(long, value_name = "BYTES")]
    size: Option<String>,
    /// Rings for transfers: sizes as qrexec-client-vm takes them, or the word default
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "default,64K,1M")]
    buffer_size: Vec<String>,
    /// How large rings on shared memory are where no minimum asks for more [default: 1M]; Xen's have 64K
    #[arg(long, value_name = "SIZE", conflicts_with = "target")]
    ring: Option<String>,
    /// Leaves all processes where the scheduler puts them
    #[arg(long)]
    no_placement: bool,
    /// What the caller's ends of transfers are
    #[arg(long, value_enum, value_name = "LIST", value_delimiter = ',', default_value = "pipe")]
    ends: Vec<Ends>,
    /// Only cases whose name has one of these words in it
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    case: Vec<String>,
    /// What carries the bytes
    #[arg(long, value_enum, default_value = "shm")]
    transport: Transport,
    /// How the programs wait and move bytes
    #[arg(long, value_enum, default_value = "auto")]
    engine: Engine,
    /// How many calls one run of the scenario calls makes [default: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    calls: Option<u32>,
    /// How many of them are under way at a time
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,4,16,64")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1024))]
    abreast: Vec<u32>,
    /// How many loops keep processors busy beside it
    #[arg(long, value_name = "N", default_value = "0")]
    pub(super) busy: usize,
    /// How many seconds the scenario usb reads a camera
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = clap::value_parser!(u32).range(1..=3600))]
    camera: u32,
    /// How many idle calls the scenario scale has [default: 2000, or as many as the limits of this user allow]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    idle_calls: Option<u16>,
    /// How many files the scenario copy copies at a time
    #[arg(long, value_name = "N", default_value = "20000", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    files: u32,
    /// Lets the scenario copy copy this folder too
    #[arg(long, value_name = "DIR")]
    tree: Option<PathBuf>,
    /// Where files are made [default: the temporary folder; for the scenario copy /dev/shm]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Takes the programs that this folder has from there
    #[arg(long, value_name = "DIR")]
    pub(super) bin_dir: Option<PathBuf>,
    /// Measures the programs of this folder too, in turn, and shows how much faster the others are
    #[arg(long, value_name = "DIR")]
    pub(super) vs: Option<PathBuf>,
    /// Measures calls from this VM to this other one, on whatever carries them, instead of a lab. Over there, the service
    /// qrexec-bench must be this program
    #[arg(long, value_name = "VM", conflicts_with_all = ["vs", "bin_dir", "transport"])]
    pub(super) target: Option<String>,
    /// Shows what transfers cost the programs in system calls, sleeps and doorbells, where they tell
    #[arg(long)]
    counters: bool,
    /// Writes everything that was measured to this file
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Writes a page with plots of everything that was measured into this folder
    #[arg(long, value_name = "DIR")]
    pub(super) report: Option<PathBuf>,
    /// Measures next to nothing: whether everything works
    #[arg(long)]
    quick: bool,
}

/// Names the size of rings on shared memory.
const RING_VARIABLE: &str = "QREXEC_SHM_RING";
/// Names whether pumps go where their neighbours are.
const PLACEMENT_VARIABLE: &str = "QREXEC_PLACEMENT";

/// A number above 0.
fn factor(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(factor) if factor.is_finite() && factor > 0.0 => Ok(factor),
        _ => Err("expected a number above 0".to_owned()),
    }
}

/// `QREXEC_ENGINE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Engine {
    Auto,
    Poll,
    Uring,
}

/// What a command line asks for.
pub(super) struct Plan {
    /// In the order in which they are run.
    pub(super) scenarios: Vec<&'static dyn Scenario>,
    pub(super) settings: Settings,
    /// The folder in which files are made.
    pub(super) place: PathBuf,
}

impl Options {
    /// What is to be measured, and how. Checks everything that can be checked before anything is started.
    pub(super) fn plan(&self) -> Result<Plan, Failure> {
        let sized = |otherwise: u64| match &self.size {
            None => Ok(otherwise),
            Some(size) => number::parse_size(size, MAX_SIZE)
                .map_err(|error| Failure::usage(format!("--size={size}: {error}"))),
        };
        let (size, large) = (sized(SIZE)?, sized(LARGE)?);
        let buffers = self.buffer_size.iter().map(|text| buffer(text)).collect::<Result<_, _>>()?;
        let scenarios = chosen(&self.scenario)?;
        if self.target.is_some() {
            if let Some(one) = scenarios.iter().find(|one| !APART.contains(&one.name())) {
                return Err(Failure::usage(format!(
                    "--target: {} looks at both ends, which needs a lab",
                    one.name()
                )));
            }
            if self.ends.contains(&Ends::File) {
                return Err(Failure::usage("--target: not with files as ends"));
            }
        }
        let place = self.place(&scenarios);
        let quick = |quick: u32, usual: u32| if self.quick { quick } else { usual };
        let profile = scenarios.iter().any(|scenario| scenario.name() == scenarios::PROFILE);
        if profile && scenarios.len() > 1 {
            return Err(Failure::usage("a profile distorts other figures: --scenario=profile goes alone"));
        }
        let settings = Settings {
            compares: self.vs.is_some(),
            runs: self.runs.unwrap_or_else(|| quick(1, Settings::RUNS)),
            budget: self.runs.is_none().then_some(Settings::BUDGET),
            size: if self.quick { size.min(4 << 20) } else { size }.max(1),
            buffers,
            ends: self.ends.clone(),
            transport: self.target.is_none().then_some(self.transport),
            rounds: quick(20, 3000),
            calls: self.calls.unwrap_or_else(|| quick(4, 100)),
            abreast: self.abreast.iter().copied().take(if self.quick { 2 } else { usize::MAX }).collect(),
            files: if self.quick { self.files.min(30) } else { self.files },
            large: if self.quick { large.min(1 << 20) } else { large }.max(1),
            camera: if self.quick {
                Duration::from_millis(100)
            } else {
                Duration::from_secs(self.camera.into())
            },
            tree: self.tree.clone(),
            idle_calls: match self.idle_calls.map(usize::from).unwrap_or_else(most_idle_calls) {
                wanted if self.quick => wanted.min(3),
                wanted => wanted,
            },
            quick: self.quick,
            case: self.case.clone(),
            environment: self.environment(profile)?,
        };
        Ok(Plan { scenarios, settings, place })
    }

    /// In which folder files are made.
    fn place(&self, scenarios: &[&dyn Scenario]) -> PathBuf {
        let memory = Path::new(MEMORY);
        let copies = scenarios.iter().any(|one| one.name() == scenarios::COPY);
        match &self.folder {
            Some(wanted) => wanted.to_owned(),
            None if copies && memory.is_dir() => memory.to_owned(),
            None => std::env::temp_dir(),
        }
    }

    fn environment(&self, profile: bool) -> Result<Vec<(String, String)>, Failure> {
        let engine = match self.engine {
            Engine::Auto => "auto",
            Engine::Poll => "poll",
            Engine::Uring => "uring",
        };
        let mut environment = vec![("QREXEC_ENGINE".to_owned(), engine.to_owned())];
        let log = self.counters.then_some(counters::FILTER).or(profile.then_some(scenarios::PROFILE_FILTER));
        environment.extend(log.map(|filter| (cli::logging::VARIABLE.to_owned(), filter.to_owned())));
        if let Some(size) = &self.ring {
            let bytes = number::parse_size(size, ring::layout::MAX_RING as u64)
                .map_err(|error| Failure::usage(format!("--ring={size}: {error}")))?;
            environment.push((RING_VARIABLE.to_owned(), bytes.to_string()));
        }
        if self.no_placement {
            environment.push((PLACEMENT_VARIABLE.to_owned(), "off".to_owned()));
        }
        Ok(environment)
    }

    /// What matters for a comparison of two recordings.
    pub(super) fn command() -> Vec<String> {
        std::env::args_os().skip(1).map(|arg: OsString| arg.to_string_lossy().into_owned()).collect()
    }
}

/// As many idle calls as there should be, or as this user may have: each has three processes and, here and at the
/// agents, two descriptors.
fn most_idle_calls() -> usize {
    let limit = |resource, each: u64| getrlimit(resource).maximum.map_or(u64::MAX, |limit| limit / each);
    let most = limit(Resource::Nofile, 3).min(limit(Resource::Nproc, 4)).clamp(1, IDLE_CALLS);
    usize::try_from(most).unwrap_or(1)
}

fn buffer(text: &str) -> Result<Buffer, Failure> {
    if text == "default" {
        return Ok(Buffer(None));
    }
    match number::parse_size(text, ring::layout::MAX_RING as u64) {
        Ok(bytes) => Ok(Buffer(Some((text.to_owned(), bytes)))),
        Err(error) => Err(Failure::usage(format!("--buffer-size={text}: {error}"))),
    }
}

fn chosen(names: &[String]) -> Result<Vec<&'static dyn Scenario>, Failure> {
    let default = scenarios::DEFAULT.map(str::to_owned);
    let names = if names.is_empty() { default.as_slice() } else { names };
    // `usb` is all of them that begin with it.
    let is_meant = |scenario: &dyn Scenario, name: &str| {
        scenario.name().strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    if let Some(unknown) = names.iter().find(|name| !scenarios::ALL.iter().any(|one| is_meant(*one, name))) {
        return Err(Failure::usage(format!("there is no scenario {unknown}")));
    }
    let wanted = |scenario: &&&dyn Scenario| names.iter().any(|name| is_meant(**scenario, name));
    Ok(scenarios::ALL.iter().filter(wanted).copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(args: &[&str]) -> Result<Plan, String> {
        let cli = Cli::try_parse_from([&[PROGRAM], args].concat()).map_err(|error| error.to_string())?;
        cli.options.plan().map_err(|failure| failure.message)
    }

    fn settings(args: &[&str]) -> Result<Settings, String> {
        plan(args).map(|plan| plan.settings)
    }

    fn names(args: &[&str]) -> Vec<&'static str> {
        plan(args).unwrap().scenarios.iter().map(|scenario| scenario.name()).collect()
    }

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
        let compare = Cli::try_parse_from([PROGRAM, "compare", "a", "b"]).unwrap();
        assert!(matches!(compare.action, Some(Action::Compare { .. })));
    }

    #[test]
    fn scenarios_are_chosen_by_name() {
        assert_eq!(names(&[]), scenarios::DEFAULT);
        assert_eq!(names(&["--scenario", "scale", "cpu", "--quick"]), ["cpu", "scale"]);
        assert_eq!(names(&["--scenario=cpu,latency"]), ["cpu", "latency"]);
        assert_eq!(names(&["--scenario=usb"]), ["usb", "usb-control", "usb-camera"]);
        assert_eq!(names(&["--scenario=usb-control"]), ["usb-control"]);
        assert!(settings(&["--scenario", "speed"]).is_err() && settings(&["--scenario="]).is_err());
    }

    #[test]
    fn of_another_machine_only_the_calls_are_seen() {
        let apart = settings(&["--target=work"]).unwrap();
        assert!(apart.transport.is_none() && settings(&[]).unwrap().transport.is_some());
        for more in ["--scenario=scale", "--ends=file", "--vs=/bin"] {
            assert!(settings(&["--target=work", more]).is_err(), "{more}");
        }
    }

    #[test]
    fn sizes_are_checked() {
        let default = settings(&[]).unwrap();
        assert_eq!((default.size, default.buffers.len(), default.runs), (256 << 20, 3, 5));
        let buffers = settings(&["--buffer-size=4096,default"]).unwrap().buffers;
        assert_eq!(buffers.iter().map(Buffer::size).collect::<Vec<_>>(), [Some(4096), None]);
        assert!(settings(&["--buffer-size=1T"]).is_err());
        assert!(settings(&["--size=much"]).is_err());
        assert!(settings(&["--runs=0"]).is_err());
    }
}
