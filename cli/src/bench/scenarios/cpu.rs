//! What a transfer costs the qrexec processes, the programs at both ends not counted.

use super::super::scenario::{Case, Metric, Sample, Scenario};
use super::super::settings::Settings;
use super::super::stage::Stage;
use super::super::transfer::Way;
use super::throughput::{GIB, Through};
use crate::failure::Failure;

const BOTH: Metric = Metric::lower("CPU", "s/GiB");
const CLIENT: Metric = Metric::lower("client", "s/GiB");
const SERVICE: Metric = Metric::lower("agent", "s/GiB");

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
        let case =
            |way, buffer| Box::new(Used(Through { way, buffer, bytes: settings.size })) as Box<dyn Case>;
        let ways = [Way::Send, Way::Receive, Way::Both].into_iter();
        ways.flat_map(|way| settings.buffers.iter().map(move |buffer| case(way, buffer.clone()))).collect()
    }
}

struct Used(Through);

impl Case for Used {
    fn label(&self) -> String {
        self.0.name()
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
