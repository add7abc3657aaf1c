//! What a transfer costs the qrexec processes, the programs at both ends not counted.

use std::time::Duration;

use super::super::scenario::{Case, Metric, Sample, Scenario};
use super::super::settings::Settings;
use super::super::stage::Stage;
use super::throughput::{GIB, Through, transfers};
use cli::failure::Failure;

const BOTH: Metric = Metric::lower("CPU", "s/GiB");
const CLIENT: Metric = Metric::lower("CPU", "client s/GiB");
const SERVICE: Metric = Metric::lower("CPU", "agent s/GiB");

/// The scenario.
pub(in super::super) struct Cpu;

impl Scenario for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn title(&self) -> &'static str {
        "processor time of qrexec-client-vm and of the agent's process for the call"
    }

    fn cases(&self, settings: &Settings) -> Vec<Box<dyn Case>> {
        // A client that reads or writes a file is gone before it can be asked.
        let known = transfers(settings).filter(|through| !through.has_file());
        known.map(|through| Box::new(Used(through)) as Box<dyn Case>).collect()
    }
}

struct Used(Through);

impl Case for Used {
    fn label(&self) -> String {
        self.0.name()
    }

    fn patience(&self) -> Duration {
        self.0.time_limit()
    }

    fn rehearse(&self, stage: &Stage) -> Result<(), Failure> {
        self.0.check(stage)
    }

    fn run(&self, stage: &Stage) -> Result<Vec<Sample>, Failure> {
        let moved = self.0.moved(stage, false)?;
        let (client, service) =
            moved.cpu.ok_or_else(|| Failure::trouble("the system does not tell what a process has used"))?;
        let gib = moved.bytes as f64 / GIB;
        Ok(vec![(BOTH, (client + service) / gib), (CLIENT, client / gib), (SERVICE, service / gib)])
    }
}
