//! How much goes through one call.

use std::time::Duration;

use super::super::counters;
use super::super::roles::Load;
use super::super::scenario::{Case, Metric, Sample, Scenario};
use super::super::settings::{Buffer, Ends, Settings};
use super::super::stage::Stage;
use super::super::transfer::{Moved, Transfer, Way, direct, through_call};
use cli::failure::Failure;

const BANDWIDTH: Metric = Metric::higher("bandwidth", "GiB/s");
const CPU_CLIENT: Metric = Metric::lower("CPU", "client s/GiB");
const CPU_SERVICE: Metric = Metric::lower("CPU", "agent s/GiB");

/// What the yardstick is called.
const DIRECT: &str = "direct pipe of 1 MiB";

/// No machine moves less than this in a second.
const SLOWEST: u64 = 16 << 20;

/// Bytes in a GiB.
pub(super) const GIB: f64 = (1 << 30) as f64;

/// The scenario.
pub(in super::super) struct Throughput;

impl Scenario for Throughput {
    fn name(&self) -> &'static str {
        "throughput"
    }

    fn title(&self) -> &'static str {
        "bandwidth of one call, by --buffer-size"
    }

    fn cases(&self, settings: &Settings) -> Vec<Box<dyn Case>> {
        let mut cases: Vec<Box<dyn Case>> = vec![Box::new(Direct { bytes: settings.size })];
        cases.extend(transfers(settings).map(|through| Box::new(through) as Box<dyn Case>));
        cases
    }
}

/// Every transfer that is to be measured. Files at both ends would be a measurement of the files.
pub(super) fn transfers(settings: &Settings) -> impl Iterator<Item = Through> {
    let ways = [Way::Send, Way::Receive, Way::Both];
    let pairs = settings.ends.iter().flat_map(move |ends| ways.map(|way| (*ends, way)));
    let pairs = pairs.filter(|pair| *pair != (Ends::File, Way::Both));
    pairs.flat_map(move |(ends, way)| {
        let through =
            move |buffer: &Buffer| Through { way, ends, buffer: buffer.clone(), bytes: settings.size };
        settings.buffers.iter().map(through)
    })
}

/// Words for a way.
fn words(way: Way) -> &'static str {
    match way {
        Way::Send => "client sends",
        Way::Receive => "client receives",
        Way::Both => "both at once",
    }
}

pub(super) fn time_limit(bytes: u64) -> Duration {
    Duration::from_secs(15 + bytes / SLOWEST)
}

struct Direct {
    bytes: u64,
}

impl Case for Direct {
    fn label(&self) -> String {
        DIRECT.to_owned()
    }

    fn is_yardstick(&self) -> bool {
        true
    }

    fn patience(&self) -> Duration {
        time_limit(self.bytes)
    }

    fn rehearse(&self, stage: &Stage) -> Result<(), Failure> {
        direct(stage, Load { bytes: self.bytes, checked: true }).map(drop)
    }

    fn run(&self, stage: &Stage) -> Result<Vec<Sample>, Failure> {
        let moved = direct(stage, Load { bytes: self.bytes, checked: false })?;
        Ok(vec![(BANDWIDTH, moved.bytes_per_second() / GIB)])
    }
}

/// One transfer through a call.
#[derive(Clone, Debug)]
pub(super) struct Through {
    way: Way,
    ends: Ends,
    buffer: Buffer,
    bytes: u64,
}

impl Through {
    pub(super) fn name(&self) -> String {
        let ends = match self.ends {
            Ends::Pipe => "",
            Ends::File => ", file",
            Ends::Socket => ", socket",
        };
        format!("{}{ends}, {}", words(self.way), self.buffer)
    }

    pub(super) fn time_limit(&self) -> Duration {
        time_limit(self.bytes)
    }

    pub(super) fn has_file(&self) -> bool {
        self.ends == Ends::File
    }

    pub(super) fn check(&self, stage: &Stage) -> Result<(), Failure> {
        self.moved(stage, true).map(drop)
    }

    pub(super) fn moved(&self, stage: &Stage, checked: bool) -> Result<Moved, Failure> {
        let transfer = Transfer { way: self.way, ends: self.ends, buffer: self.buffer.size() };
        through_call(stage, transfer, Load { bytes: self.bytes, checked })
    }
}

impl Case for Through {
    fn label(&self) -> String {
        self.name()
    }

    fn yardstick(&self) -> Option<String> {
        Some(DIRECT.to_owned())
    }

    fn patience(&self) -> Duration {
        self.time_limit()
    }

    fn rehearse(&self, stage: &Stage) -> Result<(), Failure> {
        self.check(stage)
    }

    fn run(&self, stage: &Stage) -> Result<Vec<Sample>, Failure> {
        let moved = self.moved(stage, false)?;
        let mut samples = vec![(BANDWIDTH, moved.bytes_per_second() / GIB)];
        if let Some((client, service)) = moved.cpu {
            let gib = moved.bytes as f64 / GIB;
            samples.extend([(CPU_CLIENT, client / gib), (CPU_SERVICE, service / gib)]);
        }
        samples.extend(counters::samples(&moved.said.0, &moved.said.1, moved.bytes));
        Ok(samples)
    }
}
